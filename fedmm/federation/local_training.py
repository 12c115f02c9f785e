"""The local objective, shared by every engine: what one client minimises in one step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray, Ragged
from fedmm.federation.candidates import draw_negatives, exclude_seen, gather_candidates
from fedmm.federation.client_data import Examples, Windows, collate, plan_cohort
from fedmm.federation.dropout import step_dropout
from fedmm.federation.row_updates import TouchedRows
from fedmm.models.fusion import GATE
from fedmm.models.layers import Dropout
from fedmm.models.losses import Exclusions, Questions
from fedmm.models.prototypes import is_prototype
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.transition import transition_scores
from fedmm.params import Params
from fedmm.seeding import numpy_stream, torch_stream

MEMORY_NEGATIVES = 255


@dataclass(frozen=True, eq=False)
class Step:
    """One local step of C clients, ready for the model."""

    batch: Batch
    questions: Questions
    dropout: Dropout


@dataclass(frozen=True, eq=False)
class UpdateBlock:
    """What C clients send after local training, stacked, and what they report of it."""

    clients: IntArray  # [C]
    deltas: Params  # stacked: client minus server
    weights: torch.Tensor  # [C]
    losses: torch.Tensor  # [C] mean over local steps
    load_balance_losses: torch.Tensor  # [C]
    touched: TouchedRows | None = None  # the item table's delta has these rows alone, [C, N, D]; None: all, [C, V, D]
    num_rows: IntArray | None = None  # [C] rows of the item table that travel; None: all

    def dense_deltas(self, num_items: int) -> Params:
        """The deltas with every row of the item table."""
        if self.touched is None:
            return self.deltas
        table = self.touched.dense(self.deltas[ITEM_TABLE], num_items + 1)
        return {**self.deltas, ITEM_TABLE: table}


@dataclass(frozen=True, eq=False)
class LocalTraining:
    """Everything local training needs besides parameters. Held-out items are not among it."""

    recommender: Recommender
    config: FederationConfig
    windows: Windows
    train: Ragged
    seed: int
    dtype: torch.dtype
    device: torch.device

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

    @property
    def num_negatives(self) -> int:
        """Training negatives a local step, 0 for the full softmax. Where nothing is set, the full softmax: it is worth
        more than any fusion. Memory experts must form numbers for every candidate, so they train on a sample."""
        if self.config.num_negatives is not None:
            return self.config.num_negatives
        return 0 if self.recommender.factorises else MEMORY_NEGATIVES

    @property
    def touches_rows_only(self) -> bool:
        """Whether a client reads and moves the rows of its own items and negatives alone: its candidates are sampled,
        and nothing decays the rows it does not read."""
        return self.num_negatives > 0 and not self.config.weight_decay

    @property
    def sends_touched_rows(self) -> bool:
        """Whether those rows alone travel. The server then sees which they are, though not which of them are the
        client's own."""
        return self.touches_rows_only and self.config.item_rows == "touched"

    @property
    def fits_local_tables(self) -> bool:
        """Whether training can do without the other rows: they are not touched, and all scores are products."""
        model = self.recommender
        products_only = model.factorises and model.config.scoring == "dot" and model.transition is None
        return self.touches_rows_only and products_only

    def warming_up(self, round_number: int) -> bool:
        """Whether only the backbone trains in this round (counted from 1)."""
        return round_number <= self.config.warmup_rounds

    def trainable(self, params: Params, round_number: int) -> list[str]:
        """Names of the parameters that train and travel in this round."""
        backbone_only = self.warming_up(round_number)
        fixed = set() if self.recommender.config.learn_gating else {GATE}
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
            plans = plan_cohort(local.windows, clients, local.config, local.seed, round_number)
        self._plans = plans
        names = [(round_number, *occasion, int(client)) for client in clients]
        self._dropout = [torch_stream(local.seed, "dropout", *name) for name in names]
        self._negatives = [numpy_stream(local.seed, "negatives", *name) for name in names]
        self._histories = [local.train[client] for client in clients]
        self._round_number = round_number
        self._draws: list[list[IntArray]] = []
        self._last: tuple[int, list[IntArray], Examples] | None = None
        self._whole: tuple[Examples, Exclusions | None, torch.Tensor | None] | None = None

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
            seen, transition = self._over_catalogue(histories, examples)
            questions = Questions(examples.targets, examples.row_weights, None, seen)
            return Step(Batch(examples.items, examples.rows, transition=transition), questions, dropout)
        candidates = gather_candidates(examples.targets, examples.row_weights, self.negatives(num_active))
        transition = self._transition(histories, examples, candidates.items)
        batch = Batch(examples.items, examples.rows, candidates.items, candidates.mask, transition)
        seen = self._seen(histories, examples, candidates.distinct)
        questions = Questions(candidates.target_index, examples.row_weights, candidates.mask, seen)
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
            num_items, number = self._local.recommender.num_items, self._local.num_negatives
            streams = zip(self._histories[:num_active], self._negatives, strict=False)
            self._draws.append([draw_negatives(history, num_items, number, stream) for history, stream in streams])
        return self._draws[-1][:num_active]

    @property
    def num_rows(self) -> IntArray | None:
        """[C]: rows of the item table that travel after the steps so far; None: all."""
        if not self._local.sends_touched_rows:
            return None
        draws = zip_longest(*self._draws, fillvalue=np.empty(0, np.int64))
        touched = [
            len(np.unique(np.concatenate([own, *drawn]))) for own, drawn in zip(self._histories, draws, strict=True)
        ]
        return np.array(touched, dtype=np.int64)

    def _over_catalogue(
        self, histories: list[IntArray], examples: Examples
    ) -> tuple[Exclusions | None, torch.Tensor | None]:
        """What the whole catalogue's candidates need; computed once for steps over the same windows."""
        if self._whole is None or self._whole[0] is not examples:
            seen = self._seen(histories, examples, None)
            self._whole = examples, seen, self._transition(histories, examples, None)
        return self._whole[1:]

    def _seen(self, histories: list[IntArray], examples: Examples, columns: list[IntArray] | None) -> Exclusions | None:
        if not self._local.config.exclude_seen:
            return None
        return exclude_seen(histories, examples.places, columns, self._local.device)

    def _transition(
        self, histories: list[IntArray], examples: Examples, candidates: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The transition expert's scores without each client's own counts."""
        table = self._local.recommender.transition
        if table is None or self._local.warming_up(self._round_number):
            return None
        return transition_scores(table, examples.items, examples.rows, candidates, histories)
