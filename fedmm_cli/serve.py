"""``fedmm serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmm_cli.options import Debug, Parts, PicturesFolder, Quiet, use_parts

WHERE, LIMITS = "Where", "Limits"


def _option(name: str, metavar: str, what: str, panel: str) -> Any:
    return typer.Option(name, metavar=metavar, help=what, rich_help_panel=panel)


def serve(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run, a checkpoint in it, or a folder of runs: the newest.")
    ],
    host: Annotated[str, _option("--host", "ADDRESS", "By default this machine alone can ask.", WHERE)] = "127.0.0.1",
    port: Annotated[int, _option("--port", "INT", "0 takes a free one.", WHERE)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Holds a token that requests must bear. Also: FEDMM_SERVE_TOKEN.",
            rich_help_panel=WHERE,
            show_default=False,
        ),
    ] = None,
    pictures: PicturesFolder = None,
    timeout: Annotated[float, _option("--timeout", "SECONDS", "The longest an answer may take.", LIMITS)] = 5.0,
    max_body: Annotated[int, _option("--max-body", "BYTES", "The largest request.", LIMITS)] = 1_000_000,
    max_waiting: Annotated[int, _option("--max-waiting", "INT", "Requests that may wait; more get 503.", LIMITS)] = 256,
    reload: Annotated[
        float, _option("--reload", "SECONDS", "Between looks for a newer model; 0 is never.", LIMITS)
    ] = 5.0,
    parts: Parts = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer requests for recommendations, similar items and reasons over HTTP, with a page to try them."""
    del debug
    use_parts(parts)
    from fedmm.errors import ConfigError

    for name, value in (("--timeout", timeout), ("--max-body", max_body), ("--max-waiting", max_waiting)):
        if not value > 0:
            raise ConfigError(f"{name} {value} leaves nothing.", "Give a number above 0.")
    if not reload >= 0 or not 0 <= port < 2**16:
        name = f"--port {port}" if reload >= 0 else f"--reload {reload}"
        raise ConfigError(f"{name} cannot be.", "Give a port from 0 to 65535, and seconds from 0.")
    from fedmm.serving.server import read_token
    from fedmm.serving.server import serve as serve_forever

    def say(text: str) -> None:
        if text.startswith("http"):  # the address alone is the result, on stdout
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        elif not quiet:
            sys.stderr.write(f"{text}\n")

    serve_forever(
        run, say, host=host, port=port, timeout=timeout, body_bytes=max_body, waiting=max_waiting,
        reload_seconds=reload, token=read_token(token_file), pictures=pictures,
    )  # fmt: skip
