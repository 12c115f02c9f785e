"""What stays with a silo's clients, on the silo's disk: personal parameters and control variates.

A round's changes are kept apart until the server says that the round counted, and moved over when the next round
begins: by then the server has saved the round, so that it cannot ask for it again. Killed at any moment, a silo goes on
from what it had.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import CheckpointError
from fedmm.federation.client_states import CLIENTS, NO_STATES, ClientStates, Kept
from fedmm.runs.checkpoint import load_checkpoint, save_checkpoint
from fedmm.utils.files import write_atomically
from fedmm.utils.params import Params

NAME, ROSTER = "states", "roster.json"
PARTS = ("settled", "pending", "candidate", "best")


@dataclass(frozen=True, eq=False)
class SiloStates:
    """States by client, in the order in which they become final."""

    settled: ClientStates = NO_STATES  # of rounds that counted and are past
    pending: ClientStates = NO_STATES  # what the last round changed
    pending_round: int = 0  # 0: nothing pends
    candidate: ClientStates = NO_STATES  # personal parameters of the last validation
    candidate_round: int = 0
    best: ClientStates = NO_STATES  # those of the best validation
    best_round: int = 0

    def now(self, counted: int) -> ClientStates:
        """The states after the rounds that counted, the last of which for this silo is ``counted``."""
        if not self.pending_round or self.pending_round != counted:
            return self.settled
        return ClientStates({**self.settled.entries, **self.pending.entries})

    def before(self, number: int, counted: int) -> SiloStates:
        """As round ``number`` begins. A round that is begun again forgets what it changed."""
        again = self.pending_round >= number
        kept = self.settled if again else self.now(counted)
        return replace(self, settled=kept, pending=NO_STATES, pending_round=0)

    def after(self, number: int, kept: list[Kept]) -> SiloStates:
        """With what round ``number`` changed."""
        changed = [int(client) for clients, states in kept if states for client in clients]
        whole = self.settled.after(kept)
        pending = ClientStates({client: whole.entries[client] for client in changed})
        return replace(self, pending=pending, pending_round=number)

    def validated(self, number: int, counted: int, best: int) -> SiloStates:
        """With the personal parameters of the validation after round ``number``; ``best`` is the best round before."""
        told = self.promoted(best)
        return replace(told, candidate=self.now(counted).personal(), candidate_round=number)

    def promoted(self, best: int) -> SiloStates:
        """With the last validation's personal parameters for the best ones, where that was round ``best``."""
        if best and best == self.candidate_round:
            return replace(self, best=self.candidate, best_round=best)
        return self

    @property
    def empty(self) -> bool:
        """Whether nothing is there to be kept."""
        return not any(getattr(self, name).entries for name in PARTS)


@dataclass(eq=False)
class StateStore:
    """The states of one silo in one folder; ``folder`` None keeps nothing."""

    folder: Path | None
    user_ids: NDArray[np.str_]
    base: int = 0
    federation: str = ""  # what was kept for another one is forgotten
    _written: bool = field(default=False)

    def load(self) -> SiloStates:
        """What was kept; nothing where this silo is new. Raises CheckpointError where users are not those of then, or
        what was kept is damaged."""
        if self.folder is None:
            return SiloStates()
        roster = self.folder / ROSTER
        if not roster.exists():
            write_atomically(roster, json.dumps(self.user_ids.tolist()).encode())
        elif (kept := _kept_roster(roster)) != self.user_ids.tolist():
            known, here = set(kept), set(self.user_ids.tolist())
            raise CheckpointError(
                f"The users of these data are not those that joined from {self.folder}: {len(here - known)} are new, "
                f"{len(known - here)} are gone.",
                "Give the data as they were, or join another federation from another --folder.",
            )
        if not (self.folder / NAME).exists() and not any(self.folder.glob(f".{NAME}.*")):
            return SiloStates()
        tensors, meta = load_checkpoint(self.folder / NAME)
        if meta["federation"] != self.federation:
            return SiloStates()
        found = {}
        for part in PARTS:
            own = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{part}/")}
            if own:
                own[CLIENTS] = own[CLIENTS] + self.base
            found[part] = ClientStates.from_tensors(own)
        pending, candidate, best = (int(meta[f"{name}_round"]) for name in PARTS[1:])
        self._written = True
        return SiloStates(
            found["settled"], found["pending"], pending, found["candidate"], candidate, found["best"], best
        )

    def save(self, states: SiloStates) -> None:
        """Writes all of it, whole or not at all; nothing where no client keeps anything. Raises StorageError."""
        if self.folder is None or (states.empty and not self._written):
            return
        tensors: Params = {}
        for part in PARTS:
            own = getattr(states, part).to_tensors()
            if own:
                own[CLIENTS] = own[CLIENTS] - self.base
            tensors |= {f"{part}/{name}": value for name, value in own.items()}
        rounds = {name: getattr(states, name) for name in ("pending_round", "candidate_round", "best_round")}
        save_checkpoint(self.folder, NAME, tensors, {**rounds, "federation": self.federation})
        self._written = True


def _kept_roster(path: Path) -> list[str]:
    """The users who joined from a folder. Raises CheckpointError."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, list) or not all(isinstance(own, str) for own in found):
        raise CheckpointError(
            f"{path}, which names the users that joined from there, was changed.",
            "Put it back as it was, or join another federation from another --folder.",
        )
    return found
