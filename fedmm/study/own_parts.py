"""Which of a user's own parts a study names, and which files its workers must import to know them."""

from __future__ import annotations

from typing import Any

from fedmm.config.parts import KINDS, own_parts_of
from fedmm.study.definition import Study
from fedmm.study.space import Choices


def settings_named(study: Study) -> dict[str, list[Any]]:
    """The names of parts that any trial of the study may have, by dotted key."""
    named: dict[str, list[Any]] = {kind.setting: [] for kind in KINDS.values()}
    searched = {p.name: p.domain.values for p in study.space if isinstance(p.domain, Choices)}
    for flat in (study.base.flat(), *(variant.settings for variant in study.variants), searched):
        for key, found in named.items():
            value = flat.get(key, [])
            found += value if isinstance(value, (list, tuple)) else [value]
    return named


def part_files(study: Study) -> list[str] | None:
    """The files that register the study's own parts; None where one of them has no file that could be imported."""
    own = own_parts_of(settings_named(study))
    origins = [part.origin.file for parts in own.values() for part in parts.values()]
    files = [file for file in origins if file is not None]
    return sorted(set(files)) if len(files) == len(origins) else None
