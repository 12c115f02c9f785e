"""The report of ``fedmm verify``: a line a check as it is done, grouped, with the value beside its tolerance."""

from __future__ import annotations

import math
import textwrap
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.text import Text

from fedmm.utils.text import in_time

if TYPE_CHECKING:
    from fedmm.verification.checks import Check, Result
    from fedmm.verification.result import VerifyResult

MEASURED_WIDTH = 24
MARK_WIDTH = 7
TELLING = ("honesty", "data")  # groups whose details are worth reading where all is well, too


class Report:
    """Prints each result as it comes. ``quiet`` prints failures alone."""

    def __init__(self, stream: TextIO, total: int, *, quiet: bool) -> None:
        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        self._quiet, self._total, self._done, self._group = quiet, total, 0, ""
        self._status: Status | None = None

    def __enter__(self) -> Self:
        # FORCE_COLOR and the like do not make a terminal of a file.
        if self._stream.isatty() and not self._console.is_dumb_terminal and not self._quiet:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, check: Check) -> None:
        """Says on a terminal what is being measured."""
        if self._status is not None:
            self._status.update(Text(f"{self._done + 1} of {self._total}: {check.name}", style="dim"))

    def add(self, result: Result) -> None:
        """One check's line; a failure brings its detail."""
        self._done += 1
        if self._quiet and result.passed:
            return
        if result.group != self._group:
            self._group = result.group
            self._console.print(Text(result.group.capitalize(), style="bold"))
        self._console.print(_line(result, self._console.width), soft_wrap=True)
        if not result.passed or result.group in TELLING:
            detail = Text(result.detail, style="dim" if result.passed else "")
            self._console.print(Padding(detail, (0, 0, 0, MARK_WIDTH + 2), expand=False))

    def close(self, outcome: VerifyResult) -> None:
        """The last lines."""
        failed = [check for check in outcome.checks if not check.passed]
        seconds = in_time(outcome.seconds)
        if failed:
            text = Text(f"{len(failed)} of {len(outcome.checks)} checks failed ({seconds}):", style="bold red")
            self._console.print(text)
            for check in failed:
                self._console.print(f"  {check.group}: {check.name}", markup=False)
        else:
            self._console.print(Text(f"All {len(outcome.checks)} checks hold ({seconds}).", style="bold green"))


def _line(result: Result, width: int) -> Text:
    """Mark, name and value beside its tolerance, in columns; a long name pushes the value to a line of its own, and is
    broken between words."""
    mark = Text("  ok   ", style="green") if result.passed else Text("  FAIL ", style="bold red")
    measured = "" if result.value is None or result.tolerance is None else f"{_short(result.value)}  {result.tolerance}"
    room = min(width, 110) - MARK_WIDTH - MEASURED_WIDTH
    if len(result.name) < room:
        return Text.assemble(mark, result.name, " " * (room - len(result.name)), (measured, "dim"))
    name = textwrap.wrap(result.name, width - MARK_WIDTH, break_long_words=False, break_on_hyphens=False)
    line = Text.assemble(mark, f"\n{' ' * MARK_WIDTH}".join(name))
    if measured:
        line.append("\n" + " " * max(MARK_WIDTH, min(MARK_WIDTH + room, width - len(measured))))
        line.append(measured, "dim")
    return line


def _short(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) and value == round(value) else f"{value:.3g}"
