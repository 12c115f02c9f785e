"""``fedmm federation``: a server and silos on machines of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmm_cli.help_pages import help_if_alone
from fedmm_cli.options import FLAGS, Debug, Given, Json, Quiet, SettingsCommand, require_files, takes_settings
from fedmm_cli.output import print_json

WHERE, ROUNDS, KEYS = "Where", "Rounds", "Keys"
PORT = 8765
SILO_FLAGS = tuple(
    flag
    for flag in FLAGS
    if flag.name in ("--data", "--columns", "--where", "--sql", "--device", "--threads", "--engine")
)

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Lead a federation of silos on machines of their own, and join one."""
    help_if_alone(context)


def _option(name: str, metavar: str, what: str, panel: str, **more: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=what, rich_help_panel=panel, **more)


KeysFolder = Annotated[
    Path | None, _option("--keys", "FOLDER", "Keys and certificate (see: keys).", KEYS, show_default=False)
]


@app.command("lead", cls=SettingsCommand)
@takes_settings(FLAGS)
def lead(
    given: Given,
    *,
    host: Annotated[str, _option("--host", "ADDRESS", "By default this machine alone can join.", WHERE)] = "127.0.0.1",
    port: Annotated[int, _option("--port", "INT", "0 takes a free one.", WHERE)] = PORT,
    health_port: Annotated[
        int | None, _option("--health-port", "INT", "Answers GET /health there.", WHERE, show_default=False)
    ] = None,
    catalogue: Annotated[
        Path | None,
        _option(
            "--catalogue", "FILE", "Table with one row an item. Default: the items of the data.", WHERE,
            show_default=False,
        ),
    ] = None,
    silos: Annotated[int, _option("--silos", "INT", "Silos that have to be there before the first round.", ROUNDS)] = 1,
    quorum: Annotated[float, _option("--quorum", "SHARE", "Of a round's clients that have to count.", ROUNDS)] = 0.5,
    deadline: Annotated[float, _option("--deadline", "SECONDS", "The longest a round waits for its silos.", ROUNDS)] = (
        600.0
    ),
    min_users: Annotated[int, _option("--min-users", "INT", "A silo with fewer, or of a round, is out.", ROUNDS)] = 1,
    take_back: Annotated[
        list[str] | None,
        _option("--take-back", "NAME", "A silo that lied and was left out (see: status).", ROUNDS, show_default=False),
    ] = None,
    keys: KeysFolder = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Neither keys nor TLS, wherever it listens.", rich_help_panel=KEYS)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Lead rounds among silos that join, and keep what they learn; the same command goes on after a stop or a kill."""
    del debug
    settings = given.load()
    _require_possible(silos, quorum, deadline, min_users, (port, health_port or 0))
    require_files(settings)
    from fedmm.deployment.leading import Listening, lead_federation
    from fedmm.deployment.members import LeadOptions
    from fedmm_cli.federation_report import print_outcome
    from fedmm_cli.progress import make_observer

    def say(address: str) -> None:
        if as_json:
            sys.stderr.write(f"{address}\n")
        else:  # the address is the first thing on stdout, for scripts
            sys.stdout.write(f"{address}\n")
            sys.stdout.flush()

    listening = Listening(host, port, keys, no_keys)
    health = None if health_port is None else (host, health_port)
    options = LeadOptions(silos, quorum, deadline, min_users=min_users, take_back=tuple(take_back or ()))
    with make_observer(settings, quiet=quiet, stream=sys.stderr) as observer:
        result = lead_federation(settings, observer, listening, options, items=catalogue, health=health, say=say)
    print_json(result) if as_json else print_outcome(result)


def _require_possible(silos: int, quorum: float, deadline: float, min_users: int, ports: tuple[int, int]) -> None:
    """Raises ConfigError for numbers of ``lead`` that cannot be."""
    from fedmm.errors import ConfigError

    wrong = {
        f"--silos {silos}": silos < 1,
        f"--quorum {quorum}": not 0 < quorum <= 1,
        f"--deadline {deadline}": not deadline > 0,
        f"--min-users {min_users}": min_users < 1,
    }
    for given_as, is_so in wrong.items():
        if is_so:
            remedy = "Give silos and users from 1, a share above 0 and up to 1, seconds above 0."
            raise ConfigError(f"{given_as} cannot be.", remedy)
    if not all(0 <= own < 2**16 for own in ports):
        raise ConfigError(f"--port {ports[0]} or --health-port {ports[1]} is no port.", "Give 0 to 65535.")


@app.command("join", cls=SettingsCommand)
@takes_settings(SILO_FLAGS)
def join(
    given: Given,
    *,
    server: Annotated[str, _option("--server", "HOST:PORT", "Where the federation is led.", WHERE)] = (
        f"127.0.0.1:{PORT}"
    ),
    name: Annotated[
        str | None, _option("--name", "NAME", "What the silo is called. Default: that of the data.", WHERE)
    ] = None,
    folder: Annotated[
        Path | None, _option("--folder", "FOLDER", "What stays with its users. Default: silos/NAME.", WHERE)
    ] = None,
    patience: Annotated[
        float, _option("--patience", "SECONDS", "Without a server before the silo gives up.", WHERE)
    ] = 600.0,
    keys: KeysFolder = None,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Neither keys nor TLS, wherever the server is.", rich_help_panel=KEYS)
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Take part with the users of a file: they are trained here, and sums over them are sent."""
    del debug
    settings = given.load()
    require_files(settings)
    from fedmm.deployment.joining import join_federation

    def tell(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    join_federation(settings, server, tell, name=name, folder=folder, keys=keys, without=no_keys, patience=patience)


@app.command("status")
def status(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that lead writes.")] = Path("federation"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a federation stands: its round, its silos, and what was refused."""
    del debug
    from fedmm.deployment.leading import read_status
    from fedmm_cli.federation_report import print_status

    found = read_status(folder)
    print_json(found) if as_json else print_status(found)


@app.command("keys")
def keys(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where they are written.")],
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="HOST", help="Key and certificate of a server of this name or address."),
    ] = None,
    node: Annotated[str | None, typer.Option("--node", metavar="NAME", help="Key of a silo of this name.")] = None,
    debug: Debug = False,
) -> None:
    """Make the keys of a server or of a silo. Secret ones end in .key and never leave the machine."""
    del debug
    from fedmm.errors import ConfigError

    if (server is None) == (node is None):
        raise ConfigError("keys makes one side's keys at a time.", "Give --server HOST or --node NAME.")
    from fedmm.deployment.greeting import valid_name
    from fedmm.deployment.keys import make_node_keys, make_server_keys

    if node is not None and not valid_name(node):
        raise ConfigError(
            f"--node {node!r} is no name.", "Use letters, digits, dots, dashes and underscores, up to 64."
        )
    made = make_node_keys(folder, node) if node is not None else make_server_keys(folder, server or "")
    for path in made:
        typer.echo(str(path))
