"""The transport between processes: silos connect to the server, over TLS where they are on other machines.

A silo opens the connection, says its name, and where there are keys signs what the server drew for this connection; so
a silo needs no open port. One thread a connection reads answers; whoever speaks out of turn or too much is cut off.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedmm.deployment import greeting
from fedmm.deployment.events import Events
from fedmm.deployment.frames import quiet_close, receive_frame, send_frame
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.seals import Seal
from fedmm.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
GREETING_SECONDS = 10.0
MOST_GREETING = 10_000
MOST_WAITING = 4  # answers of one silo that wait to be read
POLL_SECONDS = 0.2
WELCOME, REFUSED = b"welcome", b"refused"
_GONE = b""


@dataclass(eq=False)
class Line:
    """One silo's connection."""

    node: str
    stream: socket.socket
    writing: threading.Lock = field(default_factory=threading.Lock)
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MOST_WAITING))


@dataclass(eq=False)
class SocketTransport:
    """The server's end. Use it in a ``with`` statement: leaving it closes all connections and ends its threads."""

    host: str
    port: int  # 0 takes a free one
    seal: Seal
    tls: ssl.SSLContext | None = None
    events: Events = field(default_factory=Events)
    known: Mapping[str, bytes] | None = None  # the nodes that may join; None: anyone
    _lines: dict[str, Line] = field(default_factory=dict)
    _answers: queue.Queue[tuple[Line, bytes]] = field(default_factory=queue.Queue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _closing: bool = False

    def __enter__(self) -> SocketTransport:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((self.host, self.port))
        except OSError as error:
            self._listener.close()
            raise ConfigError(
                f"The server cannot listen on {self.host}:{self.port}: {error.strerror or error}.",
                "Give another --host or --port; --port 0 takes a free one.",
            ) from None
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *about: object) -> None:
        self._closing = True
        quiet_close(self._listener)
        with self._lock:
            lines = list(self._lines.values())
        for line in lines:
            quiet_close(line.stream)
            line.room.release()  # whoever waits for room finds the line closed
        for thread in self._threads:
            thread.join(GREETING_SECONDS)

    def nodes(self) -> Sequence[str]:
        """Who is connected."""
        with self._lock:
            return sorted(self._lines)

    def exchange(self, requests: Sequence[tuple[str, bytes]], seconds: float) -> Iterator[tuple[str, bytes]]:
        """Sends the requests and yields what comes back."""
        while not self._answers.empty():
            yield from self._taken(0.0)  # late ones, which whoever asked refuses
        waiting = {node for node, data in requests if self._send(node, data)}
        until = time.monotonic() + seconds
        while waiting and (left := until - time.monotonic()) > 0:
            for node, data in self._taken(min(left, POLL_SECONDS)):
                waiting.discard(node)
                yield node, data
            if self._answers.empty():
                waiting &= set(self.nodes())

    def _taken(self, seconds: float) -> list[tuple[str, bytes]]:
        """The next answer, where one is there within ``seconds``."""
        try:
            line, data = self._answers.get(timeout=seconds) if seconds else self._answers.get_nowait()
        except queue.Empty:
            return []
        if data == _GONE:
            return []
        line.room.release()
        return [(line.node, data)]

    def _send(self, node: str, data: bytes) -> bool:
        with self._lock:
            line = self._lines.get(node)
        if line is None:
            return False
        try:
            with line.writing:
                send_frame(line.stream, data)
        except OSError:
            quiet_close(line.stream)
            return False
        return True

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads = [own for own in self._threads if own.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                stream, address = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, stream, str(address[0]))

    def _serve(self, stream: socket.socket, address: str) -> None:
        """One connection, from its greeting to its end."""
        line = None
        try:
            stream.settimeout(GREETING_SECONDS)
            if self.tls is not None:
                stream = self.tls.wrap_socket(stream, server_side=True)
            line = Line(self._greet(stream), stream)
            stream.settimeout(None)
            self._enter(line)
            while True:
                line.room.acquire()  # who sends without being asked waits until the others have been read
                self._answers.put((line, receive_frame(stream)))
        except RefusedError as error:
            if line is None:
                with contextlib.suppress(OSError):
                    send_frame(stream, REFUSED)
            self.events.add("refused", address=address, node=line.node if line else "", why=str(error)[:200])
        except (OSError, EOFError) as error:
            if line is None and not self._closing:
                self.events.add("refused", address=address, node="", why=f"no greeting ({type(error).__name__})")
        finally:
            quiet_close(stream)
            if line is not None:
                self._leave(line)

    def _greet(self, stream: socket.socket) -> str:
        """The name that whoever connects proves to have. Raises RefusedError."""
        drawn = greeting.draw()
        send_frame(stream, greeting.question(drawn))
        node = greeting.proven(receive_frame(stream, MOST_GREETING), drawn, self.seal)
        send_frame(stream, WELCOME)
        return node

    def _enter(self, line: Line) -> None:
        with self._lock:
            before = self._lines.pop(line.node, None)
            self._lines[line.node] = line
        if before is not None:  # the silo came back before its old line was known to be dead
            quiet_close(before.stream)
        self.events.add("connected", node=line.node)

    def _leave(self, line: Line) -> None:
        with self._lock:
            if self._lines.get(line.node) is line:
                del self._lines[line.node]
        self._answers.put((line, _GONE))
        self.events.add("left", node=line.node)


def connect(
    host: str, port: int, node: str, seal: Seal, tls: ssl.SSLContext | None, seconds: float = GREETING_SECONDS
) -> socket.socket:
    """A silo's connection to the server. Raises OSError where nobody answers, ssl.SSLError for a wrong certificate,
    RefusedError where the server takes it for nobody it knows."""
    stream = socket.create_connection((host, port), timeout=seconds)
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is not None:
            stream = tls.wrap_socket(stream, server_hostname=host)
        asked = receive_frame(stream, MOST_GREETING)
        if not greeting.is_question(asked):
            raise RefusedError(f"{host}:{port} is no server of fedmm.", "Give the address that lead prints.")
        send_frame(stream, greeting.answer(asked, node, seal))
        if receive_frame(stream, MOST_GREETING) != WELCOME:
            remedy = "Its key must be among those that the server knows (nodes/)."
            raise RefusedError(f"{host}:{port} did not let {node!r} in.", remedy)
    except ssl.SSLError:  # which is a ValueError where a certificate is wrong
        quiet_close(stream)
        raise
    except EOFError:
        quiet_close(stream)
        raise ConnectionError(f"{host}:{port} closed the connection") from None
    except BaseException:
        quiet_close(stream)
        raise
    stream.settimeout(None)
    return stream
