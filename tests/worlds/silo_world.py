"""A few silos of a few users over 160 items, and the same data in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.config.short import full_keys
from fedmm.deployment.catalogue import Catalogue, catalogue_of
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.lead import Lead
from fedmm.deployment.members import LeadOptions
from fedmm.deployment.silo import Silo
from fedmm.deployment.transport import InProcess, Transport

NUM_ITEMS = 160
FIRST_TIME = 1_234_567_890


def rows_of(num_users: int) -> list[tuple[str, str, int]]:
    """(user, item, timestamp), users in the order of their ids; each item is met."""
    stream = np.random.default_rng(5)
    drawn = []
    for user in range(num_users):
        start = int(stream.integers(NUM_ITEMS))
        own = (start + np.cumsum(stream.integers(1, 4, size=6 + user % 5))) % NUM_ITEMS
        extra = range(user, NUM_ITEMS, num_users) if num_users < NUM_ITEMS else ()
        items = stream.permutation(list(dict.fromkeys([*own.tolist(), *(list(extra)[: 2 + user % 3])]))).tolist()
        drawn += [
            (f"user-{user:04d}", f"item-{item:04d}", FIRST_TIME + 7919 * place) for place, item in enumerate(items)
        ]
    return drawn


def write_world(folder: Path, parts: Mapping[str, int]) -> None:
    """Writes ``all.csv``, one file a silo of as many users as ``parts`` says, and features of all items."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(sum(parts.values()))
    users = sorted({user for user, _, _ in rows})
    first = 0
    for name, size in {"all": len(users), **parts}.items():
        own = set(users) if name == "all" else set(users[first : first + size])
        first += 0 if name == "all" else size
        lines = [f"{user},{item},{time}\n" for user, item, time in rows if user in own]
        (folder / f"{name}.csv").write_text("user,item,timestamp\n" + "".join(lines), encoding="utf-8")
    items = np.array(sorted({item for _, item, _ in rows}))
    stream = np.random.default_rng(6)
    np.savez(folder / "text.npz", item_id=items, features=stream.standard_normal((len(items), 6)))


def silo_settings(folder: Path, name: str = "all", **settings: Any) -> ExperimentConfig:
    """The settings of a run on the data of one silo, or on ``all``."""
    flags = {
        "data.path": str(folder / f"{name}.csv"),
        "data.text_features": str(folder / "text.npz"),
        "model.hidden_dim": 8,
        "model.num_blocks": 1,
        "model.max_length": 8,
        "federation.rounds": 3,
        "federation.client_fraction": 0.5,
        "evaluation.cutoffs": (5, 10),
        "evaluation.bootstrap_samples": 20,
        "evaluation.pooled_yardsticks": False,
        "runtime.threads": 1,
        "runtime.device": "cpu",
        "runtime.dtype": "float64",
        "runtime.engine": "sequential",
        "tracking.enabled": False,
    }
    return load_config(flags={**flags, **full_keys(settings)})


def catalogue(folder: Path) -> Catalogue:
    """The items of all silos."""
    return catalogue_of(silo_settings(folder))


def silos_of(folder: Path, names: list[str], *, keep: bool = False, **settings: Any) -> dict[str, Silo]:
    """The silos of these names, each with its own file; with ``keep`` each has a folder."""
    return {
        name: Silo(name, silo_settings(folder, name, **settings), folder / f"{name}.silo" if keep else None)
        for name in names
    }


def lead_of(
    folder: Path, transport: Transport | dict[str, Silo], *, kept: Path | None = None, quorum: float = 1.0,
    silos: int = 0, min_users: int = 1, **settings: Any,
) -> Lead:  # fmt: skip
    """A server of silos in this process, or over a transport."""
    carried = (
        InProcess({name: own.answer for name, own in transport.items()}) if isinstance(transport, dict) else transport
    )
    options = LeadOptions(silos or len(carried.nodes()), quorum, deadline=60.0, wait=0.01, min_users=min_users)
    return Lead(silo_settings(folder, **settings), catalogue(folder), Conversation(carried, grace=0.0), options, kept)
