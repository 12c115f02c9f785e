"""How commands end: one line for an error, one JSON object on stdout, and exit codes that scripts can trust."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import typer

from fedmm.utils.trees import plain

USAGE, CTRL_C, TERMINATED = 2, 130, 143
STORAGE_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENAMETOOLONG,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO,
)  # fmt: skip
MEMORY_WORDS = ("not enough memory", "can't allocate memory", "out of memory")

# typer shows its own copy of click's exceptions, or click's: the common root of "the command line is wrong" in either.
UsageError: type[Exception] = typer.BadParameter.__mro__[2]


class Terminated(BaseException):
    """SIGTERM. Not an Exception, so that nothing on the way takes it for a failure of its own."""


def run_command(body: Callable[[], Any], arguments: list[str]) -> int:
    """Runs a whole command line and returns the exit code; prints whatever goes wrong, in one way.

    ``--json`` and ``--debug`` are read from the arguments themselves, so that errors before the command obey them too.
    """
    typed = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json, debug = "--json" in typed, "--debug" in typed
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_raises():
            code = body()
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = CTRL_C
    except Terminated:
        return fail("interrupted", "Stopped by SIGTERM.", "", TERMINATED, as_json)
    except BrokenPipeError:
        return _hang_up()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _failure(error, as_json, debug)
    if code == CTRL_C:  # newer typer returns it, older raises
        return fail("interrupted", "Stopped by Ctrl-C.", "", CTRL_C, as_json)
    return code if isinstance(code, int) else 0


def fail(code: str, message: str, remedy: str, exit_code: int, as_json: bool) -> int:
    """Prints one error and returns its exit code."""
    message, remedy = _one_line(message), _one_line(remedy)
    if as_json:
        from fedmm import __version__

        error = {"code": code, "message": message, "remedy": remedy}
        print_json({"version": __version__, "status": "failed", "error": error})
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(_wrapped(f"error: {message}") + (_wrapped(f"  remedy: {remedy}") if remedy else ""))
        sys.stderr.flush()
    return exit_code


def print_json(value: Mapping[str, Any]) -> None:
    """The one object that a command with ``--json`` prints on stdout; numbers that JSON lacks become null."""
    sys.stdout.write(json.dumps(plain(value), indent=1, allow_nan=False) + "\n")
    sys.stdout.flush()


def _failure(error: Exception, as_json: bool, debug: bool) -> int:
    from fedmm.errors import FedmmError

    if isinstance(error, FedmmError):
        return fail(error.code, error.message, error.remedy, error.exit_code, as_json)
    if isinstance(error, UsageError):
        return _usage(error, as_json)
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        remedy = "Free space, mend the path or its permissions, or choose another folder (--output)."
        return fail("storage", f"{error.filename or 'A file'} cannot be used: {error.strerror}.", remedy, 1, as_json)
    if isinstance(error, MemoryError) or any(word in str(error) for word in MEMORY_WORDS):
        remedy = "Lower runtime.block_size, federation.batch_size or model.hidden_dim."
        return fail("memory", "There is not enough memory for this run.", remedy, 1, as_json)
    return _unforeseen(error, debug, as_json)


def _unforeseen(error: Exception, debug: bool, as_json: bool) -> int:
    """An error of a part of the user's own, where it came out of one, else a bug of fedmm's."""
    from fedmm.config.part_errors import part_error, suspects

    blamed, others = part_error(error), suspects()
    trace = "" if debug else "; run again with --debug for the traceback"
    if blamed is not None:
        return fail(blamed.code, blamed.message, f"{blamed.remedy.rstrip('.')}{trace}.", blamed.exit_code, as_json)
    what, remedy = f"{type(error).__name__}: {error}", f"Please report it{trace}."
    if not others:
        return fail("bug", f"This is a bug in fedmm: {what}", remedy, 1, as_json)
    remedy = f"See whether your parts return what they should (fedmm.testing checks them). If they do: {remedy}"
    return fail("bug", f"{what} (with your {others})", remedy, 1, as_json)


def _usage(error: Exception, as_json: bool) -> int:
    explain: Callable[[], str] = getattr(error, "format_message", error.__str__)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "fedmm"
    message, name, remedy = explain(), getattr(error, "option_name", None), ""
    if name is not None and context is not None and hasattr(error, "possibilities"):  # the parser's own guess misleads
        from fedmm.config.names import suggestion
        from fedmm_cli.unknown_options import nearest_option

        message = f"No such option: {name}. {suggestion(nearest_option(name, context.command))}".strip()
    elif context is not None:
        from fedmm_cli.unknown_words import misread_value, remedy_for

        message, remedy = misread_value(error) or (message, remedy_for(message, context))
    stop = "" if message.endswith((".", ")", "?")) else "."
    return fail("usage", f"{message}{stop}", remedy or f"See {command} --help", USAGE, as_json)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that files get closed; a run in progress has a handler of its own."""

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _hang_up() -> int:
    """Nobody reads on (``| head``): what is still buffered goes nowhere, or the interpreter complains as it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _wrapped(line: str) -> str:
    """A line for stderr, broken between words where that is a terminal."""
    if not sys.stderr.isatty():
        return f"{line}\n"
    width = max(20, shutil.get_terminal_size().columns)
    indent = "    " if line.startswith(" ") else "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
