"""Settings name parts: those that ship, those registered, and those that files, modules and packages register."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmm.config import part_files
from fedmm.config.describe import known_settings
from fedmm.config.load import load_config
from fedmm.config.part_files import VARIABLE, give_parts, load_parts, stop_if_only_read
from fedmm.config.parts import KINDS, is_known, register_part, unregister_part
from fedmm.errors import ConfigError
from fedmm.utils.registry import Origin, OwnPart, Registry, own_parts

SINGLE = [kind for kind in KINDS if kind not in ("metric", "update_transform")]


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(part_files, "_loaded", set())
    yield
    for kind in KINDS:
        unregister_part(kind, "mine")


def write_part(path: Path, kind: str = "aggregation", name: str = "mine", more: str = "") -> Path:
    path.write_text(f"from fedmm.config.parts import register_part\nregister_part({kind!r}, {name!r}, len)\n{more}")
    return path


@pytest.mark.parametrize("kind", SINGLE)
def test_a_setting_takes_a_part_once_it_is_registered(kind: str) -> None:
    key = KINDS[kind].setting
    with pytest.raises(ConfigError, match=f"{key} cannot be 'mine'") as caught:
        load_config(assignments=[f"{key}=mine"])
    for words in (*KINDS[kind].built_in, "--parts", "FEDMM_PARTS"):
        assert words in caught.value.remedy
    closed = not KINDS[kind].families  # where names take a model behind a colon, there is no closed choice
    register_part(kind, "mine", len)
    assert load_config(assignments=[f"{key}=mine"]).flat()[key] == "mine"
    assert known_settings()[key].choices == ((*KINDS[kind].built_in, "mine") if closed else ())
    assert "mine" in known_settings()[key].allowed
    unregister_part(kind, "mine")
    assert known_settings()[key].choices == (tuple(KINDS[kind].built_in) if closed else ())
    with pytest.raises(ConfigError):
        load_config(assignments=[f"{key}=mine"])


def test_a_metric_is_named_beside_those_that_ship() -> None:
    register_part("metric", "mine", len)
    config = load_config(
        assignments=["evaluation.extra_metrics=mine", "evaluation.selection_metric=full/mine_at_10"],
    )
    assert config.evaluation.extra_metrics == ("mine",)
    for wrong in (["evaluation.selection_metric=full/mine_at_10"], ["evaluation.extra_metrics=hr"]):
        with pytest.raises(ConfigError):
            load_config(assignments=wrong)


def test_the_nearest_part_is_offered() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean trimmed_mean\?"):
        load_config(assignments=["federation.aggregation=trimed-mean"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_or_no_name_is_refused(kind: str, tmp_path: Path) -> None:
    for taken in (*KINDS[kind].built_in, *KINDS[kind].reserved):
        with pytest.raises(ConfigError, match="ships with fedmm"):
            register_part(kind, taken, len)
    for wrong in ("", "Mine", "my-part", "1st", "a b", "x" * 50):
        with pytest.raises(ConfigError, match="cannot name a part"):
            register_part(kind, wrong, len)
    register_part(kind, "mine", len)
    register_part(kind, "mine", max)  # the same module again, as a notebook's cell that runs twice
    assert own_parts(kind)["mine"].part is max
    with pytest.raises(ConfigError, match=r"registered already, by .*test_part_names"):
        load_parts(str(write_part(tmp_path / "other.py", kind)))


def test_a_registry_finds_parts_registered_before_and_after_it_is_made() -> None:
    own_parts("fruit")["fig"] = OwnPart(7, Origin(__name__, None))
    registry = Registry("fruit", {"apple": 1})
    assert dict(registry) == {"apple": 1, "fig": 7}
    assert (len(registry), "pear" in registry) == (2, False)
    assert registry.origin("fig").module == __name__
    with pytest.raises(KeyError):
        registry["pear"]
    own_parts("fruit").clear()
    assert list(registry) == ["apple"]


def test_files_and_modules_are_loaded_where_a_name_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_part(tmp_path / "mine_in_a_file.py")
    monkeypatch.setenv(VARIABLE, str(path))
    assert load_config(assignments=["federation.aggregation=mine"]).federation.aggregation == "mine"
    assert own_parts("aggregation")["mine"].origin.file == str(path)
    write_part(tmp_path / "mine_in_a_module.py", "loss")
    monkeypatch.syspath_prepend(tmp_path)
    give_parts(["mine_in_a_module"])
    assert load_config(assignments=["federation.loss=mine"]).federation.loss == "mine"
    assert os.environ[VARIABLE].split(os.pathsep) == [str(path), "mine_in_a_module"]  # what is started inherits it


def test_a_file_of_a_package_is_imported_as_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack_of_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "size.py").write_text("SIZE = 3\n")
    write_part(package / "own.py", more="from .size import SIZE\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_parts(str(package / "own.py"))
    assert sys.modules["pack_of_parts.own"].SIZE == 3
    assert is_known("aggregation", "mine")


def test_installed_packages_are_asked_by_their_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_part(tmp_path / "installed_parts.py", "fusion")
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("any", "installed_parts", "fedmm.parts")
    asked: list[str] = []

    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        asked.append(group)
        return [entry]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert is_known("fusion", "residual")
    assert asked == []  # nobody is asked for what is known
    assert is_known("fusion", "mine")
    assert asked == ["fedmm.parts"]


def test_a_script_is_read_to_where_it_would_train(tmp_path: Path) -> None:
    more = "from fedmm.config.part_files import stop_if_only_read\nstop_if_only_read()\nraise SystemError\n"
    load_parts(str(write_part(tmp_path / "script.py", more=more)))
    assert is_known("aggregation", "mine")
    stop_if_only_read()  # nothing is being read now: training may begin


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("import no_such_module", "no_such_module"), ("(", "SyntaxError")],
)
def test_parts_that_cannot_be_loaded_are_told(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"broken\.py cannot be loaded: .*{words}"):
        load_parts(str(path))
    with pytest.raises(ConfigError, match="no file of parts"):
        load_parts(str(tmp_path / "missing.py"))
    with pytest.raises(ConfigError, match="no_such_module"):
        load_parts("no_such_module")
