"""``fedmm serve``: loads the application with its packages, and runs it."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.errors import ConfigError, StorageError
from fedmm.recommendation.pictures import Pictures

if TYPE_CHECKING:
    from fedmm.serving.current import Say

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
EXTRA = 'pip install "fedmm[serve]"'
TOKEN = "FEDMM_SERVE_TOKEN"
SWITCH_SECONDS = (
    0.0005  # Python's own 0.005 would let who answers wait so long for who computes, several times a request
)


def serve(
    path: Path,
    say: Say,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    timeout: float = 5.0,
    body_bytes: int = 1_000_000,
    waiting: int = 256,
    reload_seconds: float = 5.0,
    token: str | None = None,
    pictures: Path | None = None,
) -> None:
    """Serves the model of a run, or of the newest of several in a folder, until it is stopped. ``say`` hears the
    address once requests are taken, of newer models, and of what is unsafe. ``pictures`` is a folder of files by
    item id.

    Raises ConfigError where the packages of the extra ``serve`` are missing or ``pictures`` is no such folder,
    CheckpointError where there is no model,
    StorageError where the port is taken.
    """
    require()
    import torch
    import uvicorn

    from fedmm.serving.app import Limits, make_app
    from fedmm.serving.current import Current

    shown = None if pictures is None else Pictures.of(pictures)
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(1)  # one request is little work: a second thread would wait for the first
    if token is None and not is_loopback(host):
        say(f"Everybody who reaches {host} can ask: set {TOKEN}, or --token-file.")
    current = Current(path)
    gc.collect()
    gc.freeze()  # the model and all packages stay: collections need not look through them
    limits = Limits(timeout, body_bytes, waiting, reload_seconds)
    config = uvicorn.Config(
        make_app(current, say, token=token, limits=limits, pictures=shown),
        host=host, port=port, log_level=logging.CRITICAL, access_log=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=5, server_header=False, h11_max_incomplete_event_size=65536, ws="none",
    )  # fmt: skip
    bound = _bind(host, port)
    try:
        say(f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()


def require() -> None:
    """Raises ConfigError where a package of the extra is not installed."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"Serving needs {' and '.join(missing)}.", f"Install the extra: {EXTRA}.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None) -> str | None:
    """The token of a file, else of the variable FEDMM_SERVE_TOKEN; None without either. Raises ConfigError where the
    file cannot be read or is empty."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--token-file {path} cannot be read: {error}.", "Give a file with the token.") from None
    if not token:
        raise ConfigError(f"--token-file {path} is empty.", "Write the token into it.")
    return token


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(512)  # who asks before all is ready waits
    except OSError as error:
        made.close()
        raise StorageError(f"{host}:{port} cannot be used: {error.strerror}.", "Choose another: --port.") from None
    made.set_inheritable(False)
    return made
