"""Hints offer the file beside a missing one, whatever letters its name is written in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmm.config.names import ALIKE, missing_file_hint, nearest_name


@pytest.mark.parametrize(
    ("typed", "there"),
    [
        ("ratings.cvs", "ratings.csv"),
        ("rating.csv", "ratings.csv"),
        ("ratings.csv", "ratings.csv.gz"),
        ("оценка.csv", "оценки.csv"),
    ],
)
def test_the_file_of_nearly_that_name_is_offered(typed: str, there: str, tmp_path: Path) -> None:
    for name in (there, "readme.md", "票.csv"):
        (tmp_path / name).touch()
    assert missing_file_hint(tmp_path / typed) == f"Did you mean {tmp_path / there}?"


@pytest.mark.parametrize("typed", ["zzz", "v.csv", "images.npz", "images.csv", "nowhere/ratings.csv", "nul\0.csv"])
def test_nothing_is_offered_where_nothing_is_alike(typed: str, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").touch()
    assert missing_file_hint(tmp_path / typed) == "Check the path."


def test_letters_of_every_script_count() -> None:
    assert nearest_name("ストア.csv", ["データ.csv"], ALIKE) is None
    assert nearest_name("データー.csv", ["データ.csv", "ストア.csv"], ALIKE) == "データ.csv"
