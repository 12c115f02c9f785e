"""A silo's process from what was typed: its name, its folder, its keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedmm.config import ExperimentConfig
from fedmm.deployment.greeting import valid_name
from fedmm.deployment.join import Where, join
from fedmm.deployment.keys import node_identity
from fedmm.deployment.seals import Checksums
from fedmm.deployment.silo import Silo
from fedmm.deployment.sockets import LOOPBACK
from fedmm.errors import ConfigError
from fedmm.utils import locks
from fedmm.utils.files import storage_error
from fedmm.utils.interrupts import Interrupts
from fedmm.utils.parallel import set_threads

SILOS = Path("silos")
DEFAULT_PORT = 8765


def join_federation(
    config: ExperimentConfig,
    server: str,
    tell: Callable[[str], None],
    *,
    name: str | None = None,
    folder: Path | None = None,
    keys: Path | None = None,
    without: bool = False,
    patience: float = 600.0,
) -> None:
    """Takes part in the federation at ``server`` with the users of ``config.data.path`` until it ends.

    Raises ConfigError for what was typed wrongly and where keys are needed, Interrupted on Ctrl-C and SIGTERM, and
    what ``join`` raises.
    """
    host, port = address_of(server)
    if config.data.path is None:
        raise ConfigError("A silo needs data of its own.", "Give --data FILE.")
    own = silo_name(name, config.data.path)
    if keys is None and host not in LOOPBACK and not without:
        raise ConfigError(
            f"What is sent to {host} could be read on the way.",
            "Give --keys FOLDER (fedmm federation keys makes one), or --no-keys on a network of your own.",
        )
    identity = None if keys is None else node_identity(keys, own)
    set_threads(config.runtime.threads)
    place = folder if folder is not None else SILOS / own
    with Interrupts():
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(place, error) from error
        try:
            lock = locks.take(place / "lock")
        except TimeoutError:
            raise ConfigError(f"{place} is used by another silo.", "Stop it, or give --folder or --name.") from None
        try:
            silo = Silo(own, config, place, identity.seal if identity else Checksums(), tell)
            join(silo, Where(host, port, identity.tls if identity else None, patience), tell)
        finally:
            lock.release()


def silo_name(name: str | None, data: Path) -> str:
    """What a silo is called: ``name``, else as its ``data`` are. Raises ConfigError where that is no name."""
    own = name if name is not None else data.name.partition(".")[0]
    if not valid_name(own):
        remedy = "Give --name with letters, digits, dots, dashes and underscores, up to 64."
        raise ConfigError(f"{own!r} is no name of a silo.", remedy)
    return own


def address_of(text: str) -> tuple[str, int]:
    """Host and port of an address. Raises ConfigError.

    >>> address_of("example.org:9000"), address_of("[::1]:9000"), address_of("example.org")
    (('example.org', 9000), ('::1', 9000), ('example.org', 8765))
    """
    host, colon, port = text.strip().rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text.strip(), str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--server {text!r} is no address.", "Give HOST:PORT, such as example.org:8765.")
    return host, int(port)
