"""The local objective, shared by every engine: what one client minimises in one step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray, Ragged
from fedmm.federation.candidates import collect_candidates, draw_negatives, exclude_own, exclude_seen, shares_drawn
from fedmm.federation.client_data import Examples, Windows, collate, plan_cohort
from fedmm.federation.client_states import NO_STATES, Carried, ClientStates
from fedmm.federation.dropout import step_dropout
from fedmm.federation.row_updates import TouchedRows
from fedmm.models.fusion import GATE
from fedmm.models.layers import Dropout
from fedmm.models.losses.pairwise import gbce_power
from fedmm.models.losses.registry import LOSSES, Loss
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.personal import personal_zeros
from fedmm.models.prototypes import is_prototype
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.scores import Constants
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream

MEMORY_NEGATIVES = 255
PAIRWISE_NEGATIVES = 256


@dataclass(frozen=True, eq=False)
class Step:
    """One local step of C clients, ready for the model."""

    batch: Batch
    questions: Questions
    dropout: Dropout


@dataclass(frozen=True, eq=False)
class UpdateBlock:
    """What C clients send after local training, stacked, what they report of it, and what they keep."""

    clients: IntArray  # [C]
    deltas: Params  # stacked: client minus server
    weights: torch.Tensor  # [C]
    losses: torch.Tensor  # [C] mean over local steps
    load_balance_losses: torch.Tensor  # [C]
    touched: TouchedRows | None = None  # the item table's delta has these rows alone, [C, N, D]; None: all, [C, V, D]
    num_rows: IntArray | None = None  # [C] rows of the item table that travel; None: all
    control_deltas: Params = field(default_factory=dict)  # stacked: new minus old control variates (SCAFFOLD)
    states: Params = field(default_factory=dict)  # stacked: what stays with the clients, and is never sent
    rows: tuple[IntArray, ...] | None = None  # [C] which rows travel, where the delta has all; None: all
    coded: IntArray | None = None  # [C, 2] what codes come to (``step_updates``, ``largest_updates``)
    other_rows: torch.Tensor | None = None  # [V, D] the sum by ``weights`` of what the table's rows besides ``touched``
    # changed by, where the round asks for no more; None: they did not change

    def dense_deltas(self, num_items: int) -> Params:
        """The deltas with every row of the item table. Raises ValueError where some of them are known in sum only."""
        if self.other_rows is not None:
            raise ValueError("what each client's rows changed by is not known: training was asked for their sum")
        if self.touched is None:
            return self.deltas
        table = self.touched.dense(self.deltas[ITEM_TABLE], num_items + 1)
        return {**self.deltas, ITEM_TABLE: table}


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """Everything local training needs besides parameters. Held-out items are not among it. ``clients`` and ``control``
    are a round's: what its clients have kept, and the server's control variate, which travels with the parameters."""

    recommender: Recommender
    config: FederationConfig
    windows: Windows
    train: Ragged
    seed: int
    dtype: torch.dtype
    device: torch.device
    clients: ClientStates = NO_STATES
    control: Params = field(default_factory=dict)  # by parameter; absent: zero
    names: IntArray | None = None  # [U] what random streams call the clients, who are a few of many; None: 0..U-1
    sums_only: bool = False  # whether a round needs the sum of the updates by their weights, and no update of its own

    @classmethod
    def build(
        cls,
        recommender: Recommender,
        config: FederationConfig,
        train: Ragged,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> LocalTraining:
        """Cuts the training histories into windows."""
        windows = Windows.cut(train, recommender.config.max_length)
        return cls(recommender, config, windows, train, seed, dtype, device or torch.device("cpu"))

    def among(self, train: Ragged, names: IntArray, clients: ClientStates) -> LocalTraining:
        """The same training of a few clients of many, numbered from 0: their histories, what random streams call them
        [U], and what they have kept. What each learns is the same."""
        windows = Windows.cut(train, self.recommender.config.max_length)
        return replace(self, train=train, windows=windows, names=names, clients=clients)

    def names_of(self, clients: IntArray) -> IntArray:
        """[C]: what random streams call ``clients``."""
        return clients if self.names is None else self.names[clients]

    @property
    def loss(self) -> Loss:
        """What a client minimises, without the model's own penalties."""
        return LOSSES[self.config.loss]

    @property
    def formed_per_row(self) -> int:
        """Numbers that training must form for each predicting position, ``Recommender.formed_per_row``'s and the
        logits of a loss that is not fused."""
        num_items = self.recommender.num_items
        logits = min(self.num_negatives or num_items, num_items) if not self.loss.fused else 0
        return self.recommender.formed_per_row(self.num_negatives) + logits

    @property
    def num_negatives(self) -> int:
        """Training negatives a local step, 0 for the full softmax. Where nothing is set, the full softmax: it is worth
        more than any fusion. Memory experts must form numbers for every candidate, so they train on a sample; so do
        pairwise losses, whose authors sample (gBCE's published setting is 256)."""
        if self.config.num_negatives is not None:
            return self.config.num_negatives
        if self.loss.pairwise:
            return PAIRWISE_NEGATIVES
        return 0 if self.recommender.factorises else MEMORY_NEGATIVES

    def never_negatives(self, history: IntArray) -> IntArray:
        """Items that a client of this training history never draws: its own, and those that training does not know."""
        trained = self.recommender.trained
        if trained is None:
            return history
        return np.concatenate([history, np.flatnonzero(~trained.cpu().numpy())[1:]])

    @property
    def touches_rows_only(self) -> bool:
        """Whether a client moves the rows of its own items and negatives alone: its candidates are sampled, and nothing
        decays or corrects (SCAFFOLD) the others. What it reads is another matter (``reads_all_rows``)."""
        moves_all = self.config.weight_decay or self.uses_controls or self.table_is_frozen
        return self.num_negatives > 0 and not moves_all

    @property
    def table_is_frozen(self) -> bool:
        """Whether the item table stays as it started: nobody sends it, and clients receive it once."""
        return self.config.item_table == "frozen"

    @property
    def sends_touched_rows(self) -> bool:
        """Whether those rows alone are sent, and received where no others are read. The server then sees which they
        are, though not which of them are the client's own."""
        return self.touches_rows_only and self.config.item_rows == "touched"

    def reads_all_rows(self, round_number: int) -> bool:
        """Whether a client needs rows of the item table that it does not move: the surprise of a memory's entries is
        their loss over the whole catalogue."""
        return not self.recommender.factorises and not self.warming_up(round_number)

    @property
    def fits_local_tables(self) -> bool:
        """Whether training can do without the other rows: they are not touched, and no score needs them. A pairwise
        loss over catalogues has no place for constants."""
        model = self.recommender
        return self.touches_rows_only and model.fits_local_tables and not (self.loss.pairwise and model.constants)

    @property
    def uses_controls(self) -> bool:
        """Whether control variates correct local gradients."""
        return self.config.local_algorithm == "scaffold"

    def carried(self, server: Params, clients: IntArray, round_number: int) -> Carried:
        """What ``clients`` bring into the round in addition to the ``server``'s parameters. A warm-up takes no personal
        parts of experts."""
        model = self.recommender
        gate = model.has_gate and not self.warming_up(round_number)
        zeros = personal_zeros(model.config, server[ITEM_TABLE], gate=gate)
        control = None
        if self.uses_controls:
            trained = ((name, server[name]) for name in self.trainable(server, round_number))
            control = {name: self.control.get(name, torch.zeros_like(value)) for name, value in trained}
        return Carried.collect(self.clients, clients, zeros, control)

    def warming_up(self, round_number: int) -> bool:
        """Whether only the backbone trains in this round (counted from 1)."""
        return round_number <= self.config.warmup_rounds

    def trainable(self, params: Params, round_number: int) -> list[str]:
        """Names of the parameters that train and travel in this round."""
        backbone_only = self.warming_up(round_number)
        fixed = set() if self.recommender.config.learn_gating else {GATE}
        if self.table_is_frozen:
            fixed.add(ITEM_TABLE)
        if self.config.backbone == "frozen":
            fixed |= {name for name in params if self.recommender.is_backbone(name) and name != ITEM_TABLE}
        most = self.config.trained_size
        if most is not None:
            fixed |= {name for name, value in params.items() if value.numel() > most and name != ITEM_TABLE}
        fixed |= {name for name in params if is_prototype(name)}
        return [
            name for name in params if name not in fixed and (not backbone_only or self.recommender.is_backbone(name))
        ]

    def weights(self, clients: IntArray) -> torch.Tensor:
        """[C]: each client's weight in the mean."""
        if self.config.client_weighting == "uniform":
            return torch.ones(len(clients), dtype=self.dtype)
        return torch.from_numpy(self.windows.num_positions(clients)).to(self.dtype)

    def steps(self, clients: IntArray, round_number: int) -> StepStream:
        """The local steps of ``clients``, drawn from each one's own random streams."""
        return StepStream(self, clients, round_number)


class StepStream:
    """Makes the steps of a block one after the other; clients must be in order of falling number of steps."""

    def __init__(
        self,
        local: LocalTraining,
        clients: IntArray,
        round_number: int,
        plans: list[list[IntArray]] | None = None,
        occasion: tuple[int, ...] = (),
    ) -> None:
        """``plans`` are window numbers to take instead of the clients' own plans; ``occasion`` tells several streams of
        one client in one round apart."""
        self._local = local
        if plans is None:
            own = local.names_of(clients)
            plans = plan_cohort(local.windows, clients, local.config, local.seed, round_number, own)
        self._plans = plans
        names = [(round_number, *occasion, int(name)) for name in local.names_of(clients)]
        self._dropout = [torch_stream(local.seed, "dropout", *name) for name in names]
        self._negatives = [numpy_stream(local.seed, "negatives", *name) for name in names]
        self._histories = [local.train[client] for client in clients]
        self._round_number = round_number
        self._draws: list[list[IntArray]] = []
        self._last: tuple[int, list[IntArray], Examples] | None = None
        self._whole: tuple[Examples, Exclusions | None, dict[str, Constants]] | None = None

    @property
    def num_steps(self) -> IntArray:
        """[C]: local steps of each client."""
        return np.array([len(plan) for plan in self._plans], dtype=np.int64)

    @property
    def histories(self) -> list[IntArray]:
        """[C]: each client's training items."""
        return self._histories

    def step(self, index: int, num_active: int) -> Step:
        """Step ``index`` of the first ``num_active`` clients."""
        local = self._local
        examples = self.examples(index, num_active)
        dropout = self.dropout(examples)
        histories = self._histories[:num_active]
        if not local.num_negatives:
            seen, constants = self._over_catalogue(histories, examples)
            model = local.recommender
            mask = None if model.trained is None else model.catalogue_mask(num_active, local.device)
            power = self.target_power(num_active)
            questions = Questions(examples.targets, examples.row_weights, mask, seen, target_power=power)
            return Step(Batch(examples.items, examples.rows, constants=constants), questions, dropout)
        candidates = collect_candidates(examples.targets, examples.row_weights, self.negatives(num_active))
        constants = self.constants(examples, candidates.items)
        batch = Batch(examples.items, examples.rows, candidates.items, candidates.mask, constants)
        seen = self._seen(histories, examples, candidates.target_index, candidates.distinct)
        num_own = torch.tensor([len(own) for own in candidates.distinct], device=local.device)
        drawn = torch.arange(candidates.mask.shape[1], device=local.device) >= num_own.unsqueeze(1)
        questions = Questions(
            candidates.target_index,
            examples.row_weights,
            candidates.mask,
            seen,
            self.offsets(drawn, num_active),
            self.target_power(num_active),
        )
        return Step(batch, questions, dropout)

    def examples(self, index: int, num_active: int) -> Examples:
        """The windows of step ``index``, collated; the last collation where every client takes the same ones again."""
        chosen = [plan[index] for plan in self._plans[:num_active]]
        if self._last is not None:
            num_before, previous, examples = self._last
            if num_before == len(chosen) and all(map(np.array_equal, previous, chosen)):
                return examples
        examples = collate(self._local.windows, chosen, self._local.dtype, self._local.device)
        self._last = (len(chosen), chosen, examples)
        return examples

    def dropout(self, examples: Examples) -> Dropout:
        """The next step's dropout, drawn from the clients' streams."""
        local, model = self._local, self._local.recommender.config
        return step_dropout(
            model.dropout,
            self._dropout[: len(examples.num_windows)],
            examples.num_windows,
            examples.longest,
            model.num_blocks,
            model.hidden_dim,
            local.dtype,
            local.device,
        )

    def negatives(self, num_active: int) -> list[IntArray]:
        """The next step's negatives of the first ``num_active`` clients; the round's where they are drawn once."""
        if not self._draws or self._local.config.negatives_per == "step":
            local = self._local
            num_items, number = local.recommender.num_items, local.num_negatives
            barred = [local.never_negatives(history) for history in self._histories[:num_active]]
            streams = zip(barred, self._negatives, strict=False)
            self._draws.append([draw_negatives(own, num_items, number, stream) for own, stream in streams])
        return self._draws[-1][:num_active]

    @property
    def rows(self) -> tuple[IntArray, ...] | None:
        """[C]: the rows of the item table that travel after the steps so far, ascending; None: all."""
        if not self._local.sends_touched_rows:
            return None
        draws = zip_longest(*self._draws, fillvalue=np.empty(0, np.int64))
        return tuple(
            np.unique(np.concatenate([own, *drawn])) for own, drawn in zip(self._histories, draws, strict=True)
        )

    @property
    def num_rows(self) -> IntArray | None:
        """[C]: how many they are."""
        rows = self.rows
        return None if rows is None else np.array([len(own) for own in rows], dtype=np.int64)

    def _over_catalogue(
        self, histories: list[IntArray], examples: Examples
    ) -> tuple[Exclusions | None, dict[str, Constants]]:
        """What the whole catalogue's candidates need; computed once for steps over the same windows."""
        if self._whole is None or self._whole[0] is not examples:
            seen = self._seen(histories, examples, examples.targets, None)
            self._whole = examples, seen, self.constants(examples, None)
        return self._whole[1:]

    @cached_property
    def _shares(self) -> torch.Tensor:
        local = self._local
        barred = [local.never_negatives(history) for history in self._histories]
        shares = shares_drawn(barred, local.recommender.num_items, local.num_negatives)
        return torch.from_numpy(shares).to(device=self._local.device, dtype=self._local.dtype)

    def target_power(self, num_active: int) -> torch.Tensor | None:
        """[C]: gBCE's beta; None for other losses."""
        if not self._local.loss.calibrated:
            return None
        return gbce_power(self._shares[:num_active], self._local.config.gbce_calibration)

    def offsets(self, drawn: torch.Tensor, num_active: int) -> torch.Tensor | None:
        """[C, N]: minus the log of how often a candidate is expected, where ``drawn`` [C, N] or [N] says that it is a
        negative; 0 for a step's own targets, which are there for certain. None without the log-Q correction (Bengio &
        Senecal, 2008; Yi et al., RecSys 2019)."""
        if not self._local.config.logq_correction:
            return None
        return -self._shares[:num_active].log().unsqueeze(1) * drawn

    def _seen(
        self, histories: list[IntArray], examples: Examples, targets: torch.Tensor, columns: list[IntArray] | None
    ) -> Exclusions | None:
        if not self._local.config.exclude_seen:
            return None
        if self._local.loss.pairwise:
            return exclude_own(histories, targets, columns, self._local.device)
        return exclude_seen(histories, examples.places, columns, self._local.device)

    def constants(self, examples: Examples, candidates: torch.Tensor | None) -> dict[str, Constants]:
        """What the constant experts say of ``candidates`` [C, N], the transition expert without each client's own
        counts; nothing while only the backbone trains."""
        if self._local.warming_up(self._round_number):
            return {}
        histories = self._histories[: len(examples.items)]
        return self._local.recommender.constant_scores(examples.items, examples.rows, candidates, histories)
