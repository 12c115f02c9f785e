"""Which requests a silo has taken: what comes again, or late, or from a session that is over, is not taken twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from fedmm.deployment.messages import Message, RefusedError
from fedmm.utils.files import write_atomically

FILE = "sequence.json"
MOST_SESSIONS = 1000  # that are remembered: a server opens one each time it starts


@dataclass(eq=False)
class Sequences:
    """The last request taken, on disk where there is a ``folder``: a recorded request says nothing to a later process
    of the same silo."""

    folder: Path | None = None
    _session: str = ""
    _last: int = 0
    _over: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = None if self.folder is None else self.folder / FILE
        if path is None or not path.exists():
            return
        try:
            kept = json.loads(path.read_bytes())
            self._session, self._last, self._over = str(kept["session"]), int(kept["last"]), list(kept["over"])
        except (ValueError, KeyError, TypeError):  # damaged: as if it were the first process
            self._session, self._last, self._over = "", 0, []

    def take(self, request: Message) -> None:
        """Notes a request as taken. Raises RefusedError where it, or a later one, was taken before."""
        if request.session in self._over:
            raise RefusedError("a request of a session that is over: it was recorded.")
        if request.session == self._session:
            if request.sequence <= self._last:
                raise RefusedError(f"request {request.sequence} after request {self._last}: it is late, or repeated.")
        elif self._session:
            self._over = [*self._over, self._session][-MOST_SESSIONS:]
        self._session, self._last = request.session, request.sequence
        if self.folder is not None:
            kept = {"session": self._session, "last": self._last, "over": self._over}
            write_atomically(self.folder / FILE, json.dumps(kept).encode())
