"""A round's updates through the chain: each client's vector sent, the vectors added up, the sum undone."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedmm.federation.aggregation import UpdateSum, sum_updates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.transforms.contract import Bound, Stage, StageCost, TransformRound
from fedmm.federation.transforms.registry import UPDATE_TRANSFORMS
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.timing import OFF, Timer

FACT_SHARE = 0.01  # a loss of 1 takes this share of the clipping bound, where losses are released with noise
BIT_SHARE = 0.1  # what a client says of its norm takes this share of the clipping bound, one way or the other


@dataclass(frozen=True, eq=False)
class Layout:
    """How updates lie in a vector: parameter by parameter, then the two losses and whether the norm is within a bound,
    where they are part of it."""

    shapes: Mapping[str, torch.Size]
    fact_scale: float = 0.0  # of the losses; 0: they are not part of the vector
    bound: float = 0.0  # that the norm is compared with; 0: it is not

    @property
    def parts(self) -> tuple[int, ...]:
        """Lengths of the parts."""
        beside = (*((2,) if self.fact_scale else ()), *((1,) if self.bound else ()))
        return (*(shape.numel() for shape in self.shapes.values()), *beside)

    @property
    def table(self) -> tuple[int, int, int] | None:
        """Where the item table begins, its rows and its columns; None where it is not sent."""
        if ITEM_TABLE not in self.shapes:
            return None
        before = itertools.takewhile(lambda name: name != ITEM_TABLE, self.shapes)
        rows, columns = self.shapes[ITEM_TABLE]
        return sum(self.shapes[name].numel() for name in before), rows, columns

    def known_to(self, turn: TransformRound) -> TransformRound:
        """``turn`` with where things lie in a vector."""
        return replace(turn, parts=self.parts, table=self.table)

    def pack(self, block: UpdateBlock, num_items: int) -> Tensor:
        """[C, P]."""
        deltas = block.dense_deltas(num_items)
        flat = [deltas[name].reshape(len(block.clients), -1) for name in self.shapes]
        if self.fact_scale:
            flat.append(torch.stack([block.losses, block.load_balance_losses], dim=1) * self.fact_scale)
        if self.bound:
            norms = torch.linalg.vector_norm(torch.cat(flat[: len(self.shapes)], dim=1), dim=1, keepdim=True)
            flat.append(((norms <= self.bound).to(norms) - 0.5) * 2 * BIT_SHARE * self.bound)
        return torch.cat(flat, dim=1)

    def unpack(self, total: Tensor) -> tuple[Params, Tensor | None, Tensor | None]:
        """The sum's parameters, its losses [2], and how many clients more were within the bound than beyond it; None
        where they are not part of it."""
        pieces = torch.split(total, list(self.parts))
        deltas = {name: piece.view(shape) for piece, (name, shape) in zip(pieces, self.shapes.items(), strict=False)}
        facts = pieces[len(self.shapes)] / self.fact_scale if self.fact_scale else None
        return deltas, facts, pieces[-1] / (BIT_SHARE * self.bound) if self.bound else None


def stages_of(names: Iterable[str], turn: TransformRound) -> list[tuple[str, Stage]]:
    """The named stages of a round, each built on the bound of what the one before it sends."""
    bound, stages = Bound(sum(turn.parts)), []
    for name in names:
        stage = UPDATE_TRANSFORMS[name](turn, bound)
        stages.append((name, stage))
        bound = stage.bound
    return stages


def final_bound(turn: TransformRound) -> Bound:
    """What is known of a vector after the round's chain."""
    stages = stages_of(turn.config.update_transforms, turn)
    return stages[-1][1].bound if stages else Bound(sum(turn.parts))


def vector_bytes(bound: Bound) -> int:
    """Bytes of one client's vector at a place in the chain, its numbers packed."""
    return math.ceil(bound.width * bound.bits / 8)


def chained_sum(
    updates: Iterable[UpdateBlock], layout: Layout, turn: TransformRound, local: LocalTraining, timer: Timer = OFF
) -> tuple[Params, Tensor | None, Tensor | None, UpdateSum | None, dict[str, StageCost]]:
    """The sum of the cohort's deltas and, where they are part of the vector, of its losses and of the norms within the
    bound less those beyond, as the chain lets them through; the sums of what travels beside the vector; and what each
    stage cost. A cohort without clients sums to nothing, and its noise."""
    stages = stages_of(turn.config.update_transforms, turn)
    seconds = dict.fromkeys(turn.config.update_transforms, 0.0)
    summed, beside = sent_sum(updates, layout, stages, local, seconds, timer)
    deltas, facts, within = opened_sum(summed, layout, stages, local, seconds, timer)
    costs = {name: StageCost(vector_bytes(stage.bound), seconds[name]) for name, stage in stages}
    open_sums = sum_updates(beside, local.train, local.recommender.num_items) if beside and facts is None else None
    return deltas, facts, within, open_sums, costs


def sent_sum(
    updates: Iterable[UpdateBlock],
    layout: Layout,
    stages: Sequence[tuple[str, Stage]],
    local: LocalTraining,
    seconds: dict[str, float],
    timer: Timer = OFF,
) -> tuple[Tensor, list[UpdateBlock]]:
    """The sum [P] of what clients send of their ``updates``, and the updates without what is in it. ``seconds`` has the
    time of each stage, and grows."""
    last = stages[-1][1].bound if stages else Bound(sum(layout.parts))
    summed = torch.zeros(last.width, dtype=torch.int64 if last.integers else local.dtype, device=local.device)
    beside: list[UpdateBlock] = []
    for block in updates:
        vectors = layout.pack(block, local.recommender.num_items)
        for name, stage in stages:
            if stage.send is not None:
                with _timed(name, seconds, timer):
                    vectors = stage.send(vectors, block.clients)
        summed = summed + vectors.sum(0)
        beside.append(replace(block, deltas={}, touched=None))
    return summed, beside


def opened_sum(
    summed: Tensor,
    layout: Layout,
    stages: Sequence[tuple[str, Stage]],
    local: LocalTraining,
    seconds: dict[str, float],
    timer: Timer = OFF,
) -> tuple[Params, Tensor | None, Tensor | None]:
    """The deltas, losses and norms within the bound less those beyond, of a sum [P] of what clients sent."""
    for name, stage in stages:
        if stage.on_sum is not None:
            with _timed(name, seconds, timer):
                summed = stage.on_sum(summed)
    for name, stage in reversed(stages):
        if stage.receive is not None:
            with _timed(name, seconds, timer):
                summed = stage.receive(summed)
    return layout.unpack(summed.to(local.dtype))


@contextlib.contextmanager
def _timed(name: str, seconds: dict[str, float], timer: Timer) -> Iterator[None]:
    """The time inside belongs to the stage."""
    began = time.perf_counter()
    with timer.stage(f"transform {name}"):
        yield
    seconds[name] += time.perf_counter() - began
