"""Downloads as changes: a client receives what has moved since its last visit, in steps that all versions share.

The server rounds its parameters to whole steps, the same steps in every round, and writes down each round's change of
these whole numbers once, coded without loss (``rice.py``): the same few bytes for whoever lacks them. A client that was
there last in round v receives the changes of the rounds after v; one that comes for the first time the whole numbers
themselves. Both then hold the server's parameters to half a step, however long the client was away: what rounding left
out is part of the next change, since the server keeps the exact parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation.compression import travels_whole
from fedmm.federation.rice import coded_length
from fedmm.utils.params import Params

LEAST_SIZE = 0.02  # of a parameter's root mean square at the start, where it begins at zero or near it


@dataclass(frozen=True, eq=False)
class Versions:
    """What the server knows of the versions that it has sent."""

    steps: Params  # by parameter: the size of its steps, a scalar
    numbers: Params  # the last version, whole steps, int32
    lengths: IntArray  # [rounds] bytes of each round's change
    whole: int  # bytes of the last version itself
    visits: IntArray  # [users] the round in which each was there last; 0: not yet

    def bytes_for(self, clients: IntArray) -> IntArray:
        """[C] bytes of what each client of the last version's round receives."""
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        missed = sums[-1] - sums[self.visits[clients]]
        return np.where(self.visits[clients] > 0, np.minimum(missed, self.whole), self.whole)

    def after(self, clients: IntArray) -> Versions:
        """The same once ``clients`` hold the last version."""
        visits = self.visits.copy()
        visits[clients] = len(self.lengths)
        return replace(self, visits=visits)

    def tensors(self) -> Params:
        """What a checkpoint keeps."""
        found = {f"steps/{name}": value for name, value in self.steps.items()}
        found |= {f"numbers/{name}": value for name, value in self.numbers.items()}
        arrays = {"lengths": self.lengths, "visits": self.visits, "whole": np.array([self.whole])}
        return found | {name: torch.from_numpy(value) for name, value in arrays.items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Versions | None:
        """What ``tensors`` gave; None where there is nothing."""
        if "lengths" not in tensors:
            return None
        parts = {
            prefix: {name.removeprefix(f"{prefix}/"): value.to(device) for name, value in tensors.items()
                     if name.startswith(f"{prefix}/")}
            for prefix in ("steps", "numbers")
        }  # fmt: skip
        lengths, visits, whole = (tensors[name].numpy() for name in ("lengths", "visits", "whole"))
        return cls(parts["steps"], parts["numbers"], lengths, int(whole[0]), visits)


def next_version(
    before: Versions | None, params: Params, names: Iterable[str], share: float, num_users: int
) -> tuple[Versions, Params]:
    """The version of this round, and the parameters as clients hold them: those of ``names`` in whole steps of
    ``share`` times their root mean square in the first round, the others as they are."""
    sent = {name: params[name] for name in names if not travels_whole(name, params[name])}
    if before is None:
        steps = {name: share * value.square().mean().sqrt().clamp(min=LEAST_SIZE) for name, value in sent.items()}
        nothing = {name: torch.zeros_like(value, dtype=torch.int32) for name, value in sent.items()}
        before = Versions(steps, nothing, np.zeros(0, np.int64), 0, np.zeros(num_users, np.int64))
    numbers = {name: torch.round(value / before.steps[name]).to(torch.int32) for name, value in sent.items()}
    whole = _length(numbers.values())
    change = _length(value - before.numbers[name] for name, value in numbers.items())
    lengths = np.append(before.lengths, change)
    received = {name: value.to(params[name].dtype) * before.steps[name] for name, value in numbers.items()}
    return replace(before, numbers=numbers, lengths=lengths, whole=whole), params | received


def changes_message(values: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """What a client receives, on the meta device: the codes of ``length`` bytes, small parameters as they are, and the
    size of each parameter's steps."""
    message = {name: value for name, value in values.items() if travels_whole(name, value)}
    coded = len(values) - len(message)
    if coded:
        message["changes"] = torch.empty(length, dtype=torch.uint8, device="meta")
        message["steps"] = torch.empty(coded, device="meta")
    return message


def expected_length(values: Mapping[str, Tensor], share: float) -> int:
    """About how many bytes a version takes, before anything is known of its changes: as of normal numbers, whole."""
    entries = sum(value.numel() for name, value in values.items() if not travels_whole(name, value))
    bits = max(float(np.log2(4.13 / share)), 0.5)  # the entropy of a normal number in steps of this share of its spread
    return round(entries * bits / 8)


def _length(values: Iterable[Tensor]) -> int:
    flat = [value.flatten().cpu().numpy().astype(np.int64) for value in values]
    return coded_length(np.concatenate(flat)) if flat else 0
