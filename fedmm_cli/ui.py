"""``fedmm ui``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from fedmm_cli.options import Debug

DEFAULT_PORT = 5000


def ui(
    port: Annotated[int, typer.Option("--port", metavar="INT", help="Port; 0 = any free one.")] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option("--host", metavar="TEXT", help="Address to listen on; others than your own show it to others."),
    ] = "127.0.0.1",
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URI", help="MLflow store or server. Default: the one that training uses."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Open this experiment's runs.")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="Open this study: its parent run.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    debug: Debug = False,
) -> None:
    """Show the runs in MLflow: starts its server over the project's store until Ctrl-C, and opens the right page."""
    del debug
    from fedmm.config.load import load_config
    from fedmm.tracking.mlflow_server import MlflowServer, find_page, require_store
    from fedmm.tracking.mlflow_store import redacted, resolve_uri

    tracking = load_config(environment=os.environ).tracking
    uri = resolve_uri(store if store is not None else tracking.uri, os.environ)
    require_store(uri)
    page = find_page(uri, experiment, study, tracking.experiment)
    if uri.startswith(("http://", "https://")):  # a server already: there is nothing to start
        _show(f"{redacted(uri).rstrip('/')}/{page}", browser)
        return
    server = MlflowServer(uri, host, port)
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # a closed terminal ends the server too
    sys.stderr.write(f"Starting MLflow over {redacted(uri)} ...\n")
    with server:
        # A handler that only sets a flag: Python drops a KeyboardInterrupt that is raised inside a finaliser.
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        _show(f"{server.address}{page}", browser)
        sys.stderr.write("Ctrl-C ends it.\n")
        server.wait(stop)
        sys.stderr.write("\n")


def _show(address: str, browser: bool) -> None:
    """The address on stdout, and the page in a browser where a person would see one."""
    typer.echo(address)
    graphical = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if browser and graphical and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(address)
