"""Where studies are found: files of one's own, and those that ship with fedmm."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path

from fedmm.config.names import nearest_name, suggestion
from fedmm.config.toml import read_toml
from fedmm.errors import ConfigError
from fedmm.study.definition import Study
from fedmm.study.files import Changes, read_study

FOLDER = "studies"
SUFFIX = ".toml"


def load_study(name_or_path: str | Path, changes: Changes | None = None) -> Study:
    """The shipped study of that name, else the one in that file, with ``changes`` made and checked whole.

    Raises ConfigError in one line where there is none, and for the first thing that is wrong with it.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and not text.endswith(SUFFIX) and "/" not in text and "\\" not in text:
        return _read(_shipped(text), text, changes)
    return _read(Path(text), text, changes)


def searched_study(changes: Changes) -> Study:
    """A study without a file: the defaults, and what ``--search`` gives."""
    return read_study({}, "the command line", "search", changes)


def list_studies() -> list[Study]:
    """The shipped studies: ``default`` first, the others by name."""
    names = sorted(_names(), key=lambda name: (name != "default", name))
    return [load_study(name) for name in names]


def studies_folder(package: str = "fedmm") -> Traversable:
    """The shipped studies' folder: in the installed package, or beside it in a checkout."""
    inside = importlib.resources.files(package) / FOLDER
    if inside.is_dir():
        return inside
    with importlib.resources.as_file(importlib.resources.files(package)) as folder:
        return folder.parent / FOLDER


def _names() -> list[str]:
    folder = studies_folder()
    if not folder.is_dir():
        return []
    return [entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX)]


def _shipped(name: str) -> Traversable:
    names = sorted(_names())
    if name not in names:
        shipped = f"Shipped are {', '.join(names)}; a file ends in {SUFFIX}."
        meant = suggestion(nearest_name(name, names))
        raise ConfigError(f"There is no study {name!r}.", f"{meant} {shipped}".strip())
    return studies_folder() / f"{name}{SUFFIX}"


def _read(file: Traversable, source: str, changes: Changes | None) -> Study:
    remedy = f"Give a study's file, or one of {', '.join(sorted(_names()))}."
    tree = read_toml(file, source, remedy, "shipped studies are examples")
    return read_study(tree, source, file.name.removesuffix(SUFFIX), changes)
