"""A server in a thread, and someone who asks it."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from fedmm.recommendation.pictures import Pictures
from fedmm.serving.app import Limits, make_app
from fedmm.serving.current import Current


class Client:
    """Asks one server; every answer is a status and what its body says."""

    def __init__(self, port: int) -> None:
        self.port = port

    def raw(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        status, body = self.raw("GET", path, **headers)
        return status, json.loads(body)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, found = self.raw("POST", path, json.dumps(body).encode(), Content_Type="application/json", **headers)
        return status, json.loads(found)

    def bytes(self, content: bytes) -> bytes:
        """What comes back for bytes that need be no HTTP."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=60)) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def served(
    path: Path,
    said: list[str] | None = None,
    *,
    token: str | None = None,
    pictures: Pictures | None = None,
    **limits: Any,
) -> Iterator[Client]:
    """A server of the model in ``path``; ``said`` collects what it says."""
    say = [].append if said is None else said.append
    app = make_app(Current(path), say, token=token, limits=Limits(**limits), pictures=pictures)
    config = uvicorn.Config(app, log_level=logging.CRITICAL, access_log=False, ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()
