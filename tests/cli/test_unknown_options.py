"""An unknown option is met with what it was probably meant to be, or with nothing, never with another word alike."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from fedmm.config.describe import known_settings
from fedmm.config.names import SYNONYMS, nearest_name, nearest_setting
from fedmm_cli.app import app, main
from fedmm_cli.unknown_options import ALIASES, nearest_option
from fedmm_cli.unknown_words import COMMANDS

MEANT = {
    "--lr": "--learning-rate",
    "--epochs": "--rounds",
    "--dim": "--hidden-dim",
    "--layers": "--num-blocks",
    "--roundz": "--rounds",
    "--learnin-rate": "--learning-rate",
    "--hidden_size": "--hidden-dim",
    "--dropout": "--set model.dropout=VALUE",
    "--resum": "--resume",
}


@pytest.mark.parametrize(("typed", "meant"), MEANT.items())
def test_the_option_that_was_meant_is_named(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", typed, "1"]) == 2
    told = capsys.readouterr().err
    assert told.splitlines()[0] == f"error: No such option: {typed}. Did you mean {meant}?"


@pytest.mark.parametrize("typed", ["--xyz", "--qq", "--foobar"])
def test_nothing_is_named_where_nothing_is_near(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", typed, "1"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: No such option: {typed}."


def test_a_command_without_settings_offers_its_own_options_alone() -> None:
    compare = get_command(app).commands["compare"]  # type: ignore[attr-defined]
    assert nearest_option("--metrics", compare) == "--metric"
    assert nearest_option("--lr", compare) is None


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        (("compare",), "--output", "--report"),
        (("recommend",), "--k", "--top"),
        (("runs", "forget"), "--client", "--user"),
        (("runs", "remove"), "-y", "--yes"),
        (("runs", "show"), "--detail", "--details"),
        (("train",), "--no-mlflow", "--no-tracking"),
    ],
)
def test_sub_commands_offer_what_other_tools_call_otherwise(
    command: tuple[str, ...], typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, typed, "1"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: No such option: {typed}. Did you mean {meant}?"


def test_every_alias_is_an_option_of_some_command() -> None:
    def options(command: Any) -> set[str]:
        own = {name for parameter in command.params for name in parameter.opts}
        return own.union(*(options(other) for other in getattr(command, "commands", {}).values()))

    assert set(ALIASES.values()) <= options(get_command(app))


def test_every_synonym_means_a_setting_and_is_none_itself() -> None:
    leaves = {key.rpartition(".")[2].replace("_", "") for key in known_settings()}
    for word, key in SYNONYMS.items():
        assert key in known_settings(), word
        assert nearest_setting(word, list(known_settings())) == key
        assert word not in leaves


def test_what_is_known_is_nearest_to_itself() -> None:
    known = list(known_settings())
    for key in known:
        assert nearest_setting(key, known) in (key, next(k for k in known if k.endswith(key.rpartition(".")[2])))
        assert nearest_name(key, known) == key


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("predict", "Did you mean fedmm recommend?"),
        ("resume", "Did you mean fedmm train --resume?"),
        ("quux", "See fedmm --help"),
        ("train ratings.csv", "Did you mean --data ratings.csv?"),
        ("data describe ml-100k", "Did you mean --dataset ml-100k?"),
        ("verify ml-100k", "Did you mean --dataset ml-100k?"),
        ("verify own.csv", "See fedmm verify --help"),
        ("recommend", "Give a run's folder; fedmm runs list shows them."),
    ],
)
def test_the_word_that_was_meant_is_named(typed: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    assert capsys.readouterr().err.splitlines()[1] == f"  remedy: {remedy}"


def test_commands_of_other_tools_lead_to_commands_that_are_there() -> None:
    root: Any = get_command(app)
    for typed, meant in COMMANDS.items():
        assert typed not in root.commands
        command = root
        for word in meant.split():
            if word.startswith("--"):
                names = {name for parameter in command.params for name in parameter.opts}
                assert word in names | {"--help"}
            elif hasattr(command, "commands"):
                command = command.commands[word]


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        (("ui", "--port", "x"), "a whole number"),
        (("ui", "--port", "1.5"), "a whole number"),
        (("sweep", "--trials", "many"), "a whole number"),
        (("sweep", "--timeout", "soon"), "a number"),
        (("recommend", "a-run", "--top", "all"), "a whole number"),
    ],
)
def test_a_value_that_is_no_number_is_named(
    words: tuple[str, ...], takes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(words)) == 2
    option, value = words[-2:]
    assert capsys.readouterr().err.split("\n")[:2] == [
        f"error: {option} cannot be '{value}'.",
        f"  remedy: {option} takes {takes}.",
    ]
