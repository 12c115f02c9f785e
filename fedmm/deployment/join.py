"""A silo's process: it connects to the server, answers what it is asked, and connects again where the line broke."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedmm.deployment.frames import quiet_close, receive_frame, send_frame
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.silo import Silo
from fedmm.deployment.sockets import connect
from fedmm.errors import FedmmError

FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0


class UnreachableError(FedmmError):
    """A server that does not answer, or is not the one whose certificate is known."""

    code = "unreachable"
    exit_code = 1


@dataclass(frozen=True)
class Where:
    """The server's address, and how it proves to be the one."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    patience: float = 600.0  # seconds without a connection before the silo gives up

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def join(silo: Silo, where: Where, tell: Callable[[str], None]) -> None:
    """Answers the server until the federation ends. Raises UnreachableError where nobody answers for too long, or with
    another certificate; RefusedError where the server does not let the silo in; and what ends the silo itself."""
    wait, alone = FIRST_WAIT, time.monotonic()
    while not silo.finished:
        try:
            stream = connect(where.host, where.port, silo.name, silo.seal, where.tls)
        except ssl.SSLCertVerificationError as error:
            raise UnreachableError(
                f"{where} shows a certificate that is not the known one ({error.verify_message}).",
                "Ask whoever leads the federation for server.pem, and give the --server name that it is made for.",
            ) from None
        except OSError as error:
            if time.monotonic() - alone > where.patience:
                raise UnreachableError(
                    f"{where} does not answer: {error.strerror or error}.",
                    "Start it with fedmm federation lead, or give its address (--server HOST:PORT).",
                ) from None
            if wait == FIRST_WAIT:
                tell(f"waiting for {where}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
            continue
        tell(f"connected to {where} as {silo.name}")
        wait = FIRST_WAIT
        try:
            _serve(silo, stream)
        finally:
            quiet_close(stream)
        alone = time.monotonic()


def _serve(silo: Silo, stream: socket.socket) -> None:
    """Answers requests until the federation ends or the line breaks. Raises what ended the silo."""
    try:
        while not silo.finished:
            answer = silo.answer(receive_frame(stream))
            send_frame(stream, answer)
            if silo.failure is not None:
                raise silo.failure
    except (OSError, EOFError, RefusedError) as error:
        if error is silo.failure:
            raise
