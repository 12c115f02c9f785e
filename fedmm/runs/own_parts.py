"""Which parts of a user's own a run was made with, and what is said where one of them is missing."""

from __future__ import annotations

import hashlib
import json
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmm.config.parts import KINDS, is_known, own_parts_of, unregister_part
from fedmm.errors import ConfigError
from fedmm.utils.files import write_atomically
from fedmm.utils.registry import Origin, OwnPart, own_parts
from fedmm.utils.trees import flatten

OWN_PARTS_FILE = "own_parts.json"
Origins = dict[str, dict[str, dict[str, str | None]]]  # kind -> name -> module, file, the file's sha256


def part_origins(flat: Mapping[str, Any]) -> Origins:
    """Where the registered parts that settings name come from: ``{"aggregation": {"mine": {"module": ...}}}``.

    ``flat`` has dotted keys.
    """
    return {
        kind: {
            name: {"module": own.origin.module, "file": own.origin.file, "sha256": _sha256(own.origin.file)}
            for name, own in parts.items()
        }
        for kind, parts in own_parts_of(flat).items()
    }


def write_origins(folder: Path, flat: Mapping[str, Any]) -> None:
    """Writes where a run's own parts come from into its folder; nothing where it has none."""
    origins = part_origins(flat)
    if origins:
        write_atomically(folder / OWN_PARTS_FILE, (json.dumps(origins, indent=1) + "\n").encode())


def require_parts(flat: Mapping[str, Any], what: str, recorded: Mapping[str, Any] | None = None) -> None:
    """Raises ConfigError for a part that the settings of ``what`` ("The run") name and nobody registers, with the file
    it came from where ``recorded`` says so."""
    for key, name in _named(flat):
        if is_known(key, name):
            continue
        file = _file(recorded, key, name)
        raise ConfigError(
            f'{what} used the {KINDS[key].word} "{name}", which is not registered'
            f"{f' (it was by {file})' if file else ''}.",
            f"Import the module that registers it, pass --parts {file or 'FILE'}, or install its package.",
        )


def require_parts_of(folder: Path, settings_file: str) -> None:
    """``require_parts`` for the run in ``folder`` by its file of settings; a broken one is told elsewhere."""
    try:
        flat = flatten(tomllib.loads((folder / settings_file).read_text(encoding="utf-8-sig")))
    except (OSError, ValueError):
        return
    require_parts(flat, f"The run {folder}", read_origins(folder))


@contextmanager
def standing_in(flat: Mapping[str, Any]) -> Iterator[None]:
    """While it lasts, the names of parts in ``flat`` that nobody registers are known, so that settings can be read
    where no part is called: of a run that has its results already."""
    missing = [(key, name) for key, name in _named(flat) if not is_known(key, name)]
    for key, name in missing:
        own_parts(KINDS[key].stores[0])[name] = OwnPart(None, Origin("unknown", None))
    try:
        yield
    finally:
        for key, name in missing:
            unregister_part(key, name)


def sources_of(recorded: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What ``--parts`` takes to know a run's own parts again: files, or modules where there is no file; a notebook's
    can be named by neither."""
    found: list[str] = []
    for parts in (recorded or {}).values():
        for part in parts.values() if isinstance(parts, Mapping) else ():
            origin = part if isinstance(part, Mapping) else {}
            source = origin.get("file") or origin.get("module")
            if isinstance(source, str) and source != "__main__":
                found.append(source)
    return tuple(dict.fromkeys(found))


def parts_words(sources: Iterable[str]) -> str:
    """The end of a command line that needs parts: `` --parts FILE``, once a source."""
    return "".join(f" --parts {shlex.quote(source)}" for source in dict.fromkeys(sources))


def parts_words_of(folder: Path | str) -> str:
    """``parts_words`` for the run or study in ``folder``, as it says itself."""
    return parts_words(sources_of(read_origins(Path(folder))))


def _named(flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and name of every part that settings name."""
    for key, kind in KINDS.items():
        value = flat.get(kind.setting)
        for name in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(name, str):
                yield key, name


def read_origins(folder: Path) -> Mapping[str, Any] | None:
    """What ``write_origins`` wrote; None where a folder has nothing of the kind."""
    try:
        found = json.loads((folder / OWN_PARTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _file(recorded: Mapping[str, Any] | None, kind: str, name: str) -> str | None:
    try:
        file = (recorded or {})[kind][name]["file"]
    except (KeyError, TypeError):
        return None
    return file if isinstance(file, str) else None


def _sha256(file: str | None) -> str | None:
    try:
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return None
