"""Ctrl-C and SIGTERM during a run: at once between writes, after the write during one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from fedmm.errors import FedmmError


class Interrupted(FedmmError):  # noqa: N818 - an interruption is not an error
    """The run was stopped from outside and can be resumed. ``exit_code`` is 128 + the signal's number: 130 or 143."""

    code = "interrupted"

    def __init__(self, number: int, message: str = "", remedy: str = "") -> None:
        super().__init__(message or f"Stopped by {signal.Signals(number).name}.", remedy)
        self.signal_number = number
        self.exit_code = 128 + number


class StoppedEarly(Exception):  # noqa: N818 - a decision, not an error
    """Whoever watches a run wants no more of its rounds; a study's pruner does. ``str`` says why."""


class Stop(BaseException):
    """A signal, raised where the main thread stood. Not an Exception: a tracking store or a plotting library on the way
    must not take it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal_number = number
        self.exit_code = 128 + number


class Interrupts:
    """While entered, SIGINT and SIGTERM raise ``Stop``; what leaves the block is ``Interrupted``."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._shielded = False
        self._pending: int | None = None

    def __enter__(self) -> Interrupts:
        # Python delivers signals to the main thread only; elsewhere (a study's worker thread) the caller decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, Stop):
            raise Interrupted(error.signal_number) from None

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Holds a signal back until the block is done: what is being written gets finished."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._pending is not None:
            raise Stop(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._pending = number  # kept: Python drops what is raised inside a finaliser, the next shield raises it again
        if not self._shielded:
            raise Stop(number)
