"""Help pages: no type where it says nothing, and no flag cut on a narrow terminal."""

from __future__ import annotations

import shutil
from typing import Any

import typer

NARROW = 80  # columns; in fewer, the panels cut flags and values


def is_narrow() -> bool:
    """Whether the terminal is too narrow for panels."""
    return shutil.get_terminal_size().columns < NARROW


def with_readable_help(command: Any, *, narrow: bool) -> Any:
    """The command, and all below it, whose help shows names as they are typed.

    No type stands beside a flag (it would invite a value, which flags refuse) or an argument (``<list[str]>`` means
    nothing to a reader). Where the terminal is ``narrow``, a page of options is a plain list: panels would end long
    flags in dots. Paragraphs are broken where the terminal ends, not where the source does.
    """
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n"))
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            _bare(parameter)
        elif getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    made = command.get_help_option

    def help_option(context: Any) -> Any:
        option = made(context)
        if option is not None:
            option.metavar = ""
        return option

    command.get_help_option = help_option
    below = getattr(command, "commands", {}).values()
    if not below and narrow:
        command.rich_markup_mode = None
    for own in below:
        with_readable_help(own, narrow=narrow)
    return command


def _bare(argument: Any) -> None:
    """Shows an argument by its name, in brackets on the line of usage where it may be left out."""
    usage = argument.metavar if argument.required else f"[{argument.metavar}]"
    argument.display_type_rich = lambda **_: ""
    argument.get_usage_pieces = lambda *_: [usage]


def help_if_alone(context: typer.Context) -> None:
    """Prints a group's help where no command of it was named."""
    if context.invoked_subcommand is None:
        text = context.get_help()
        if text:
            typer.echo(text)
        raise typer.Exit
