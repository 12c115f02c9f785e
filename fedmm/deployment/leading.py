"""A whole federation as its server leads it: rounds, records, tracking, and what is said of its health."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fedmm.config import ExperimentConfig
from fedmm.config.load import dump_toml
from fedmm.deployment.catalogue import catalogue_of
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.events import EVENTS_FILE, Events
from fedmm.deployment.health import serve_health
from fedmm.deployment.keys import Identity, server_identity
from fedmm.deployment.lead import Lead
from fedmm.deployment.members import LeadOptions
from fedmm.deployment.seals import Checksums, Seal
from fedmm.deployment.sockets import LOOPBACK, SocketTransport
from fedmm.deployment.transport import Transport
from fedmm.errors import CheckpointError, ConfigError
from fedmm.federation.private_parts import promises, spend
from fedmm.runs.facts import privacy_of
from fedmm.runs.observer import Observer
from fedmm.runs.state import LOCK_FILE
from fedmm.runs.train import round_metrics
from fedmm.tracking import mlflow_run
from fedmm.utils import locks
from fedmm.utils.files import truncate_rounds, write_atomically
from fedmm.utils.interrupts import Interrupted, Interrupts, Stop
from fedmm.utils.parallel import set_threads
from fedmm.utils.trees import plain

FOLDER = Path("federation")
SETTINGS_FILE, STATUS_FILE, RESULT_FILE = "settings.toml", "status.json", "outcome.json"


@dataclass(frozen=True)
class Carried:
    """An open transport, the seal of what it carries, and where silos find it."""

    transport: Transport
    seal: Seal
    address: str


class Carrier(Protocol):
    """How messages travel, before anything is opened."""

    def check(self) -> None:
        """Raises ConfigError where messages could not travel safely."""
        ...

    def opened(self, events: Events) -> AbstractContextManager[Carried]:
        """The open transport."""
        ...


@dataclass(frozen=True)
class Listening:
    """Where the server listens, and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8765
    keys: Path | None = None  # folder of keys; None: none, which a loopback address alone may do
    open: bool = False  # without keys and TLS wherever it listens

    def check(self) -> None:
        """Raises ConfigError where keys are needed and not given, or cannot be read."""
        self._identity()

    def _identity(self) -> Identity | None:
        if self.keys is not None:
            return server_identity(self.keys)
        if self.host not in LOOPBACK and not self.open:
            raise ConfigError(
                f"Whoever reaches {self.host} could join and read what is sent.",
                "Give --keys FOLDER (fedmm federation keys makes one), or --no-keys on a network of your own.",
            )
        return None

    @contextmanager
    def opened(self, events: Events) -> Iterator[Carried]:
        """Listens."""
        identity = self._identity()
        seal = identity.seal if identity else Checksums()
        with SocketTransport(self.host, self.port, seal, identity.tls if identity else None, events) as transport:
            yield Carried(transport, seal, f"{self.host}:{transport.port}")


def lead_federation(
    config: ExperimentConfig,
    observer: Observer,
    carrier: Carrier,
    options: LeadOptions,
    *,
    items: Path | None = None,
    health: tuple[str, int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Leads a federation to its end and gives its result, which is in the folder ``runtime.output`` too; one that was
    stopped or killed goes on. ``items`` is a table of the catalogue, ``health`` the host and port that tell of health;
    ``say`` hears the address.

    Raises ConfigError and CheckpointError where it cannot begin, Interrupted on Ctrl-C and SIGTERM.
    """
    set_threads(config.runtime.threads)
    carrier.check()
    folder = config.runtime.output or FOLDER
    if (folder / RESULT_FILE).exists():
        raise CheckpointError(f"{folder} holds a federation that has ended.", "Give another --output.")
    with Interrupts(), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.callback((folder / LOCK_FILE).unlink, missing_ok=True)
        try:
            stack.callback(locks.take(folder / LOCK_FILE).release)
        except TimeoutError:
            stack.pop_all()
            raise ConfigError(f"{folder} is led by another process.", "Stop it, or give another --output.") from None
        observer.stage("reading the catalogue")
        catalogue = catalogue_of(config, items, observer.stage)
        events = Events(folder / EVENTS_FILE)
        carried = stack.enter_context(carrier.opened(events))
        conversation = Conversation(carried.transport, carried.seal, events)
        lead = Lead(config, catalogue, conversation, options, folder, observer.note)
        write_atomically(folder / SETTINGS_FILE, dump_toml(config).encode())
        if health is not None:
            stack.enter_context(serve_health(*health, lambda: status_of(lead)))
        say(carried.address)
        observer.note(f"{catalogue.num_items:,} items; waiting for {options.silos} silos")
        try:
            return _lead(lead, folder, observer)
        except (Stop, Interrupted) as stop:
            remedy = f"Go on with the same command; {folder} has all rounds that ended."
            raise Interrupted(stop.signal_number, remedy=remedy) from None


def _lead(lead: Lead, folder: Path, observer: Observer) -> dict[str, Any]:
    began = time.perf_counter()
    state = lead.begin()
    truncate_rounds(folder, state.server.round)
    config = lead.config
    tags = {"output": str(folder), "silos": str(len(state.silos))}
    with mlflow_run.open_tracker(config, folder, tags=tags, run_id=state.run_id, warn=observer.warn) as tracker:
        lead.on_save = lambda reached: replace(reached, run_id=tracker.run_id)
        tracker.log_params(config.flat())
        users = sum(silo.users for silo in state.silos)
        observer.note(f"{len(state.silos)} silos with {users:,} users")
        for promise in promises(lead.plan, seed_is_known=False):
            observer.note(promise)
        _write_status(lead, folder, "running")
        for report in lead.rounds():
            known = {name: value for name, value in round_metrics(report).items() if math.isfinite(value)}
            tracker.log_round(known, report.round)  # a round that was left out has no loss
            _write_status(lead, folder, "running")
            spent = (time.perf_counter() - began) / max(report.round - state.server.round, 1)
            observer.round_done(report, spent * (report.rounds - report.round))
        metrics = lead.finish()
        if lead.plan is not None:
            observer.note(spend(lead.plan, lead.state.server.round))
        result = result_of(lead, metrics, folder)
        flat = {f"{split}/{name}": value for split, own in metrics.items() for name, value in own.items()}
        tracker.log_summary({f"final/{name}": value for name, value in flat.items()})
        write_atomically(folder / RESULT_FILE, (json.dumps(plain(result), indent=1) + "\n").encode())
        tracker.log_artifact(folder / RESULT_FILE)
        tracker.finish("FINISHED")
        _write_status(lead, folder, "finished")
    return result


def result_of(lead: Lead, metrics: Mapping[str, Mapping[str, float]], folder: Path) -> dict[str, Any]:
    """What a federation came to, as JSON has it."""
    from fedmm import __version__

    best, plan = lead.state.best, lead.plan
    return {
        "version": __version__,
        "status": "finished",
        "output": str(folder),
        "rounds": lead.state.server.round,
        "best_round": lead.state.server.round if best is None else best.snapshot.round,
        "settings": lead.members.digest,
        "silos": [{"name": silo.name, "users": silo.users} for silo in lead.state.silos],
        "named": named_of(lead),
        "metrics": metrics,
        "uplink_bytes": lead.state.ledger.uplink_bytes,
        "downlink_bytes": lead.state.ledger.downlink_bytes,
        "train_seconds": round(lead.state.seconds, 3),
        "refused": lead.conversation.events.number["refused"],
        "privacy": None if plan is None else privacy_of(plan, lead.state.server.round),
    }


def named_of(lead: Lead) -> list[dict[str, Any]]:
    """Which silos lied, what, in which round (0: in the start) and when: they are left out."""
    return [vars(own) for own in list(lead.members.named.values())]


def status_of(lead: Lead) -> dict[str, Any]:
    """How a federation stands now."""
    there = set(lead.conversation.transport.nodes())
    state = lead.reached
    silos = () if state is None else state.silos
    known = [
        {"name": silo.name, "users": silo.users, "connected": silo.name in there, "last_counted": silo.counted}
        for silo in silos
    ]
    new = [
        {"name": node, "users": None, "connected": True, "last_counted": 0}
        for node in sorted(there - {silo.name for silo in silos})
    ]
    best = None if state is None else state.best
    return {
        "round": 0 if state is None else state.server.round,
        "rounds": lead.config.federation.rounds if state is None else lead.last_round,
        "best_round": None if best is None else best.snapshot.round,
        "best_value": None if best is None else best.value,
        "selection_metric": lead.config.evaluation.selection_metric,
        "silos": [*known, *new],
        "named": named_of(lead),
        "refused": lead.conversation.events.number["refused"],
        "sent_bytes": lead.conversation.sent_bytes,
        "received_bytes": lead.conversation.received_bytes,
    }


def _write_status(lead: Lead, folder: Path, state: str) -> None:
    status = {"state": state, "time": round(time.time(), 3), **status_of(lead)}
    write_atomically(folder / STATUS_FILE, (json.dumps(plain(status), indent=1) + "\n").encode())


def read_status(folder: Path) -> dict[str, Any]:
    """How the federation in ``folder`` stands, as its server wrote it last; ``led`` says whether it is led now.

    Raises CheckpointError where there is none.
    """
    try:
        found = json.loads((folder / STATUS_FILE).read_bytes())
    except (OSError, ValueError):
        raise CheckpointError(f"There is no federation in {folder}.", "Give the folder that lead wrote.") from None
    led = locks.is_held(folder / LOCK_FILE)
    if found["state"] == "running" and not led:
        found["state"] = "stopped"
    return {"named": [], **found, "led": led, "output": str(folder)}
