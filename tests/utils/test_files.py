"""Laws of the local record: what was written is read back, however the process ended."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.errors import StorageError
from fedmm.utils import files
from fedmm.utils.files import append_line, read_lines, read_rounds, record_round, truncate_rounds, write_atomically


@settings(max_examples=30, deadline=None)
@given(
    num_rounds=st.integers(0, 6),
    cut=st.integers(0, 40),
    resumed_at=st.integers(-1, 6),
    loss=st.floats(allow_nan=False, allow_infinity=False),
)
def test_an_interrupted_and_resumed_record_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, num_rounds: int, cut: int, resumed_at: int, loss: float
) -> None:
    whole, stopped = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("stopped")

    def metrics(step: int) -> dict[str, float]:
        return {"train/loss": loss + step, "val/full/ndcg_at_10": step / 7}

    for step in range(num_rounds):
        record_round(whole, metrics(step), step)
        record_round(stopped, metrics(step), step)
    file = stopped / files.METRICS_FILE
    if num_rounds:
        file.write_bytes(file.read_bytes()[: max(0, file.stat().st_size - cut)])  # the last line was cut short
    recorded = [entry["round"] for entry in read_rounds(stopped)]
    last = min(resumed_at, max(recorded, default=-1))
    truncate_rounds(stopped, last)
    for step in range(last + 1, num_rounds):
        record_round(stopped, metrics(step), step)
    assert read_rounds(stopped) == read_rounds(whole)
    assert [entry["round"] for entry in read_rounds(whole)] == list(range(num_rounds))


def test_a_line_after_one_that_was_cut_short_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    append_line(path, {"a": 2})
    append_line(path, {"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_what_json_cannot_say_becomes_null(tmp_path: Path) -> None:
    record_round(tmp_path, {"a": float("nan"), "b": float("inf"), "c": 1.5}, 3)
    assert read_rounds(tmp_path) == [{"round": 3, "a": None, "b": None, "c": 1.5}]


def test_a_round_recorded_twice_counts_once(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        record_round(tmp_path, {"a": value}, 1)
    assert read_rounds(tmp_path) == [{"round": 1, "a": 2.0}]


def test_an_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    files.sync_folder(tmp_path)
