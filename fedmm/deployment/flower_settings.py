"""Settings of Flower's apps: the server's are those of ``flwr run``, a silo's are those of its node.

Flower's settings are flat, and of a run only those that the app names can be given. So ``set`` holds any settings of
fedmm, as ``--set`` takes them, one beside the other, and ``config`` a file of them.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.config.names import nearest_name, suggestion
from fedmm.data.fetch import cache_folder
from fedmm.deployment import greeting
from fedmm.deployment.joining import SILOS, silo_name
from fedmm.deployment.keys import node_identity
from fedmm.deployment.members import LeadOptions
from fedmm.deployment.seals import Checksums, Seal
from fedmm.deployment.silo import Silo
from fedmm.errors import ConfigError
from fedmm.utils import locks
from fedmm.utils.parallel import set_threads

Given = Mapping[str, Any]  # as Flower gives them: names with texts, numbers and truth values
LEAD_KEYS = (
    "silos", "quorum", "deadline", "min-users", "take-back", "config", "set", "catalogue", "keys", "output"
)  # fmt: skip
SILO_KEYS = ("name", "data", "folder", "keys", "config", "set", "partition-id", "num-partitions")


@dataclass(frozen=True, eq=False)
class LeadSettings:
    """What the server's app was given."""

    config: ExperimentConfig
    options: LeadOptions
    catalogue: Path | None
    keys: Path | None


@dataclass(frozen=True, eq=False)
class SiloSettings:
    """What a silo's app was given."""

    name: str
    config: ExperimentConfig
    folder: Path
    seal: Seal

    def answer(self, request: bytes, tell: Callable[[str], None]) -> bytes:
        """The silo's answer to one request, as a process of its own gives it: it goes on from its folder. Raises
        RefusedError where the request cannot be read at all, and what ends the silo."""
        if greeting.is_question(request):
            return greeting.answer(request, self.name, self.seal)
        set_threads(self.config.runtime.threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locks.hold(self.folder / "lock", locks.FOR_EVER):  # an earlier request may still be at work
            silo = Silo(self.name, self.config, self.folder, self.seal, tell)
            found = silo.answer(request)
        if silo.failure is not None:
            tell(f"error: {silo.failure}")
        return found


def lead_settings(given: Given, run: int) -> LeadSettings:
    """The server's settings; without ``output`` its folder is one of run number ``run`` in the cache. Raises
    ConfigError."""
    _require_known(given, LEAD_KEYS, "flwr run")
    config = _config(given)
    output = _path(given, "output") or config.runtime.output or demonstration(run) / "server"
    silos, quorum, deadline = given.get("silos", 1), given.get("quorum", 0.5), given.get("deadline", 600.0)
    users = given.get("min-users", 1)
    for name, value, fits in (
        ("silos", silos, isinstance(silos, int) and silos >= 1),
        ("quorum", quorum, isinstance(quorum, int | float) and 0 < quorum <= 1),
        ("deadline", deadline, isinstance(deadline, int | float) and deadline > 0),
        ("min-users", users, isinstance(users, int) and users >= 1),
    ):
        if not fits or isinstance(value, bool):
            remedy = "Give silos and users from 1, a quorum above 0 and up to 1, a deadline of seconds above 0."
            raise ConfigError(f"{name} is {value!r}.", remedy)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"output": output.absolute()})})
    back = tuple((_text(given, "take-back") or "").replace(",", " ").split())
    options = LeadOptions(silos, float(quorum), float(deadline), min_users=users, take_back=back)
    return LeadSettings(config, options, _path(given, "catalogue"), _path(given, "keys"))


def silo_settings(given: Given, run: int) -> SiloSettings:
    """A node's settings. A node of Flower's simulation, which has no data, gets its part of the bundled data. Raises
    ConfigError."""
    _require_known(given, SILO_KEYS, "flower-supernode --node-config")
    data, folder, name = _path(given, "data"), _path(given, "folder"), _text(given, "name")
    if data is None and "partition-id" in given:
        place, number = int(given["partition-id"]), int(given["num-partitions"])
        name = name or f"silo-{place:0{len(str(number - 1))}d}"
        folder = folder or demonstration(run) / name
        data = write_part(folder / "data.csv", place, number)
    config = _config(given, {} if data is None else {"data.path": str(data)})
    if config.data.path is None:
        raise ConfigError("A silo needs data of its own.", "Give --node-config 'data=\"FILE\"'.")
    own = silo_name(name, config.data.path)
    keys = _path(given, "keys")
    seal = Checksums() if keys is None else node_identity(keys, own).seal
    return SiloSettings(own, config, (folder or SILOS / own).absolute(), seal)


def demonstration(run: int) -> Path:
    """Where run number ``run`` keeps what was given no place."""
    return cache_folder() / "flower" / str(run)


def write_part(path: Path, place: int, number: int) -> Path:
    """Writes every ``number``-th user of the bundled data, from user ``place`` on, where the file is not there yet."""
    if path.exists():
        return path
    from fedmm.data.datasets import load_dataset

    found = load_dataset(load_config().data, None).interactions
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    with written.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "timestamp"])
        for user in range(place, found.num_users, number):
            start, end = found.histories.offsets[user], found.histories.offsets[user + 1]
            for at in range(start, end):
                item = found.item_ids[found.histories.values[at]]
                rows.writerow([found.user_ids[user], item, int(found.timestamps[at])])
    written.replace(path)
    return path


def _config(given: Given, flags: Mapping[str, Any] | None = None) -> ExperimentConfig:
    file = _path(given, "config")
    try:
        assignments = shlex.split(_text(given, "set") or "")
    except ValueError as error:
        raise ConfigError(
            f"set cannot be read: {error}.", 'Write: set="federation.rounds=5 model.hidden_dim=16"'
        ) from None
    return load_config(() if file is None else (file,), os.environ, assignments, flags)


def _text(given: Given, name: str) -> str | None:
    """A text; None where there is none, or an empty one: Flower has no way to leave one out."""
    value = given.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}, not a text.", "Put it into quotes.")
    return value or None


def _path(given: Given, name: str) -> Path | None:
    value = _text(given, name)
    return None if value is None else Path(value).expanduser()


def _require_known(given: Given, known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            hint = suggestion(nearest_name(name, known), f"Known are {', '.join(known)}.")
            raise ConfigError(f"{where} was given {name!r}, which fedmm does not know.", hint)
