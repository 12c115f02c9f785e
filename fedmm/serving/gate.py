"""What every request passes: the token, the size of its body, the meters. Plain ASGI, since it stands in all paths."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.responses import Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
OPEN = ("/", "/page.js", "/health")  # without the token
KNOWN = (*OPEN, "/recommend", "/similar", "/explain", "/picture", "/metrics", "/docs", "/openapi.json", "/redoc")
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LOG = logging.getLogger("fedmm.serving")


class Meters:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("fedmm_requests", "Answers", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "fedmm_request_seconds", "Time to the answer", ["path"], buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "fedmm_batch_size", "Requests computed together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.reloads = Counter("fedmm_reloads", "Newer models taken over", registry=self.registry)
        self.round = Gauge("fedmm_model_round", "Round of the model that answers", registry=self.registry)


class Gate:
    """Lets requests through to ``app``."""

    def __init__(self, app: Any, meters: Meters, token: str | None, body_bytes: int) -> None:
        self.app, self.meters, self.body_bytes = app, meters, body_bytes
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, started = time.perf_counter(), 500, False
        path = scope["path"] if scope["path"] in KNOWN else "other"

        async def sends(message: Scope) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            await self._pass(scope, receive, sends)
        except Exception as error:
            LOG.error("%s: %s", type(error).__name__, error)  # no traceback reaches whoever asks
            if not started:
                await fault(500, "bug", "The server failed.")(scope, receive, sends)
        finally:
            self.meters.requests.labels(path, str(status)).inc()
            self.meters.seconds.labels(path).observe(time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self.token is not None and scope["path"] not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.token):
                answer = fault(401, "token", "The bearer token is missing or wrong.", "Authorization: Bearer TOKEN",
                               {"WWW-Authenticate": "Bearer"})  # fmt: skip
                await answer(scope, receive, send)
                return
        size = headers.get(b"content-length", b"0")
        body = None
        if size.isdigit() and int(size) <= self.body_bytes:
            body = await self._body(receive)
        if body is None:
            await fault(413, "size", f"The body has more than {self.body_bytes} bytes.")(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is larger than it may be, whatever its head said."""
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return b"".join(parts)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.body_bytes:
                return None
            more = message.get("more_body", False)
        return b"".join(parts)


def fault(status: int, code: str, message: str, remedy: str = "", headers: dict[str, str] | None = None) -> Response:
    """An answer that says what is wrong; whatever the text holds, it is ASCII on the wire."""
    content = json.dumps({"error": {"code": code, "message": message, "remedy": remedy}}, ensure_ascii=True)
    return Response(content.encode(), status, {"content-type": "application/json", **(headers or {})})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read already, then whatever comes."""
    given = False

    async def again() -> Scope:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
