"""Flower: its SuperLink carries the messages, its apps run server and silos (Beutel et al., *Flower: a friendly
federated learning framework*, 2020). What they say and hear is as over any other transport.

Every message wakes a new process of the silo's app, so a silo goes on from its own disk each time; Flower's ``Context``
keeps nothing. What only the server needs is loaded late: such a process spends most of its time on loading. The parts
that know no Flower stand in ``mail.py`` and ``flower_settings.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm.deployment.events import Events
from fedmm.deployment.mail import GREETING_SECONDS, MailTransport
from fedmm.deployment.seals import Checksums, Seal
from fedmm.errors import ConfigError, FedmmError

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

    from fedmm.deployment.flower_settings import LeadSettings
    from fedmm.deployment.leading import Carried
    from fedmm.federation.reports import RoundReport

RECORD, CONTENT = "fedmm", "bytes"
LOG = logging.getLogger("flwr")


@dataclass(frozen=True, eq=False)
class GridOffice:
    """Flower's grid as a post office."""

    grid: Grid

    def there(self) -> Collection[int]:
        """The numbers of the nodes that are online."""
        return set(self.grid.get_node_ids())

    def send(self, letters: Sequence[tuple[int, bytes]], seconds: float) -> Sequence[str | None]:
        """Pushes messages, each for its node."""
        from flwr.app import Message

        ttl = max(seconds, GREETING_SECONDS)
        return [
            next(iter(self.grid.push_messages([Message(packed(data), number, "query", ttl=ttl)])), None)
            for number, data in letters
        ]

    def fetch(self, letters: Collection[str]) -> Sequence[tuple[str, bytes | None]]:
        """Pulls the answers that are there; an error of Flower's stands for one that never comes."""
        return [(own.metadata.reply_to_message_id, unpacked(own)) for own in self.grid.pull_messages(list(letters))]


def packed(data: bytes) -> Any:
    """Bytes as the content of one of Flower's messages."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, RecordDict

    return RecordDict({RECORD: ArrayRecord({CONTENT: Array(np.frombuffer(data, dtype=np.uint8))})})


def unpacked(message: Message) -> bytes | None:
    """What ``packed`` made; None where it is something else."""
    if message.has_error():
        LOG.warning("no answer: %s", message.error.reason)
        return None
    record = message.content.array_records.get(RECORD)
    if record is None or CONTENT not in record or record[CONTENT].dtype != "uint8":
        return None
    return bytes(record[CONTENT].numpy().tobytes())


@dataclass(frozen=True, eq=False)
class GridCarrier:
    """A SuperLink, as the server's app reaches it."""

    grid: Grid
    keys: Path | None = None

    def check(self) -> None:
        """Raises ConfigError where keys cannot be read. TLS and who may connect are the SuperLink's affair."""
        self._seal()

    def _seal(self) -> Seal:
        from fedmm.deployment.keys import server_identity

        return Checksums() if self.keys is None else server_identity(self.keys).seal

    @contextmanager
    def opened(self, events: Events) -> Iterator[Carried]:
        """The transport over the grid."""
        from fedmm.deployment.leading import Carried

        seal = self._seal()
        yield Carried(MailTransport(GridOffice(self.grid), seal, events), seal, "a SuperLink")


class LogObserver:
    """Writes what happens into Flower's log."""

    def stage(self, text: str) -> None:
        """One line."""
        LOG.info("%s ...", text)

    def note(self, text: str) -> None:
        """One line."""
        LOG.info(text)

    def warn(self, text: str) -> None:
        """One line."""
        LOG.warning(text)

    def prepared(self, dataset: Any, rounds: int) -> None:
        """Nothing: the server has no data."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """One line a round."""
        del seconds_left
        measured = "".join(f"  {name} {value:.4f}" for name, value in sorted((report.validation or {}).items())[:2])
        LOG.info("round %d of %d: loss %.4f%s", report.round, report.rounds, report.loss, measured)


def server_app() -> ServerApp:
    """The app that leads the federation; its settings are those of ``flwr run``. Raises ConfigError without the
    extra."""
    from fedmm.deployment.flower_settings import lead_settings

    app: ServerApp = _flower("serverapp").ServerApp()

    def main(grid: Grid, context: Context) -> None:
        with _told():
            lead_over(grid, lead_settings(context.run_config, context.run_id))

    app.main()(main)
    return app


def lead_over(grid: Grid, given: LeadSettings) -> dict[str, Any]:
    """Leads a federation over a grid. Raises what ``lead_federation`` does."""
    from fedmm.deployment.leading import lead_federation

    carrier = GridCarrier(grid, given.keys)
    result = lead_federation(given.config, LogObserver(), carrier, given.options, items=given.catalogue)
    for split, found in result["metrics"].items():
        LOG.info("%s: %s", split, "  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    LOG.info("kept in %s", result["output"])
    return result


def client_app() -> ClientApp:
    """The app of a silo; its settings are those of its node. Raises ConfigError without the extra."""
    from fedmm.deployment.flower_settings import silo_settings

    app: ClientApp = _flower("clientapp").ClientApp()

    def query(message: Message, context: Context) -> Message:
        request = unpacked(message)
        with _told():
            if request is None:
                raise FedmmError("A message that is none of fedmm.", "Let fedmm's own app lead.")
            silo = silo_settings(context.node_config, context.run_id)
            return _reply(silo.answer(request, LOG.info), message)

    app.query()(query)
    return app


def _reply(data: bytes, message: Message) -> Message:
    from flwr.app import Message

    return Message(packed(data), reply_to=message)


@contextmanager
def _told() -> Iterator[None]:
    """Writes an error into this side's log alone: Flower sends the text of what is raised to the other side, and what
    went wrong here may name users."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FedmmError):
            LOG.error("error: %s", error)
        else:
            LOG.error("error", exc_info=error)
        raise RuntimeError(f"this side cannot go on ({type(error).__name__}); its own log says why") from None


def _flower(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"flwr.{module}")
    except ImportError:
        raise ConfigError("Flower's apps need the package flwr.", 'Run: pip install "fedmm[flower]"') from None
