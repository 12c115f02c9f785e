"""Laws of what has become of a run: it runs, was stopped, crashed or finished, and which one a bare resume takes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmm.errors import ConfigError, FedmmError
from fedmm.runs.folder import CONFIG_FILE, find_resumable, held, is_finished
from fedmm.runs.listing import entry_of, list_entries
from fedmm.runs.resuming import require_resumable
from fedmm.runs.state import CRASH_FILE, KILLED, STUDY_LOCK, noting_a_crash, run_state
from fedmm.tuning.sweep import SweepOptions, run_sweep
from fedmm.utils.interrupts import Interrupted, Stop, StoppedEarly
from fedmm_cli.runs_report import STYLES, print_entries, print_entry
from worlds.run_world import ROUNDS, Watcher, tiny, train
from worlds.sweep_world import Recorder, tiny_study


def ends_by(error: BaseException, after: int) -> Callable[[Any], None]:
    def act(report: Any) -> None:
        if report.round == after:
            raise error

    return act


@pytest.fixture(scope="module")
def ends(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that ended in every way there is; in each but the first two rounds were trained."""
    folder = tmp_path_factory.mktemp("ends") / "runs"
    for name, error, after in (
        ("early", ValueError("no such\nthing"), 1),
        ("error", ValueError("no such\nthing"), 2),
        ("diverged", FedmmError("It diverged.", "Lower the rate."), 2),
        ("stopped", Stop(2), 2),
        ("pruned", StoppedEarly("not worth it"), 2),
    ):
        with pytest.raises(Interrupted if isinstance(error, Stop) else type(error)):
            train(tiny(data, folder / name, {"runtime.checkpoint_every": 2}), Watcher(ends_by(error, after)))
    shutil.copytree(folder / "stopped", folder / "killed")
    code = (
        "import os, signal; from pathlib import Path; from fedmm.runs.folder import held\n"
        f"with held(Path({str(folder / 'killed')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    return folder


STATES = {
    "early": ("crashed", "ValueError: no such thing"),
    "error": ("crashed", "ValueError: no such thing"),
    "diverged": ("crashed", "FedmmError: It diverged. Lower the rate."),
    "stopped": ("stopped", None),
    "pruned": ("stopped", None),
    "killed": ("crashed", KILLED),
}


def test_each_end_has_its_state_and_a_crash_its_reason(ends: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry.folder.name: (entry.state, entry.reason) for entry in list_entries([ends])}
    assert found == STATES
    assert {state for state, _ in found.values()} | {"running", "finished"} == STYLES.keys()
    print_entries(list_entries([ends]))
    print_entry(entry_of(ends / "error"), None, details=False)
    shown = capsys.readouterr().out
    assert shown.count("crashed") >= 5
    assert "ValueError: no such thing" in shown
    with held(ends / "killed"):
        assert run_state(ends / "killed", finished=False) == ("running", None)
    assert run_state(ends / "error", finished=True) == ("finished", None)


def test_a_bare_resume_takes_the_last_that_can_go_on(
    ends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed or failed ones too, but not one that an error ended before anything of it was kept."""
    monkeypatch.chdir(tmp_path)
    for name in STATES:
        shutil.copytree(ends / name, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / CONFIG_FILE).touch()  # the last of all so far
        expected = None if name == "early" else Path("runs") / name
        assert find_resumable(None) == expected
    for name in [*STATES][1:]:
        shutil.rmtree(tmp_path / "runs" / name)
    with pytest.raises(ConfigError, match=r"runs/early ended in its first round .ValueError: no such thing"):
        require_resumable(None)
    assert find_resumable(Path("runs/early")) == Path("runs/early")  # whoever names it means it


def test_a_crashed_run_says_so_and_goes_on_to_its_end(data: Path, ends: Path, tmp_path: Path) -> None:
    shutil.copytree(ends / "error", tmp_path / "run")
    watcher = Watcher()
    result = train(tiny(data, tmp_path / "run", {"runtime.checkpoint_every": 2}), watcher, resume=True)
    assert result["rounds"] == ROUNDS
    assert any("had crashed: ValueError: no such thing" in note for note in watcher.notes)
    assert not (tmp_path / "run" / CRASH_FILE).exists()
    assert is_finished(tmp_path / "run")
    assert entry_of(tmp_path / "run").state == "finished"


def test_what_a_command_got_wrong_says_nothing_of_the_run(tmp_path: Path) -> None:
    for error, told in ((OSError("first"), "OSError: first"), (ConfigError("typed wrongly"), "OSError: first")):
        with pytest.raises(type(error)), noting_a_crash(tmp_path):
            raise error
        assert (tmp_path / CRASH_FILE).read_text() == f"{told}\n"
    with pytest.raises(Interrupted), noting_a_crash(tmp_path):
        raise Interrupted(2)
    assert not (tmp_path / CRASH_FILE).exists()


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("", "stopped", None),
        ("123", "stopped", None),
        ("123\n", "crashed", KILLED),
        ("OSError: x\n", "crashed", "OSError: x"),
    ],
)
def test_a_study_says_how_it_ended(tmp_path: Path, text: str, state: str, reason: str | None) -> None:
    """Studies of before left their process's number, without a line's end."""
    (tmp_path / "study.toml").write_text('[study]\nname = "s"\n')
    (tmp_path / STUDY_LOCK).write_text(text)
    entry = entry_of(tmp_path)
    assert (entry.state, entry.reason) == (state, reason)


def test_a_sweep_leaves_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, folder = tiny_study(tmp_path), tmp_path / "s"
    ends = {
        Stop(2): "",
        OSError("x"): "OSError: x\n",
        ConfigError("y"): "OSError: x\n",
        RuntimeError("z"): "RuntimeError: z\n",
    }
    for error, left in ends.items():

        def fail(*arguments: Any, error: BaseException = error) -> None:
            (folder / "journal.log").touch()
            assert (folder / STUDY_LOCK).read_text().endswith("\n")
            raise error

        monkeypatch.setattr("fedmm.tuning.sweep.open_storage", fail)
        with pytest.raises(Interrupted if isinstance(error, Stop) else type(error)):
            run_sweep(study, SweepOptions(folder=folder), Recorder())
        assert (folder / STUDY_LOCK).read_text() == left
