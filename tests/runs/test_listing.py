"""What a list says of runs and studies, and what removing refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedmm.errors import ConfigError
from fedmm.runs.folder import held
from fedmm.runs.listing import entry_of, kind_of, list_entries, remove
from fedmm.runs.state import LOCK_FILE, STUDY_LOCK
from fedmm.utils import locks
from fedmm.utils.interrupts import Interrupted, Stop
from worlds.run_world import ROUNDS, Watcher, tiny, train


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE)


@pytest.fixture(scope="module")
def kept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, a stopped one, a study of before its end, and a folder that is nothing."""
    folder = tmp_path_factory.mktemp("kept")
    train(tiny(data, folder / "done", {"runtime.seed": 5}))

    def stop(report: Any) -> None:
        if report.round == 2:
            raise Stop(2)

    with pytest.raises(Interrupted):
        train(tiny(data, folder / "half"), Watcher(stop))
    (folder / "study").mkdir()
    (folder / "study" / "journal.log").write_text("{}")
    (folder / "study" / "study.toml").write_text('[study]\nname = "s"\nseed = 7\ntrials = 9\n')
    result = {
        "status": "stopped",
        "best": {"value": 0.25},
        "trials": {"complete": 3, "waiting": 6},
        "metric": "full/mrr",
    }
    (folder / "study" / "result.json").write_text(json.dumps(result))
    shutil.copytree(folder / "done", folder / "study" / "runs" / "trial-0")
    (folder / "nothing").mkdir()
    return folder


def test_a_list_says_what_the_folders_say(kept: Path) -> None:
    found = {entry.folder.name: entry for entry in list_entries([kept])}
    assert found.keys() == {"done", "half", "study"}
    done, half, study = (found[name] for name in ("done", "half", "study"))
    assert (done.state, half.state, study.state) == ("finished", "stopped", "stopped")
    assert (done.seed, half.seed, study.seed) == (5, 0, 7)
    assert (done.done, half.done, study.done) == (ROUNDS, 2, 3)
    assert (done.planned, half.planned, study.planned) == (ROUNDS, ROUNDS, 9)
    result = json.loads((kept / "done" / "result.json").read_text())
    assert done.value == result["metrics"]["validation"]["full"]["ndcg_at_10"]
    lines = [json.loads(line) for line in (kept / "half" / "metrics.jsonl").read_text().splitlines()]
    assert half.value == max(line["val/full/ndcg_at_10"] for line in lines)
    assert (study.value, study.metric, study.kind) == (0.25, "full/mrr", "study")
    assert all(entry.num_bytes == size_of(entry.folder) for entry in found.values())
    ages = [entry.age_seconds for entry in found.values()]
    assert ages == sorted(ages)


def test_a_folder_of_its_own_is_listed_alone_and_once(kept: Path) -> None:
    assert [entry.folder for entry in list_entries([kept / "done", kept / "done"])] == [kept / "done"]
    with pytest.raises(ConfigError, match="no folder"):
        list_entries([kept / "missing"])
    with pytest.raises(ConfigError, match="no run and no study"):
        entry_of(kept / "nothing")


def test_where_nothing_was_trained_the_list_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_entries() == []


def test_removing_takes_the_folder_and_nothing_else(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "kept")
    here = tmp_path / "kept"
    remove(entry_of(here / "half"))
    assert sorted(path.name for path in here.iterdir()) == ["done", "nothing", "study"]
    remove(entry_of(here / "study"))
    assert sorted(path.name for path in here.iterdir()) == ["done", "nothing"]


def test_what_runs_and_what_belongs_to_a_study_is_refused(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "kept")
    here = tmp_path / "kept"
    with held(here / "done"):
        entry = entry_of(here / "done")
        assert entry.state == "running"
        with pytest.raises(ConfigError, match="is running"):
            remove(entry)
    with locks.hold(here / "study" / STUDY_LOCK):
        assert entry_of(here / "study").state == "running"
    with pytest.raises(ConfigError, match="is a trial of the study"):
        remove(entry_of(here / "study" / "runs" / "trial-0"))
    assert kind_of(here / "study" / "runs" / "trial-0") == "run"
    remove(entry_of(here / "done"))


def test_a_damaged_file_hides_a_value_and_no_run(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept / "done", tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    (tmp_path / "run" / "checkpoints" / "best" / "state.json").write_text("[]")
    entry = entry_of(tmp_path / "run")
    assert entry.state == "stopped"
    assert entry.value is not None  # of the newest round
