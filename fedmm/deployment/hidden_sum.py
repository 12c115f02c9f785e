"""A masked sum whose parts have all come, and which only its silos' shares can open.

It is on the server's disk before a silo is asked to open it: a server that is killed then opens the same sum again. It
could not begin another one over other silos, since what two sums differ by is a silo's own, and silos refuse that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm.deployment.fitting import fitting
from fedmm.deployment.masks import mask_info, needs_no_word, threshold_of
from fedmm.deployment.messages import RefusedError
from fedmm.errors import CheckpointError
from fedmm.privacy.secure_sum import KEY_BYTES, Words, agreed_key, key_stream, public_key, signed
from fedmm.runs.checkpoint import load_checkpoint, save_checkpoint

NAME = "masked"  # of the checkpoint of the sum that silos are asked to open


class UnopenedError(RefusedError):
    """A masked sum that cannot be opened; nothing was revealed."""


class UnfitError(UnopenedError):
    """Shares of a masked sum that are not of one secret, where which of them is wrong cannot be told."""


@dataclass(frozen=True, eq=False)
class HiddenSum:
    """The sum of who sent, under masks: who shares masks with whom, and who was there."""

    asked: str  # digest of the requests whose answers it adds up
    attempt: str
    near: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]  # who shared their secrets: masks are with them alone
    sent: frozenset[str]
    public: Mapping[str, list[str]]
    masked: Words
    round: int = 0  # 0: of the start
    offer: str = ""  # digest of the offer that it was asked under

    def save(self, folder: Path | None) -> None:
        """Writes it, in place of an earlier one; without a folder nothing. Raises StorageError."""
        if folder is not None:
            about = {
                "asked": self.asked, "attempt": self.attempt, "near": {n: list(o) for n, o in self.near.items()},
                "shared": sorted(self.shared), "sent": sorted(self.sent), "public": dict(self.public),
                "round": self.round, "offer": self.offer,
            }  # fmt: skip
            save_checkpoint(folder, NAME, {"masked": torch.from_numpy(self.masked.view(np.int32))}, about)

    @classmethod
    def load(cls, folder: Path | None, asked: str) -> HiddenSum | None:
        """The sum of these requests that was to be opened before a kill; None where there is none, or it is damaged."""
        found = _read(folder)
        if found is None or found[1]["asked"] != asked:
            return None
        tensors, about = found
        near = {name: tuple(own) for name, own in about["near"].items()}
        shared, sent = frozenset(about["shared"]), frozenset(about["sent"])
        return cls(
            asked,
            about["attempt"],
            near,
            shared,
            sent,
            about["public"],
            tensors["masked"].numpy().view(np.uint32),
            about.get("round", 0),
            about.get("offer", ""),
        )

    @staticmethod
    def round_of(folder: Path | None) -> int:
        """The round whose sum is there; 0 where there is none, or it is the start's, or damaged."""
        found = _read(folder)
        return 0 if found is None else int(found[1].get("round", 0))

    @staticmethod
    def silos_of_start(folder: Path | None, offer: str) -> frozenset[str]:
        """Whose sum is there, where it is that of a start under this ``offer``; else nobody."""
        found = _read(folder)
        of_it = found is not None and not found[1].get("round", 0) and found[1].get("offer") == offer
        return frozenset(found[1]["near"]) if found is not None and of_it else frozenset()

    def require_openable(self) -> None:
        """Raises UnopenedError where too few sent for silos to open it: none of them is asked then."""
        answering = {own for own in self.sent if self._present(own) >= threshold_of(len(self.near[own]) + 1)}
        for node in [*self.sent, *self._gone]:
            holders = {*self.near[node], node}
            if len(holders & answering) < threshold_of(len(holders)):
                raise UnopenedError(self._too_few(node, len(holders & answering)))

    @property
    def is_of_all(self) -> bool:
        """Whether all sent, so that silos open it without hearing of each other's lists."""
        return all(needs_no_word(len(self.near[own]) + 1, self._present(own)) for own in self.sent)

    def _present(self, node: str) -> int:
        return len({*self.near[node], node} & self.sent)

    @property
    def _gone(self) -> list[str]:
        """Who shared secrets and did not send, beside one who did: masks with them have to be taken off."""
        return [node for node in self.shared - self.sent if set(self.near[node]) & self.sent]

    def _too_few(self, node: str, there: int) -> str:
        holders = len(self.near[node]) + 1
        return (
            f"{there} of the {holders} silos that hold shares of {node} are there, and {threshold_of(holders)} are "
            "needed; nothing was revealed."
        )

    def opened(self, shares: Mapping[str, Mapping[str, str]]) -> tuple[Words, dict[str, list[str]]]:
        """The sum, by the ``shares`` that silos handed out, and whose were wrong, with the silos that they were of.
        Raises UnopenedError."""
        wrong: dict[str, list[str]] = {}
        total, size = self.masked, len(self.masked)
        gone = self._gone
        keys = {node: self._recovered(node, shares, wrong, key=True) for node in sorted(gone)}
        own = {node: self._recovered(node, shares, wrong) for node in sorted(self.sent)}
        for secret in own.values():
            total = signed(total, key_stream(secret, size), False)
        for node, key in keys.items():
            for other in self.near[node]:
                if other in self.sent:
                    info = mask_info(self.attempt, node, other)
                    agreed = agreed_key(key, bytes.fromhex(self.public[other][0]), info)
                    total = signed(total, key_stream(agreed, size), node < other)
        return total, wrong

    def _recovered(
        self, node: str, shares: Mapping[str, Mapping[str, str]], wrong: dict[str, list[str]], *, key: bool = False
    ) -> bytes:
        """The secret of ``node`` that its holders' shares give back, its ``key`` or that of its own mask; whose shares
        are ``wrong`` is noted."""
        holders = sorted([*self.near[node], node])
        needed = threshold_of(len(holders))
        found = {
            place + 1: int.from_bytes(bytes.fromhex(shares[holder][node]), "little")
            for place, holder in enumerate(holders)
            if holder in shares and node in shares[holder]
        }
        if len(found) < needed:
            raise UnopenedError(self._too_few(node, len(found)))

        def right(number: int) -> bool:
            short = not number >> (8 * KEY_BYTES)
            return short and (not key or public_key(number.to_bytes(KEY_BYTES, "little")).hex() == self.public[node][0])

        suspects = {place + 1 for place, holder in enumerate(holders) if holder in wrong}
        fit = fitting(found, needed, suspects, right)
        if fit is None:
            raise UnfitError(
                f"the shares of {node} do not fit together: a silo sends a wrong one, and which no share tells."
            )
        for place in fit[1]:
            wrong.setdefault(holders[place - 1], []).append(node)
        return fit[0].to_bytes(KEY_BYTES, "little")


def is_sure(node: str, others: Collection[str], held: int) -> bool:
    """Whether ``node``, who sent wrong shares of these ``others`` and of so many that it ``held``, lies for sure: its
    own share of its own secret was wrong, or that of more than half of all. Of fewer, those may have dealt it wrong
    ones."""
    return node in others or 2 * len(others) > held


def _read(folder: Path | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    if folder is None or not folder.exists():
        return None
    try:
        tensors, about = load_checkpoint(folder / NAME)
    except CheckpointError:
        return None
    whole = about.keys() >= {"asked", "attempt", "near", "shared", "sent", "public"} and "masked" in tensors
    return (tensors, about) if whole else None
