"""Downloads as changes: a client receives what has moved since its last visit, in steps that all versions share.

The server rounds its parameters to whole steps, the same steps in every round, and remembers its last versions. A
client that was there last in round v receives the change of these whole numbers since version v, coded without loss
(``rice.py``): the same bytes for all who were there in v. One that comes for the first time, or was away for long,
receives the whole numbers themselves. Either then holds the server's parameters to half a step: what rounding left out
is part of the next change, since the server keeps the exact parameters.
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

LARGEST = 2**15 - 1  # steps that a parameter may be away from zero
KEPT = 16  # versions that the server remembers
LEAST_SIZE = 0.02  # of a parameter's root mean square at the start, where it begins at zero or near it


@dataclass(frozen=True, eq=False)
class Versions:
    """What the server knows of the versions that it has sent."""

    steps: Params  # by parameter: the size of its steps, a scalar
    kept: tuple[Params, ...]  # the last versions in whole steps, int16, the newest one last
    changes: IntArray  # [kept] bytes of the change from each of them to the newest; 0 of the newest itself
    whole: int  # bytes of the newest one itself
    number: int  # the round of the newest one
    visits: IntArray  # [users] the round in which each was there last; 0: not yet

    def bytes_for(self, clients: IntArray) -> IntArray:
        """[C] bytes of what each client of the newest version's round receives."""
        back = self.number - self.visits[clients]
        known = (self.visits[clients] > 0) & (back < len(self.kept))
        changes = self.changes[np.where(known, len(self.kept) - 1 - back, 0)]
        return np.where(known, np.minimum(changes, self.whole), self.whole)

    def after(self, clients: IntArray) -> Versions:
        """The same once ``clients`` hold the last version."""
        visits = self.visits.copy()
        visits[clients] = self.number
        return replace(self, visits=visits)

    def tensors(self) -> Params:
        """What a checkpoint keeps."""
        found = {f"steps/{name}": value for name, value in self.steps.items()}
        for place, version in enumerate(self.kept):
            found |= {f"{place}/{name}": value for name, value in version.items()}
        facts = {"changes": self.changes, "visits": self.visits, "facts": np.array([self.whole, self.number])}
        return found | {name: torch.from_numpy(value) for name, value in facts.items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Versions | None:
        """What ``tensors`` gave; None where there is nothing."""
        if "facts" not in tensors:
            return None
        changes, visits, facts = (tensors[name].numpy() for name in ("changes", "visits", "facts"))
        kept = tuple(_under(tensors, f"{place}/", device) for place in range(len(changes)))
        return cls(_under(tensors, "steps/", device), kept, changes, int(facts[0]), int(facts[1]), visits)


def next_version(
    before: Versions | None, params: Params, names: Iterable[str], share: float, num_users: int
) -> tuple[Versions, Params]:
    """The version of this round, and the parameters as clients hold them: those of ``names`` in whole steps of
    ``share`` times their root mean square in the first round, the others as they are."""
    sent = {name: params[name] for name in names if not travels_whole(name, params[name])}
    if before is None:
        steps = {name: share * value.square().mean().sqrt().clamp(min=LEAST_SIZE) for name, value in sent.items()}
        before = Versions(steps, (), np.zeros(0, np.int64), 0, 0, np.zeros(num_users, np.int64))
    rounded = {name: torch.round(value / before.steps[name]).clamp(-LARGEST, LARGEST) for name, value in sent.items()}
    numbers = {name: value.to(torch.int16) for name, value in rounded.items()}
    newest = _flat(numbers)
    kept = (*before.kept, numbers)[-KEPT:]
    changes = [coded_length(newest - _flat(version)) for version in kept[:-1]]
    received = {name: value.to(params[name].dtype) * before.steps[name] for name, value in rounded.items()}
    lengths = np.array([*changes, 0], dtype=np.int64)
    number = before.number + 1
    return replace(before, kept=kept, changes=lengths, whole=coded_length(newest), number=number), params | received


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


def _flat(version: Params) -> IntArray:
    flat = [value.flatten().cpu().numpy().astype(np.int64) for value in version.values()]
    return np.concatenate(flat) if flat else np.zeros(0, np.int64)


def _under(tensors: Mapping[str, Tensor], prefix: str, device: torch.device) -> Params:
    return {name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)}
