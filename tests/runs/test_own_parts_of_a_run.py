"""A run says which parts of a user's own it was made with, and is told by name where one of them is missing."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedmm.config import part_files
from fedmm.config.part_files import VARIABLE
from fedmm.config.parts import KINDS, unregister_part
from fedmm.errors import ConfigError
from fedmm.runs.own_parts import OWN_PARTS_FILE, require_parts
from fedmm_cli.app import app

PART = """
from fedmm.config.parts import register_part

def halved(total, config):
    return {name: value / total.weight / 2 for name, value in total.deltas.items()}

register_part("aggregation", "halved", halved)
"""


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(part_files, "_loaded", set())
    unregister_part("aggregation", "halved")
    for name in [name for name in sys.modules if name.startswith("fedmm_parts_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    forget(monkeypatch)
    path = tmp_path / "my_parts.py"
    path.write_text(PART)
    yield path
    forget(monkeypatch)


def fedmm(line: str) -> Any:
    return CliRunner().invoke(app, shlex.split(line))


@pytest.mark.slow
def test_a_run_with_a_part_of_ones_own(part: Path, world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    settings = (
        f"--data {world / 'own.csv'} --visual-features {world / 'visual.npz'} --text-features {world / 'text.npz'} "
        "--hidden-dim 8 --num-blocks 1 --max-length 6 --threads 1 --eval full --rounds 1 --no-tracking --quiet"
    )
    runs = [tmp_path / name for name in ("halved", "mean")]
    for run, options in zip(runs, (f"--parts {part} --aggregation halved", "--aggregation mean"), strict=True):
        assert fedmm(f"train {settings} --output {run} {options}").exit_code == 0
    origins = json.loads((runs[0] / OWN_PARTS_FILE).read_text())
    assert origins["aggregation"]["halved"]["file"] == str(part)
    assert len(origins["aggregation"]["halved"]["sha256"]) == 64
    assert not (runs[1] / OWN_PARTS_FILE).exists()
    report = tmp_path / "report.html"
    forget(monkeypatch)
    for others, times in (([runs[1]], 1), ([], 2)):  # what was measured needs the part no more; to train again does
        compared = fedmm(f"compare {' '.join(map(str, [runs[0], *others]))} --report {report}")
        assert compared.exit_code == 0
        page = unescape(report.read_text())
        assert page.count(f" --parts {part}") >= times
        assert "unknown" not in page
    assert "halved" not in KINDS["aggregation"].names()
    for line in (f"evaluate {runs[0]}", f"train --resume --output {runs[0]}"):
        forget(monkeypatch)
        missed = fedmm(line).exception
        assert isinstance(missed, ConfigError)
        assert f'used the aggregation "halved", which is not registered (it was by {part}).' in str(missed)
        assert f"--parts {part}" in missed.remedy
        assert fedmm(f"{line} --parts {part}").exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_part_is_told_by_name(kind: str) -> None:
    setting = KINDS[kind].setting
    word = KINDS[kind].word
    with pytest.raises(ConfigError, match=f'^The run used the {word} "lost", which is not registered. Import'):
        require_parts({setting: ["lost"] if kind == "metric" else "lost"}, "The run", {kind: "damaged"})
    require_parts({setting: next(iter(KINDS[kind].built_in))}, "The run")
