"""What the server keeps between rounds, and on its disk: enough to go on after a kill, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.errors import CheckpointError
from fedmm.federation import scaffold
from fedmm.federation.ledger import Ledger
from fedmm.federation.rounds import RoundStatistics, ServerState
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.federation.transforms.contract import StageCost
from fedmm.runs.checkpoint import (
    BEST,
    FOLDER,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    round_name,
    save_checkpoint,
)
from fedmm.utils.params import Params

COUNTS, POPULARITY = "counts/", "popularity"
RELEASED = "released"  # folder of the round that is trained and not yet validated, where rounds are private


@dataclass(frozen=True)
class SiloFacts:
    """What the server knows of a silo: how much it has, and which clients are its own."""

    name: str
    users: int
    trainable: int
    events: int
    base: int  # its users are the clients from here on
    first: int  # its trainable users have these places among all that are, from here on
    counted: int = 0  # the last round in which its sums counted


@dataclass(frozen=True)
class Named:
    """A silo that lied, and is left out until it is taken back."""

    silo: str
    why: str
    round: int  # in which it was found; 0: in the start
    time: float  # seconds since 1970


@dataclass(frozen=True, eq=False)
class LeadState:
    """The server's state after a round."""

    server: ServerState
    silos: tuple[SiloFacts, ...]
    begin: Params  # what silos are told as they begin: popularity, and counts where they are wanted
    ledger: Ledger = field(default_factory=Ledger)
    best: Best | None = None
    stale: int = 0
    seconds: float = 0.0
    name: str = ""  # of this federation and no other: what silos keep belongs to it
    run_id: str | None = None
    named: tuple[Named, ...] = ()

    @property
    def num_trainable(self) -> int:
        """Clients with something to train on, of all silos."""
        return sum(silo.trainable for silo in self.silos)

    def places(self, without: Collection[str]) -> IntArray:
        """The places of all trainable users, but for those of some silos; ascending."""
        own = [np.arange(own.first, own.first + own.trainable) for own in self.silos if own.name not in without]
        return np.concatenate([np.zeros(0, np.int64), *own])

    def by_silo(self, cohort: IntArray) -> dict[str, IntArray]:
        """The ``cohort``, places among all trainable users, as places among each silo's own."""
        return {
            silo.name: cohort[(cohort >= silo.first) & (cohort < silo.first + silo.trainable)] - silo.first
            for silo in self.silos
        }

    def joined(self, name: str, users: int, trainable: int, events: int) -> LeadState:
        """With one more silo, whose clients come after all others."""
        base, first = sum(silo.users for silo in self.silos), self.num_trainable
        return replace(self, silos=(*self.silos, SiloFacts(name, users, trainable, events, base, first)))


def save_lead(folder: Path, state: LeadState, about: Mapping[str, Any]) -> None:
    """Writes the round's checkpoint and, where it is the best, ``best``; ``about`` says what was agreed.

    Raises StorageError.
    """
    server = state.server
    tensors = {f"params/{name}": value for name, value in server.params.items()}
    tensors |= {f"optimizer/{name}": value for name, value in server.optimizer.items()}
    tensors |= {f"average/{name}": value for name, value in server.average.items()}
    tensors |= scaffold.named(server.control)
    tensors |= {f"begin/{name}": value for name, value in state.begin.items()}
    best = state.best
    if best is not None:
        tensors |= {f"best/{name}": value for name, value in best.snapshot.params.items()}
    meta = {
        "federation": True,
        **about,
        "round": server.round,
        "best_round": 0 if best is None else best.snapshot.round,
        "best_value": 0.0 if best is None else best.value,
        "stale": state.stale,
        "clip": server.clip,
        "ledger": vars(state.ledger),
        "seconds": state.seconds,
        "run_id": state.run_id,
        "name": state.name,
        "silos": [vars(silo) for silo in state.silos],
        "named": [vars(own) for own in state.named],
    }
    checkpoints = folder / FOLDER
    if best is not None and best.snapshot.round == server.round:
        kept = {f"params/{name}": value for name, value in best.snapshot.params.items()}
        save_checkpoint(checkpoints, BEST, kept, meta)
    save_checkpoint(checkpoints, round_name(server.round), tensors, meta)
    prune_checkpoints(checkpoints)


def load_lead(folder: Path, device: torch.device) -> tuple[LeadState, Mapping[str, Any]] | None:
    """The newest whole state and what it says of itself; None where the federation never began. Raises
    CheckpointError where it is damaged, or no federation's."""
    path = newest_checkpoint(folder / FOLDER)
    if path is None:
        return None
    tensors, meta = load_checkpoint(path)
    if not meta.get("federation"):
        raise CheckpointError(f"{folder} holds a run of fedmm train, no federation.", "Give another --folder.")
    placed = {name: value.to(device) for name, value in tensors.items()}
    server = ServerState(
        _part(placed, "params"),
        _part(placed, "optimizer"),
        int(meta["round"]),
        scaffold.unnamed(placed),
        _part(placed, "average"),
        clip=meta.get("clip"),
    )
    best = None
    if meta["best_round"]:
        best = Best(Snapshot(_part(placed, "best"), int(meta["best_round"])), float(meta["best_value"]))
    begin = _part(tensors, "begin")
    silos = tuple(SiloFacts(**silo) for silo in meta["silos"])
    ledger, stale, seconds = Ledger(**meta["ledger"]), int(meta["stale"]), float(meta["seconds"])
    named = tuple(Named(**own) for own in meta.get("named", ()))
    name, run_id = str(meta["name"]), meta["run_id"]
    return LeadState(server, silos, begin, ledger, best, stale, seconds, name, run_id, named), meta


def require_same(
    folder: Path | None, meta: Mapping[str, Any], given: ExperimentConfig, catalogue: str, offer: Mapping[str, Any]
) -> None:
    """Raises CheckpointError where a stored federation is of other settings than ``given``, of another ``offer`` or of
    another ``catalogue`` (its digest)."""
    if meta["catalogue"] != catalogue or meta["offer"] != without_rounds(offer):
        raise CheckpointError(
            f"{folder} holds a federation of other settings or another catalogue.",
            "Give those it began with, or another --folder.",
        )
    before, after = meta["terms"]["federation"]["rounds"], given.federation.rounds
    if given.privacy.on and given.privacy.rounds is None and before != after:
        raise CheckpointError(
            f"{folder} cannot go on to {after} rounds: its noise was set for {before}.",
            f"Give --rounds {before}, or begin anew in another folder.",
        )


def save_released(folder: Path | None, state: LeadState, statistics: RoundStatistics) -> None:
    """Writes what a private round releases, before anyone is shown it; without a folder nothing. Raises
    StorageError."""
    if folder is not None:
        save_lead(folder / RELEASED, state, {"statistics": asdict(statistics)})


def released(folder: Path | None, state: LeadState) -> tuple[LeadState, RoundStatistics] | None:
    """What the round after ``state`` released already, before a kill; None where it has not been trained. Raises
    CheckpointError."""
    found = None if folder is None else load_lead(folder / RELEASED, torch.device("cpu"))
    if found is None:
        return None
    after, meta = found
    if (after.name, after.server.round) != (state.name, state.server.round + 1):
        return None
    told = meta["statistics"]
    costs = {name: StageCost(**own) for name, own in told["transforms"].items()}
    kept = replace(after, ledger=state.ledger, seconds=state.seconds, run_id=state.run_id)
    return kept, RoundStatistics(**{**told, "transforms": costs})


def without_rounds(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The terms but for how many rounds there are, which may grow."""
    return {**terms, "federation": {**terms["federation"], "rounds": None}}


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Params:
    return {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}
