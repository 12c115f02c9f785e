"""The recommender: backbone, experts, router and fusion, as functions of parameters with a leading client axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.data.types import IntArray, ItemFeatures
from fedmm.errors import ConfigError
from fedmm.kernels.encoding import encode, encode_all, fits
from fedmm.models import sasrec
from fedmm.models.alignment import alignment_loss
from fedmm.models.cosine import cosine, mixture_cosine
from fedmm.models.experts import EXPERTS, Asked, Expert, Source
from fedmm.models.features import MODALITIES, FeatureTable, rows_of
from fedmm.models.fusion import FUSIONS, GATE, Mixture
from fedmm.models.layers import Dropout, KnownDropout, lookup, no_dropout, pick_rows
from fedmm.models.personal import USER_VECTOR, apart
from fedmm.models.router import init_router, load_balance_loss, route
from fedmm.models.scores import Constants, Scores, Term
from fedmm.models.surprise import surprise
from fedmm.models.workspace import Workspace
from fedmm.utils import params as algebra
from fedmm.utils.params import Params


@dataclass(frozen=True, eq=False)
class Batch:
    """One local step's rows for C clients: every real position of B windows predicts the next item."""

    items: Tensor  # [C, B, L] histories, padded on the right with 0
    rows: Tensor  # [C, R] positions that predict, flat over B * L
    candidates: Tensor | None = None  # [C, N] item indices; None is the whole catalogue 0..V-1
    candidate_mask: Tensor | None = None  # [C, N] real candidates; None: all but padding
    constants: Mapping[str, Constants] = field(default_factory=dict)  # [C, R, N] an expert; absent: made here


@dataclass(frozen=True, eq=False)
class Output:
    """Scores of one batch with what the model adds to the loss."""

    scores: Scores
    load_balance_loss: Tensor  # [C]
    alignment_loss: Tensor  # [C]; 0 where its weight is

    def penalty(self, config: ModelConfig) -> Tensor:
        """[C]: both, weighted."""
        return config.load_balance_weight * self.load_balance_loss + config.alignment_weight * self.alignment_loss


@dataclass(frozen=True, eq=False)
class Recommender:
    """What never trains: the settings, the catalogue's size and the item features. Parameters are passed in."""

    config: ModelConfig
    num_items: int
    tables: Mapping[str, FeatureTable]
    parts: Mapping[str, Expert] = field(default_factory=dict)  # by name, in the order of the router's outputs
    trained: Tensor | None = None  # [V] bool: the items that training knows of, padding not; None: all
    catalogue: Tensor | None = None  # [C, N] the items of each client's own catalogue; None: all share the whole one
    rounded: bool = False  # whether products of queries and keys are formed in bfloat16
    compiled: bool = False  # whether training takes the compiled kernels (``fedmm/kernels``), where they have a form

    @classmethod
    def build(
        cls,
        config: ModelConfig,
        num_items: int,
        features: Mapping[str, ItemFeatures],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        transition_counts: csr_matrix | None = None,
    ) -> Recommender:
        """A recommender over ``num_items`` items. With no features and no ``transition_counts`` (directed, [V, V]), or
        fusion "backbone", it is the backbone alone.

        Raises ConfigError where the kind of expert cannot do what ``config`` asks of it.
        """
        place = device or torch.device("cpu")
        names = [name for name in MODALITIES if name in features and config.fusion != "backbone"]
        tables = {name: FeatureTable.build(features[name], dtype, place) for name in names}
        if config.fusion == "backbone":
            return cls(config, num_items, tables)
        kind = EXPERTS[config.experts]
        check_kind(config, kind)
        source = functools.partial(
            Source, config=config, num_items=num_items, dtype=dtype, device=place, counts=transition_counts
        )
        parts: dict[str, Expert] = {}
        if kind.per_modality:
            parts |= {name: kind.build(source(name, table=table)) for name, table in tables.items()}
        else:
            parts[config.experts] = kind.build(source(config.experts, table=None))
        for name in config.further_experts if transition_counts is not None else ():
            parts[name] = EXPERTS[name].build(source(name, table=None))
        return cls(config, num_items, tables, parts)

    def with_tables(self, tables: Mapping[str, FeatureTable]) -> Recommender:
        """The same recommender over other features, with what its experts compute from them computed anew."""
        rebuilt = {name: type(part).build(replace(part.source, table=tables[name]))
                   for name, part in self.parts.items() if part.per_modality}  # fmt: skip
        return replace(self, tables=tables, parts={**self.parts, **rebuilt})

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts in the order of the router's outputs: the modalities, then those of the catalogue."""
        return tuple(self.parts)

    @property
    def has_gate(self) -> bool:
        """Whether there is a learnable gate."""
        return bool(self.experts) and self.config.fusion == "residual"

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        """Fresh parameters on the CPU. Draws the backbone first, so that the experts do not change it."""
        config = self.config
        params = sasrec.init_backbone(config, self.num_items, generator)
        for part in self.parts.values():
            params |= part.init(generator)
        if self.experts:
            fusion = FUSIONS[config.fusion]
            params |= init_router(self._router_width, len(self.experts) + fusion.routes_backbone)
            if fusion.routes_backbone:
                params["router.bias"][0] = config.router_bias_init
            params |= fusion.init(config)
        for part in self.parts.values():
            params |= part.init_fixed(generator)
        return {name: value.to(dtype) for name, value in params.items()}

    @staticmethod
    def is_backbone(name: str) -> bool:
        """Whether a parameter belongs to the backbone, all that trains during partial aggregation."""
        return name.startswith(sasrec.PREFIX)

    def forward(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        dropout: Dropout = no_dropout,
        *,
        experts: bool = True,
        embedded: Tensor | None = None,
        only: str | None = None,
        workspace: Workspace | None = None,
    ) -> Output:
        """Scores of ``batch.rows`` against the candidates. ``experts=False`` computes the backbone (partial
        aggregation). ``embedded`` [C, B, L, D] is the histories' rows of the item table, where the caller looked them
        up. ``only`` names the one expert that scores: no gate, no router, no backbone. ``workspace`` is where the
        compiled kernels work; without one torch encodes."""
        table = params[sasrec.ITEM_TABLE]
        hidden = self._encoded(params, batch.items, dropout, embedded, workspace)
        queries = sasrec.final_norm(params, pick_rows(hidden, batch.rows))
        if USER_VECTOR in params:
            queries = queries + apart(params[USER_VECTOR]).unsqueeze(1)
        item_keys = table if batch.candidates is None else lookup(table, batch.candidates)
        none = queries.new_zeros(len(queries))
        if not (experts and self.experts):
            return Output(self._backbone_scores(queries, item_keys), none, none)
        asked = self._asked(params, batch, hidden, item_keys)
        if self.compiled:
            asked = replace(asked, workspace=workspace)
        if only is not None:
            part, mixture = self._alone(only, batch.candidates, item_keys)
            return Output(part._fused_scores(params, asked, queries, batch.constants, mixture), none, none)
        weights = self.router_weights(params, batch.candidates, item_keys)
        mixture = FUSIONS[self.config.fusion].mix(params, weights)
        scores = self._fused_scores(params, asked, queries, batch.constants, mixture)
        balance = load_balance_loss(weights, self._candidate_mask(batch, weights))
        if not (self.config.alignment_weight and self.tables):
            return Output(scores, balance, none)
        embedded = lookup(table, batch.items) if embedded is None else embedded
        return Output(scores, balance, self._alignment(params, batch.items, embedded))

    def router_weights(self, params: Mapping[str, Tensor], candidates: Tensor | None, item_keys: Tensor) -> Tensor:
        """[C, N, M]: weights over the experts, after the backbone's own where the fusion routes it.

        The router reads item features, so it works for items never trained, or the item embedding, as the kind of
        expert has it.
        """
        present = torch.stack([rows_of(mask, candidates) for mask in self._presence], dim=-1)
        if FUSIONS[self.config.fusion].routes_backbone:
            present = torch.cat([torch.ones_like(present[..., :1]), present], dim=-1)
        if self.routes_by_items:
            return route(params, item_keys, present)
        if not self.tables:
            return route(params, item_keys, present)  # a router without inputs
        inputs = [rows_of(table.values, candidates) for table in self.tables.values()]
        return route(params, torch.cat(inputs, dim=-1).div_(math.sqrt(self._router_width)), present)

    def gating_weight(self, params: Mapping[str, Tensor]) -> float | None:
        """The gate's value: of the residual fusion, and of one's own that has ``fusion.gate``; None without one."""
        gate = params.get(GATE)
        return None if gate is None or gate.numel() != 1 else float(gate)

    def expert_weights(self, params: Mapping[str, Tensor]) -> dict[str, float]:
        """Each expert's router weight, averaged over the items that have any expert."""
        if not self.experts:
            return {}
        with torch.no_grad():
            table = params[sasrec.ITEM_TABLE].unsqueeze(0)
            weights = self.router_weights(algebra.expand_for_clients(params), None, table)[0, 1:]
            shares = weights[:, -len(self.experts) :]
            counted = shares.sum(-1) > 0
            means = shares[counted].mean(0).tolist()
        return dict(zip(self.experts, means, strict=True))

    @property
    def factorises(self) -> bool:
        """Whether all scores are products of queries and keys, or constants, so that nothing else per (position,
        candidate) is kept."""
        return all(part.factorises for part in self.parts.values())

    @property
    def fits_local_tables(self) -> bool:
        """Whether training can do with the rows of each client's own catalogue: no score needs any other."""
        return self.config.scoring == "dot" and all(part.local_tables for part in self.parts.values())

    @property
    def reads_counts(self) -> bool:
        """Whether every client receives the summed transition counts."""
        return any(part.reads_counts for part in self.parts.values())

    @property
    def constants(self) -> tuple[str, ...]:
        """The experts with a part that has no parameters: its scores stay what they are while a client trains."""
        return tuple(name for name, part in self.parts.items() if part.has_constants)

    def constant_scores(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> dict[str, Constants]:
        """Scores [C, R, N] of the parts without parameters, by expert, for ``Batch.constants``. ``histories`` [C] are
        the clients' own training histories, whose share in what clients summed is left out; None leaves out nothing."""
        asked = (items, rows, candidates, histories)
        parts = ((name, self.parts[name]) for name in self.constants)
        said = ((name, (part.compiled_constants if self.compiled else part.constants)(*asked)) for name, part in parts)
        return {name: scores for name, scores in said if scores is not None}

    def formed_per_row(self, num_negatives: int) -> int:
        """Numbers that training must form for each predicting position: none but the fused loss's own where all scores
        factorise and none are constants."""
        candidates = min(num_negatives or self.num_items, self.num_items)
        return sum(part.formed_per_row(candidates) for part in self.parts.values())

    @property
    def routes_by_items(self) -> bool:
        """Whether the router reads the item embedding."""
        return EXPERTS[self.config.experts].routes_by_items

    @property
    def _router_width(self) -> int:
        if self.routes_by_items:
            return self.config.hidden_dim
        return sum(table.width for table in self.tables.values())

    def _alone(self, name: str, candidates: Tensor | None, item_keys: Tensor) -> tuple[Recommender, Mixture]:
        """This recommender with one expert, and the mixture in which it alone speaks: 1 where an item has it, else
        0."""
        tables = {own: table for own, table in self.tables.items() if own == name}
        alone = replace(self, tables=tables, parts={name: self.parts[name]})
        (present,) = alone._presence
        own = rows_of(present, candidates).to(item_keys.dtype).expand(item_keys.shape[:-1])
        return alone, Mixture(torch.zeros_like(own), (own,))

    @property
    def _presence(self) -> list[Tensor]:
        """Each expert's mask of the items it can speak of."""
        return [part.present(self.tables, self.catalogue) for part in self.parts.values()]

    def asked(self, params: Mapping[str, Tensor], items: Tensor, rows: Tensor) -> Asked:
        """What the experts are asked at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L],
        about the whole catalogue."""
        hidden = sasrec.encode(params, items, self.config, no_dropout, None)
        return self._asked(params, Batch(items, rows), hidden, params[sasrec.ITEM_TABLE])

    def _asked(self, params: Mapping[str, Tensor], batch: Batch, hidden: Tensor, item_keys: Tensor) -> Asked:
        found = functools.cache(lambda: self._surprise(params, batch.items, hidden))
        return Asked(batch.items, batch.rows, batch.candidates, hidden, item_keys, self.tables, found)

    def _fused_scores(
        self,
        params: Mapping[str, Tensor],
        asked: Asked,
        queries: Tensor,
        given: Mapping[str, Constants],
        mixture: Mixture,
    ) -> Scores:
        coefficients = dict(zip(self.experts, mixture.experts, strict=True))
        scores = self._represented(params, asked, queries, mixture.backbone, coefficients)
        if self.constants and not given:
            given = self.constant_scores(asked.items, asked.rows, asked.candidates, None)
        for name, part in self.parts.items():
            own_queries, own_keys = part.term(params, asked) or (None, None)
            if own_keys is not None or name in given:
                scores = scores.plus(Term(own_queries, own_keys, coefficients[name], given.get(name)))
        return scores

    def _alignment(self, params: Mapping[str, Tensor], items: Tensor, embedded: Tensor) -> Tensor:
        temperature = self.config.alignment_temperature
        return alignment_loss(params, self.parts, self.tables, items, embedded, temperature)

    def _candidate_mask(self, batch: Batch, weights: Tensor) -> Tensor:
        if batch.candidate_mask is not None:
            return batch.candidate_mask
        if batch.candidates is None:
            return self.catalogue_mask(len(weights), weights.device)
        return torch.ones(weights.shape[:2], dtype=torch.bool, device=weights.device)

    def catalogue_mask(self, num_clients: int, device: torch.device) -> Tensor:
        """[C, V]: the whole catalogue's training candidates, the same for ``num_clients`` clients."""
        mask = self.trained
        if mask is None:
            mask = torch.ones(self.num_items + 1, dtype=torch.bool, device=device)
            mask[0] = False
        return mask.expand(num_clients, -1)

    def _encoded(
        self,
        params: Mapping[str, Tensor],
        items: Tensor,
        dropout: Dropout,
        embedded: Tensor | None,
        workspace: Workspace | None,
    ) -> Tensor:
        """States before the last norm, [C, B, L, D], by the compiled kernel where it can."""
        known = dropout is no_dropout or isinstance(dropout, KnownDropout)
        table = params[sasrec.ITEM_TABLE]
        able = self.compiled and known and fits(self.config, table)
        if workspace is None or not able:
            alone = able and not torch.is_grad_enabled() and len(items) == 1 and embedded is None
            states = encode_all(params, items, self.config, table[0]) if alone and dropout is no_dropout else None
            return sasrec.encode(params, items, self.config, dropout, embedded) if states is None else states
        rows = lookup(table, items) if embedded is None else embedded
        masks = dropout.all_sites() if isinstance(dropout, KnownDropout) else None
        return encode(params, items, self.config, masks, rows, workspace.taker("encoder", rows))

    def _backbone_scores(self, queries: Tensor, item_keys: Tensor) -> Scores:
        if self.config.scoring == "dot":
            return Scores((Term(queries, item_keys),), rounded=self.rounded, compiled=self.compiled)
        return Scores(
            (), cosine(torch.matmul(queries, item_keys.mT), queries.square().sum(-1, keepdim=True), item_keys)
        )

    def _represented(
        self,
        params: Mapping[str, Tensor],
        asked: Asked,
        queries: Tensor,
        backbone: Tensor | None,
        coefficients: Mapping[str, Tensor],
    ) -> Scores:
        """The backbone's scores with those of the experts that do not factorise."""
        dense = [name for name, part in self.parts.items() if not part.factorises]
        own = Term(queries, asked.item_keys, backbone)
        if not dense:
            return Scores((own,), rounded=self.rounded, compiled=self.compiled)
        said = [self.parts[name].represent(params, asked) for name in dense]
        weights = [coefficients[name] for name in dense]
        if self.config.scoring == "dot":
            dots = [w.unsqueeze(1) * part.dot(asked.item_keys) for w, part in zip(weights, said, strict=True)]
            return Scores((own,), torch.stack(dots).sum(0), rounded=self.rounded, compiled=self.compiled)
        return Scores((), mixture_cosine(queries, asked.item_keys, backbone, weights, said))

    def _surprise(self, params: Mapping[str, Tensor], items: Tensor, hidden: Tensor) -> Tensor:
        """Each entry's loss under the backbone, over the whole catalogue."""
        with torch.no_grad():
            queries, table = sasrec.final_norm(params, hidden[:, :, :-1]), params[sasrec.ITEM_TABLE]

            def score(some: Tensor) -> Tensor:
                return self._backbone_scores(some, table).materialise()

            return surprise(score, queries, items, self.num_items, self.trained)


def check_kind(config: ModelConfig, kind: type[Expert]) -> None:
    """Raises ConfigError where experts of ``kind`` cannot do what ``config`` asks of them."""
    if config.scoring == "cosine" and not kind.represents:
        raise ConfigError(
            f'model.scoring "cosine" needs experts with a representation, and {config.experts!r} has none.',
            'Set model.scoring "dot", or other model.experts.',
        )
    if config.alignment_weight and not kind.projects:
        raise ConfigError(
            f"model.alignment_weight {config.alignment_weight} has no effect on experts {config.experts!r}, which "
            "project no features.",
            "Set model.alignment_weight 0, or other model.experts.",
        )
