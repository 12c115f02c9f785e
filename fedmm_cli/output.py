"""How commands end: one line for an error, one JSON object on stdout, and exit codes that scripts can trust."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

USAGE = 2


def run_command(body: Callable[[], Any], arguments: list[str]) -> int:
    """Runs a whole command line and returns the exit code; nothing but SystemExit of our own leaves here.

    ``--json`` and ``--debug`` are read from the arguments themselves, so that errors before the command also obey them.
    """
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        body()
    except SystemExit as error:
        return _usage_exit(error, as_json)
    except KeyboardInterrupt:
        return fail("interrupted", "Stopped by Ctrl-C.", "", 130, as_json)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _failure(error, as_json, debug)
    return 0


def fail(code: str, message: str, remedy: str, exit_code: int, as_json: bool) -> int:
    """Prints one error and returns its exit code."""
    if as_json:
        from fedmm import __version__

        error = {"code": code, "message": message, "remedy": remedy}
        print_json({"version": __version__, "status": "failed", "error": error})
    sys.stderr.write(f"error: {message}\n" + (f"  {remedy}\n" if remedy else ""))
    return exit_code


def print_json(value: dict[str, Any]) -> None:
    """The one object that a command with ``--json`` prints on stdout."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _usage_exit(error: SystemExit, as_json: bool) -> int:
    code = error.code if isinstance(error.code, int) else int(error.code is not None)
    if as_json and code == USAGE:  # typer has explained it on stderr
        return fail("usage", "The command line could not be understood.", "See --help.", USAGE, as_json)
    return code


def _failure(error: Exception, as_json: bool, debug: bool) -> int:
    from fedmm.errors import FedmmError

    if isinstance(error, FedmmError):
        return fail(error.code, error.message, error.remedy, error.exit_code, as_json)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
        message = f"{error.filename or 'a file'} cannot be written or read: {error.strerror}."
        return fail("storage", message, "Free space or choose another folder with --output.", 1, as_json)
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        remedy = "Lower runtime.block_size, federation.batch_size or model.hidden_dim."
        return fail("memory", "There is not enough memory.", remedy, 1, as_json)
    remedy = "" if debug else "This is a bug in fedmm. Run again with --debug for the traceback, and report it."
    return fail("bug", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", remedy, 1, as_json)
