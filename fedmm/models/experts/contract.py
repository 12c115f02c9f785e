"""What an expert is: one part that adds scores to the backbone's, weighed by the router candidate by candidate.

An expert answers R positions of C clients about N candidates in up to three ways, and its score is their sum:

    score(l, t) = <query(l), key(t)>       ``term``: a product, which never forms [R, N] numbers of its own
                + constant(l, t)           ``constants``: numbers without parameters, made once and trained past
                + <A(l, t), E_t>           ``represent``: whatever does not factorise

The model multiplies the sum by the router's weight and the gate. A kind of expert is one class; the registry
``fedmm.models.experts.EXPERTS`` gives it the name by which ``model.experts`` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.data.types import IntArray
from fedmm.models.features import FeatureTable
from fedmm.models.scores import SparseScores
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class Source:
    """What an expert is built from; nothing in it trains. V is the number of items and 1: item 0 is padding."""

    name: str  # the expert's: its modality's, or its kind's where it speaks of the whole catalogue
    config: ModelConfig
    num_items: int  # V - 1
    table: FeatureTable | None  # the modality's features; None for an expert of the whole catalogue
    dtype: torch.dtype
    device: torch.device
    counts: csr_matrix | None = None  # directed transition counts [V, V], summed over all clients, where they travel

    @property
    def features(self) -> FeatureTable:
        """The modality's features. Raises ValueError for an expert of the whole catalogue."""
        if self.table is None:
            raise ValueError(f"expert {self.name!r} belongs to no modality")
        return self.table


@dataclass(frozen=True, eq=False)
class Asked:
    """What a forward pass asks of every expert: R positions of C clients about N candidates.

    Over catalogues of each client's own (``Expert.local_tables``) items are columns of those, and ``tables`` follow.
    """

    items: Tensor  # [C, B, L] histories, padded on the right with 0
    rows: Tensor  # [C, R] positions that ask, flat over B * L
    candidates: Tensor | None  # [C, N] item indices; None: the whole catalogue, N = V
    hidden: Tensor  # [C, B, L, D] the backbone's states before its last norm
    item_keys: Tensor  # [C, N, D] the candidates' rows of the item table
    tables: Mapping[str, FeatureTable]  # by modality
    surprise: Callable[[], Tensor]  # [C, B, L] the backbone's own loss on every entry of the histories, over ln V
    workspace: Workspace | None = None  # of the compiled kernels, where training takes them: all real positions ask


class Representation(Protocol):
    """A vector A(l, t) of width D for every position and candidate, never formed."""

    def dot(self, vectors: Tensor) -> Tensor:
        """<A(l, t), v_t> [C, R, N] for one vector a candidate, [C, N, D]."""
        ...

    def span(self) -> tuple[Tensor, Tensor]:
        """A basis [C, R, S, D] and coefficients [C, R, S, N] with A(l, t) = sum_s coefficients[s, t] basis[s]."""
        ...


@dataclass(frozen=True, eq=False)
class Expert:
    """One expert, which adds scores to the backbone's. Each part that is not given adds nothing.

    Shapes: C clients, B windows of L items, R positions that ask, N candidates, D ``hidden_dim``, F a modality's
    width, V items with padding. Every parameter has a leading client axis [C, ...] when it is used, and none when it
    is made. Scores at a position may depend on items up to that position alone.

    A whole kind, which asks how alike the last item and a candidate are:

    >>> import torch
    >>> from fedmm.models.experts import Asked, Expert
    >>> from fedmm.models.features import rows_of
    >>> from fedmm.models.layers import pick_rows
    >>> class LastItem(Expert):
    ...     local_tables = True  # reads items' features through ``asked.tables`` alone
    ...
    ...     def init(self, generator):
    ...         return {f"{self.name}.scale": torch.ones((), dtype=torch.float64)}
    ...
    ...     def term(self, params, asked):
    ...         table = asked.tables[self.name]
    ...         last = pick_rows(table.at(asked.items).values, asked.rows)
    ...         scale = params[f"{self.name}.scale"].view(-1, 1, 1)
    ...         return scale * last, rows_of(table.values, asked.candidates)

    The same over three items, asked after item 1 and after items 1 and 2:

    >>> from fedmm.config import ModelConfig
    >>> from fedmm.models.experts import Source
    >>> from fedmm.models.features import FeatureTable
    >>> values = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 2.0]])
    >>> table = FeatureTable(values, torch.tensor([False, True, True, True]))
    >>> expert = LastItem.build(Source("visual", ModelConfig(), 3, table, torch.float32, torch.device("cpu")))
    >>> params = {name: value.float().unsqueeze(0) for name, value in expert.init(torch.Generator()).items()}
    >>> items, rows, unused = torch.tensor([[[1, 2]]]), torch.tensor([[0, 1]]), torch.empty(0)
    >>> asked = Asked(items, rows, None, unused, unused, {"visual": table}, lambda: unused)
    >>> queries, keys = expert.term(params, asked)
    >>> (queries @ keys.mT).tolist()
    [[[0.0, 1.0, 0.5, 0.0], [0.0, 0.5, 0.5, 1.0]]]
    """

    source: Source
    mask: Tensor | None = None  # [V] bool, of an expert of the whole catalogue: the items it speaks of; None: all

    per_modality: ClassVar[bool] = True  # one expert a modality; False: one for the whole catalogue
    factorises: ClassVar[bool] = True  # ``represent`` says nothing, so that nothing per (position, candidate) is kept
    has_constants: ClassVar[bool] = False  # ``constants`` says something
    represents: ClassVar[bool] = False  # ``represent`` has a ``span``: what cosine scoring needs
    projects: ClassVar[bool] = False  # ``project`` exists: what the alignment loss needs
    routes_by_items: ClassVar[bool] = False  # the router reads the item embedding, else the features of all modalities
    local_tables: ClassVar[bool] = False  # right over catalogues of each client's own, whose items are renumbered
    reads_counts: ClassVar[bool] = False  # all clients receive the summed transition counts

    @classmethod
    def build(cls, source: Source) -> Self:
        """The expert over a catalogue; what never trains is computed here, once."""
        return cls(source)

    @property
    def name(self) -> str:
        """The expert's name, which its parameters' names begin with: ``"<name>.scale"``."""
        return self.source.name

    def present(self, tables: Mapping[str, FeatureTable], catalogue: Tensor | None = None) -> Tensor:
        """The items it can speak of, bool [V]; elsewhere its weight is 0. Over catalogues of each
        client's own [C, N], whose columns are the items ``catalogue`` [C, N]."""
        if self.per_modality:
            return tables[self.name].present
        known = self.mask
        if known is None:
            known = torch.arange(self.source.num_items + 1, device=self.source.device) > 0
        return known if catalogue is None else known[catalogue]

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, float64 on the CPU, without a client axis."""
        del generator
        return {}

    def init_fixed(self, generator: torch.Generator) -> Params:
        """What stands among the parameters and does not train (``fedmm.models.prototypes``); drawn after all
        parameters."""
        del generator
        return {}

    def term(self, params: Mapping[str, Tensor], asked: Asked) -> tuple[Tensor, Tensor] | None:
        """Queries [C, R, K] and keys [C, N, K], or [N, K] where all clients share them, of any width K."""
        del params, asked
        return None

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | SparseScores | None:
        """Scores [C, R, N] without parameters, at ``rows`` [C, R] (flat over B * L) of ``items`` [C, B, L], which are
        item indices always. ``histories`` [C] are the clients' own training histories, whose part in anything summed
        over clients must be left out; None leaves out nothing."""
        del items, rows, candidates, histories
        return None

    def compiled_constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | SparseScores | None:
        """``constants`` but for rounding, by a compiled kernel where the kind has one and the machine builds it."""
        return self.constants(items, rows, candidates, histories)

    def represent(self, params: Mapping[str, Tensor], asked: Asked) -> Representation:
        """A representation of every position for every candidate, where the kind does not factorise."""
        raise NotImplementedError(f"{type(self).__name__} factorises")

    def project(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """Features [C, n, F] projected to [C, n, D], where the kind ``projects``."""
        raise NotImplementedError(f"{type(self).__name__} projects no features")

    def formed_per_row(self, num_candidates: int) -> int:
        """Numbers that training forms for each position that asks, without the loss's own: blocks of clients are cut
        by it."""
        return num_candidates if self.has_constants else 0


@dataclass(frozen=True, eq=False)
class DenseScores:
    """Scores [C, R, N] as a ``Representation``, for an expert that has nothing but them."""

    scores: Tensor

    def dot(self, vectors: Tensor) -> Tensor:
        """The scores."""
        del vectors
        return self.scores

    def span(self) -> tuple[Tensor, Tensor]:
        """There is none: raises ValueError."""
        raise ValueError("scores alone have no representation to normalise")
