"""Which options stand for which settings, and the decorator that gives a command these options.

A flag's help, choices and default come from the settings tree when the help page is drawn; what is typed stays text
until ``load_config`` reads it, so that a wrong value is explained in one way wherever it came from.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from fedmm_cli.old_options import OLD_OPTIONS, Translation, translate

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig

Command = Callable[..., None]
DATA, MODEL, FEDERATION, EVALUATION, RUN = "Data", "Model", "Federation", "Evaluation", "Run"
PROTOCOLS = {
    "full": ("full",),
    "sampled": ("uniform100", "popularity100"),
    "both": ("full", "uniform100", "popularity100"),
}
EVAL = f"Full ranking, sampled negatives, or both: {', '.join(PROTOCOLS)}"


@dataclass(frozen=True)
class Flag:
    """One option and the setting that it sets; ``constant`` is what a switch without a value sets."""

    name: str
    key: str
    panel: str
    constant: bool | None = None

    @property
    def parameter(self) -> str:
        """The name of the command's parameter."""
        return self.name.removeprefix("--").replace("-", "_")


FLAGS = (
    Flag("--dataset", "data.name", DATA),
    Flag("--data", "data.path", DATA),
    Flag("--visual-features", "data.visual_features", DATA),
    Flag("--text-features", "data.text_features", DATA),
    Flag("--images", "data.images", DATA),
    Flag("--texts", "data.texts", DATA),
    Flag("--attributes", "data.attributes", DATA),
    Flag("--titles", "data.titles", DATA),
    Flag("--split", "data.split", DATA),
    Flag("--validation", "data.validation", DATA),
    Flag("--test", "data.test", DATA),
    Flag("--min-rating", "data.min_rating", DATA),
    Flag("--min-user-interactions", "data.min_user_interactions", DATA),
    Flag("--min-item-interactions", "data.min_item_interactions", DATA),
    Flag("--columns", "data.columns", DATA),
    Flag("--where", "data.where", DATA),
    Flag("--sql", "data.sql", DATA),
    Flag("--fusion", "model.fusion", MODEL),
    Flag("--experts", "model.experts", MODEL),
    Flag("--scoring", "model.scoring", MODEL),
    Flag("--gating-init", "model.gating_init", MODEL),
    Flag("--hidden-dim", "model.hidden_dim", MODEL),
    Flag("--num-blocks", "model.num_blocks", MODEL),
    Flag("--num-heads", "model.num_heads", MODEL),
    Flag("--max-length", "model.max_length", MODEL),
    Flag("--rounds", "federation.rounds", FEDERATION),
    Flag("--client-fraction", "federation.client_fraction", FEDERATION),
    Flag("--warmup-rounds", "federation.warmup_rounds", FEDERATION),
    Flag("--local-steps", "federation.local_steps", FEDERATION),
    Flag("--local-epochs", "federation.local_epochs", FEDERATION),
    Flag("--batch-size", "federation.batch_size", FEDERATION),
    Flag("--local-optimizer", "federation.local_optimizer", FEDERATION),
    Flag("--learning-rate", "federation.learning_rate", FEDERATION),
    Flag("--aggregation", "federation.aggregation", FEDERATION),
    Flag("--server-optimizer", "federation.server_optimizer", FEDERATION),
    Flag("--server-learning-rate", "federation.server_learning_rate", FEDERATION),
    Flag("--epsilon", "privacy.epsilon", FEDERATION),
    Flag("--eval", "evaluation.protocols", EVALUATION),
    Flag("--patience", "evaluation.patience", EVALUATION),
    Flag("--start-from", "runtime.start_from", RUN),
    Flag("--output", "runtime.output", RUN),
    Flag("--seed", "runtime.seed", RUN),
    Flag("--device", "runtime.device", RUN),
    Flag("--threads", "runtime.threads", RUN),
    Flag("--engine", "runtime.engine", RUN),
    Flag("--precision", "runtime.precision", RUN),
    Flag("--kernels", "runtime.kernels", RUN),
    Flag("--ray-address", "runtime.ray_address", RUN),
    Flag("--tracking-uri", "tracking.uri", RUN),
    Flag("--experiment", "tracking.experiment", RUN),
    Flag("--no-tracking", "tracking.enabled", RUN, constant=False),
)
METAVARS = {"integer": "INT", "number": "NUMBER", "string": "TEXT", "path": "PATH", "boolean": "BOOL", "list": "LIST"}
DATA_FLAGS = tuple(flag for flag in FLAGS if flag.panel == DATA)

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only warnings and results.", rich_help_panel=RUN)]
Groups = Annotated[
    bool,
    typer.Option("--groups", help="Also show where the gain is, by groups of users and items.", rich_help_panel=RUN),
]
PicturesFolder = Annotated[
    Path | None,
    typer.Option(
        "--pictures",
        metavar="FOLDER",
        help="Pictures of items, named by item id (.jpg, .png, .webp, .gif), to show beside reasons.",
        show_default=False,
    ),
]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--parts",
        metavar="FILE|MODULE",
        help="Python that registers parts of your own; repeatable.",
        rich_help_panel=RUN,
        show_default=False,
    ),
]
Details = Annotated[
    bool, typer.Option("--details", help="Also show every protocol, paired test and place.", rich_help_panel=RUN)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=RUN)]


@dataclass(frozen=True)
class Given:
    """What was typed about settings, not yet joined."""

    files: tuple[Path, ...] = ()
    assignments: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)  # key -> value
    names: Mapping[str, str] = field(default_factory=dict)  # key -> the option that gave it
    implied: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def load(self, stored: Sequence[Path] = (), flags: Mapping[str, Any] | None = None) -> ExperimentConfig:
        """The settings of all layers, with ``stored`` files below those that were given and ``flags`` on top of all."""
        from fedmm.config import OLD_DEFAULTS
        from fedmm.config.load import load_config

        return load_config(
            (*stored, *self.files),
            os.environ,
            self.assignments,
            {**self.flags, **(flags or {})},
            flag_names=self.names,
            implied={**(OLD_DEFAULTS if stored else {}), **self.implied},
        )


class SettingsCommand(TyperCommand):
    """Fills in the help of flags when it is asked for: loading the tree takes longer than ``fedmm --help`` may."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help page. What it fills in is gone again: parts of one's own may join before the next page."""
        flags = {flag.parameter: flag for flag in FLAGS if flag.constant is None}
        filled: list[Any] = []
        for parameter in self.params:
            option: Any = parameter
            if parameter.name in flags and not option.hidden and not option.help:
                option.metavar, option.help = _describe(flags[parameter.name])
                filled.append(option)
        super().format_help(ctx, formatter)
        for option in filled:
            option.metavar, option.help = None, None


def _describe(flag: Flag) -> tuple[str, str]:
    """What a flag takes, and its line on the help page."""
    from fedmm.config.describe import known_settings
    from fedmm.config.toml import toml_value

    if flag.name == "--eval":
        return "WORD", f"{EVAL}. Default: both."
    setting = known_settings()[flag.key]
    text = f"{setting.description[0].upper()}{setting.description[1:]}"
    if setting.choices:
        text += f": {', '.join(setting.choices)}"
    if setting.default is not None:
        default = toml_value(setting.default).strip('"')
        text += f". Default: {default}"
    return METAVARS[setting.kind] if not setting.choices else "WORD", f"{text}."


def takes_settings(flags: Sequence[Flag], *, old_names: bool = False) -> Callable[[Command], Command]:
    """Gives a command ``flags``, ``--config`` and ``--set``; it receives them as its first argument, a ``Given``.

    With ``old_names`` the names of the old system work too, hidden, and each that is used is noted on stderr.
    """

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        added = [_parameter(flag) for flag in flags] + _layer_parameters()
        if old_names:
            added += [_old_parameter(name) for name in OLD_OPTIONS]

        def wrapper(**values: Any) -> None:
            settings = {parameter.name: values.pop(parameter.name) for parameter in added}
            use_parts(settings["parts"])
            given = _gather(settings, flags)
            for note in given.notes:
                sys.stderr.write(f"note: {note}\n")
            command(given, **values)

        parameters = [*added, *own]
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate


def require_files(settings: ExperimentConfig) -> None:
    """Raises DataError for a data file or a named dataset that is not there, before anything heavy loads."""
    from fedmm.config.names import missing_file_hint
    from fedmm.errors import DataError

    data = settings.data
    named = {
        "": data.path,
        " of validation events": data.validation,
        " of test events": data.test,
        " of visual features": data.visual_features,
        " of semantic features": data.text_features,
        " or folder of pictures": data.images,
        " of texts": data.texts,
        " of attributes": data.attributes,
        " of titles": data.titles,
    }
    for what, given in named.items():
        path = None if given is None or str(given) == "none" else Path(given)
        if path is not None and not _is_there(path):
            raise DataError(f"There is no file {path}{what}.", missing_file_hint(path))
    if data.path is None:
        from fedmm.data.datasets import require_dataset

        require_dataset(data.name)


def _is_there(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except OSError:  # the reader says what is wrong with it
        return True


def use_parts(sources: Sequence[str] | None) -> None:
    """Loads the files and modules that ``--parts`` names, here and in every process that a command starts."""
    if sources:
        from fedmm.config.part_files import give_parts

        give_parts(sources)


def protocols_of(word: str) -> tuple[str, ...]:
    """The protocols that ``--eval`` names. Raises ConfigError for another word."""
    if word in PROTOCOLS:
        return PROTOCOLS[word]
    from fedmm.errors import ConfigError

    raise ConfigError(f"--eval cannot be {word!r}.", f"--eval takes one of {', '.join(PROTOCOLS)}.")


def _gather(values: Mapping[str, Any], flags: Sequence[Flag]) -> Given:
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    for flag in flags:
        value = values[flag.parameter]
        if value is not None and value is not False:
            given[flag.key] = value if flag.constant is None else flag.constant
            names[flag.key] = flag.name
    old = translate({name: values[_old_name(name)] for name in OLD_OPTIONS if values.get(_old_name(name)) is not None})
    _refuse_twice(names, old)
    given |= old.flags
    implied = dict(old.implied)
    if "evaluation.protocols" in given:
        protocols = protocols_of(given["evaluation.protocols"])
        given["evaluation.protocols"] = protocols
        implied["evaluation.selection_metric"] = f"{protocols[0]}/ndcg_at_10"
    return Given(
        files=tuple(values["config"] or ()),
        assignments=tuple(values["assignments"] or ()),
        flags=given,
        names={**names, **old.names},
        implied=implied,
        notes=old.notes,
    )


def _refuse_twice(names: Mapping[str, str], old: Translation) -> None:
    for key, name in old.names.items():
        if key in names:
            from fedmm.errors import ConfigError

            raise ConfigError(f"{names[key]} and {name} are the same setting ({key}).", f"Give {names[key]} alone.")


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(flag.name, rich_help_panel=flag.panel, show_default=False)
    if flag.constant is not None:
        option.help = "Do not log to MLflow."
        return _keyword(flag.parameter, bool, option, default=False)
    return _keyword(flag.parameter, str | None, option)


def _layer_parameters() -> list[inspect.Parameter]:
    files = typer.Option(
        "--config", metavar="FILE", help="TOML settings; repeatable, later files win.", rich_help_panel=RUN
    )
    texts = typer.Option(
        "--set",
        help="Any setting, as in --set model.dropout=0.1; repeatable.",
        metavar="KEY=VALUE",
        rich_help_panel=RUN,
    )
    return [
        _keyword("config", list[Path] | None, files),
        _keyword("assignments", list[str] | None, texts),
        inspect.Parameter("parts", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Parts),
    ]


def _old_parameter(name: str) -> inspect.Parameter:
    return _keyword(_old_name(name), str | None, typer.Option(name, hidden=True))


def _old_name(name: str) -> str:
    return f"old_{name.removeprefix('--')}"


def _keyword(name: str, kind: Any, option: Any, default: Any = None) -> inspect.Parameter:
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
