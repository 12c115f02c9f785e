"""Local catalogues: with sampled candidates a client meets its own items and its negatives, and nothing else.

For a block of C clients each one's items of a round are numbered from 0: padding, the items of its training history,
its negatives. Item tables, features, histories, targets and candidates are re-indexed into these catalogues, so that
what a client holds, computes and sends grows with what it touches and not with the size of the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation.candidates import NEVER
from fedmm.federation.client_data import Examples
from fedmm.federation.local_training import LocalTraining, StepStream
from fedmm.models.features import FeatureTable
from fedmm.models.layers import Dropout
from fedmm.models.losses.batched import CatalogueQuestions
from fedmm.models.recommender import Batch


@dataclass(frozen=True, eq=False)
class Catalogues:
    """The catalogues of C clients in one round. Column 0 is padding, columns 1..H are a client's own items in ascending
    order, the rest its negatives of all draws, ascending; what a client does not fill names item 0."""

    items: IntArray  # [C, N]
    num_touched: IntArray  # [C] columns that are filled, padding not counted
    met_at: IntArray  # [C, H] the place of an own item in its history; NEVER for items met more than once
    draws: tuple[IntArray, ...]  # columns of each draw's negatives, [C', n] over the clients that took part; 0 = none
    own_keys: IntArray  # ascending: client * V + item of every own item
    own_first: IntArray  # [C + 1] where each client's own items begin in ``own_keys``
    num_rows: int  # V

    @classmethod
    def build(cls, histories: Sequence[IntArray], draws: Sequence[Sequence[IntArray]], num_rows: int) -> Catalogues:
        """``draws[s][c]`` are the negatives of client c in draw s; later draws may have fewer clients, the first
        ones."""
        C = len(histories)
        owner = np.repeat(np.arange(C), [len(own) for own in histories])
        keys = owner * num_rows + np.concatenate(histories)
        own_keys, first, counts = np.unique(keys, return_index=True, return_counts=True)
        own_first = np.searchsorted(own_keys, np.arange(C + 1) * num_rows)
        begins = np.searchsorted(owner, np.arange(C))
        H = int(np.diff(own_first).max())
        own_client, own_column = _columns(own_keys, own_first, num_rows)
        met_at = np.full((C, H), NEVER)
        met_at[own_client, own_column] = np.where(counts == 1, first - begins[own_client], NEVER)

        flat = [_flat_keys(draw, num_rows) for draw in draws]
        drawn_keys, inverse = np.unique(np.concatenate(flat), return_inverse=True)
        drawn_first = np.searchsorted(drawn_keys, np.arange(C + 1) * num_rows)
        drawn_client, drawn_column = _columns(drawn_keys, drawn_first, num_rows)
        N = 1 + H + int(np.diff(drawn_first).max())
        items = np.zeros((C, N), dtype=np.int64)
        items[own_client, 1 + own_column] = own_keys % num_rows
        items[drawn_client, 1 + H + drawn_column] = drawn_keys % num_rows
        ends = np.cumsum([len(own) for own in flat])
        columns = [
            _padded(1 + H + drawn_column[inverse[end - len(own) : end]], [len(part) for part in draw])
            for own, draw, end in zip(flat, draws, ends, strict=True)
        ]
        touched = np.diff(own_first) + np.diff(drawn_first)
        return cls(items, touched, met_at, tuple(columns), own_keys, own_first, num_rows)

    @property
    def num_own(self) -> int:
        """H."""
        return int(self.met_at.shape[1])

    def columns_of(self, items: Tensor) -> Tensor:
        """Columns [C', ...] of own items ``items`` [C', ...] of the first C' clients; padding stays 0."""
        given = items.cpu().numpy()
        clients = np.arange(len(given)).reshape(-1, *[1] * (given.ndim - 1))
        found = np.searchsorted(self.own_keys, clients * self.num_rows + given) - self.own_first[clients] + 1
        return torch.from_numpy(np.where(given == 0, 0, found)).to(items.device)


@dataclass(frozen=True, eq=False)
class CatalogueStep:
    """One local step of C clients over catalogues of S columns: the round's, or those of them that the step touches."""

    batch: Batch  # items are columns; the candidates are the whole catalogue, under a mask
    questions: CatalogueQuestions
    dropout: Dropout
    items: Tensor  # [C, S] the catalogue's items
    tables: Mapping[str, FeatureTable]  # features [C, S, F] of the catalogue's items
    columns: Tensor | None  # [C, S] where the step's columns stand among the round's; None: they are the round's


class CatalogueSteps:
    """The local steps of a block over its catalogues: the same draws as ``StepStream``'s, made before the first step.

    Clients must be in order of falling number of steps.
    """

    def __init__(self, local: LocalTraining, clients: IntArray, round_number: int) -> None:
        self._local = local
        self._stream = StepStream(local, clients, round_number)
        self.num_steps = self._stream.num_steps
        self._once = local.config.negatives_per == "round"
        num_draws = 1 if self._once else int(self.num_steps.max())
        draws = [self._stream.negatives(int((self.num_steps > draw).sum())) for draw in range(num_draws)]
        self.catalogues = Catalogues.build(self._stream.histories, draws, local.recommender.num_items + 1)
        self.items = torch.from_numpy(self.catalogues.items).to(local.device)
        met_at = torch.from_numpy(self.catalogues.met_at).to(local.device)
        self._pairwise = local.loss.pairwise
        self._met_at = met_at if local.config.exclude_seen and not self._pairwise else None
        self._last: tuple[Examples, CatalogueStep] | None = None

    def step(self, index: int, num_active: int) -> CatalogueStep:
        """Step ``index`` of the first ``num_active`` clients."""
        examples = self._stream.examples(index, num_active)
        dropout = self._stream.dropout(examples)
        if self._last is not None and self._last[0] is examples:
            last = self._last[1]
            if self._once:
                return CatalogueStep(last.batch, last.questions, dropout, last.items, last.tables, None)
            batch, targets = last.batch.items, last.questions.targets
        else:
            batch, targets = (self.catalogues.columns_of(part) for part in (examples.items, examples.targets))
        negatives = torch.from_numpy(self.catalogues.draws[0 if self._once else index][:num_active])
        columns = self._step_columns(negatives.to(targets.device))
        mask = self._candidates(targets, columns)
        met_at = None if self._met_at is None else self._met_at[:num_active]
        places = torch.from_numpy(examples.places).to(targets.device)
        items = self.items[:num_active] if self._once else self.items[:num_active].gather(1, columns)
        step = CatalogueStep(
            Batch(batch, examples.rows, None, mask, self._stream.constants(examples, items)),
            CatalogueQuestions(
                targets,
                examples.row_weights,
                self._ranked(mask),
                met_at,
                places,
                self._stream.offsets(self._drawn(columns), num_active),
                self._stream.target_power(num_active),
            ),
            dropout,
            items,
            {name: table.at(items) for name, table in self._local.recommender.tables.items()},
            None if self._once else columns,
        )
        self._last = (examples, step)
        return step

    def _ranked(self, mask: Tensor) -> Tensor:
        """[C, S]: the candidates that all rows share. A pairwise loss has each row's own target besides, so where a
        client's items are no negatives the drawn ones are all."""
        if not (self._pairwise and self._local.config.exclude_seen):
            return mask
        return mask & self._drawn(mask)

    def _drawn(self, columns: Tensor) -> Tensor:
        """[S]: which of a step's columns, the last axis, are no own item's and no padding."""
        return torch.arange(columns.shape[-1], device=columns.device) > self.catalogues.num_own

    def _step_columns(self, negatives: Tensor) -> Tensor:
        """[C, 1 + H + n]: the columns of padding, of a client's own items and of the step's negatives."""
        own = torch.arange(1 + self.catalogues.num_own, device=negatives.device)
        return torch.cat([own.expand(len(negatives), -1), negatives], dim=1)

    def _candidates(self, targets: Tensor, columns: Tensor) -> Tensor:
        """[C, S]: the step's own targets and its negatives."""
        mask = columns > 0
        mask[:, : 1 + self.catalogues.num_own] = False
        mask.scatter_(1, targets, True)
        mask[:, 0] = False
        return mask


def _columns(keys: IntArray, first: IntArray, num_rows: int) -> tuple[IntArray, IntArray]:
    """The client of each key, and how many of its keys stand before it."""
    client = keys // num_rows
    return client, np.arange(len(keys)) - first[client]


def _flat_keys(draw: Sequence[IntArray], num_rows: int) -> IntArray:
    owner = np.repeat(np.arange(len(draw)), [len(own) for own in draw])
    keys: IntArray = owner * num_rows + np.concatenate(draw)
    return keys


def _padded(flat: IntArray, lengths: Sequence[int]) -> IntArray:
    """[rows, longest]: rows of the given lengths out of ``flat``, padded at the end with 0."""
    table = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    table[np.arange(table.shape[1]) < np.array(lengths)[:, None]] = flat
    return table
