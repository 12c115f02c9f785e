"""Whether the server is well, over HTTP: one address, one JSON object."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fedmm.errors import ConfigError
from fedmm.utils.trees import plain

Status = Callable[[], Mapping[str, Any]]


@contextmanager
def serve_health(host: str, port: int, status: Status) -> Iterator[int]:
    """Answers ``GET /health`` with the status while the block runs; gives the port. Raises ConfigError where it is
    taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.partition("?")[0] == "/health"
            found = {"status": "ok", **status()} if known else {"error": "there is only /health"}
            body = json.dumps(plain(found)).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            """Nothing: who asks is nobody's business."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ConfigError(
            f"Health cannot be served on {host}:{port}: {error.strerror or error}.", "Give another --health-port."
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
