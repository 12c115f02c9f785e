"""Where trials are kept: journals that were cut or damaged, URLs, and many that open at once."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from fedmm.errors import ConfigError, FedmmError, StorageError
from fedmm.tuning.queue import claim, fill_queue, read_trials
from fedmm.tuning.storage import JOURNAL, JournalLock, StudyStorageError, open_storage, require_storage
from worlds.queue_world import at_once, drain, frozen, opened, states, study_of, worker


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Of a study with three trials, one of them running."""
    study = study_of("trials = 3")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    with worker(tmp_path) as who:
        claim(trials, who)
    return tmp_path / JOURNAL


def test_a_journal_cut_at_every_byte_of_its_last_line_opens_and_goes_on(journal: Path) -> None:
    study = study_of("trials = 3")
    whole = journal.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    assert len(whole) - start > 100
    for cut in (*range(start, min(start + 4, len(whole))), *range(start, len(whole), 7), len(whole) - 1):
        journal.write_bytes(whole[:cut])
        before = read_trials(opened(study, journal.parent))
        assert [record.state for record in before] == ["running", "waiting", "waiting"]
        trials = opened(study, journal.parent)
        trials.set_user_attr("goes", "on")
        assert journal.read_bytes().startswith(whole[:start]), "whole lines stay"
        assert all(isinstance(json.loads(line), dict) for line in journal.read_text().splitlines())
        again = opened(study, journal.parent)
        assert again.user_attrs["goes"] == "on"
        assert read_trials(again) == before


def test_one_that_read_before_the_cut_reads_on_after_it(journal: Path) -> None:
    study = study_of("trials = 3")
    reader, writer = opened(study, journal.parent), opened(study, journal.parent)
    for number in range(5):
        with journal.open("ab") as file:
            file.write(b'{"op_code": 2, "worker_id": "gone", "study_id": 0, "user_at')
        assert len(read_trials(reader)) == 3
        writer.set_user_attr("number", number)
        assert reader.user_attrs["number"] == number


def damaged(whole: bytes) -> Iterator[bytes]:
    lines = whole.splitlines(keepends=True)
    for rubbish in (b"rubbish", b"[1]", b"1", b'"text"', b"{}", b'{"op_code": 99}', b"\0\0\0\0", b"\xff"):
        yield b"".join([*lines[:2], rubbish + b"\n", *lines[3:]])
    for place in range(len(lines) - 1):
        yield b"".join([*lines[:place], lines[place][:9] + lines[place][10:], *lines[place + 1 :]])
    yield b"".join([lines[1], lines[0], *lines[2:]])
    yield b"rubbish of another kind\n"
    yield b"".join([*lines, b"rubbish\n"])
    yield b"".join([*lines, b"\0\0\0\0\n"])


def test_a_damaged_journal_is_one_line_that_names_the_file(journal: Path) -> None:
    study = study_of("trials = 3")
    whole = journal.read_bytes()
    refused = 0
    for text in damaged(whole):
        journal.write_bytes(text)
        error = None
        try:
            trials = opened(study, journal.parent)
            trials.set_user_attr("goes", "on")
            assert len(read_trials(trials)) in (0, 3)
        except StudyStorageError as caught:
            error = caught
        if error is not None:
            refused += 1
            assert str(journal) in error.message
            assert "damaged" in error.message
            assert error.remedy
            assert journal.read_bytes() == text, "what is damaged is left as it is"
    assert refused >= 10


def test_a_journal_that_cannot_be_one_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(StorageError, match=JOURNAL):
        open_storage(None, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        open_storage(None, tmp_path / "file")


def test_who_dies_with_the_lock_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    path.write_bytes(b'{"whole": 1}\n{"ha')
    program = (
        "import os, signal, sys; from pathlib import Path; from fedmm.tuning.storage import JournalLock;"
        "JournalLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    lock = JournalLock(path)
    assert lock.acquire()
    assert path.read_bytes() == b'{"whole": 1}\n'
    lock.release()
    lock.release()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "study.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://:memory:",
        "sqlite:///file::memory:?uri=true",
        "postgres://anna:secret@host/study",
        "redis://anna:secret@host",
        "http://anna:secret@host/x",
        "postgresql://",
        "journal.log",
    ],
)
def test_a_url_that_can_never_work_is_refused_before_anything_with_the_way_out(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        require_storage(url)
    assert "postgresql://" in caught.value.remedy
    assert "secret" not in str(caught.value) + caught.value.remedy
    with pytest.raises(FedmmError):
        open_storage(url, tmp_path)


@pytest.mark.parametrize("scheme", ["sqlite+nosuchdriver", "postgresql+nosuchdriver", "mysql"])
def test_a_driver_that_is_not_there_is_named_without_the_password(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmm.tuning.storage.time.sleep", lambda seconds: None)
    url = f"{scheme}:///{tmp_path}/x.db" if scheme.startswith("sqlite") else f"{scheme}://anna:secret@localhost:1/x"
    with pytest.raises(FedmmError) as caught:
        open_storage(url, tmp_path)
    assert "secret" not in str(caught.value)
    assert caught.value.remedy


def test_files_that_are_no_storage_are_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmm.tuning.storage.time.sleep", lambda seconds: None)
    (tmp_path / "text.db").write_text("no database, whatever its name says, and long enough to be sure of that " * 20)
    (tmp_path / "folder.db").mkdir()
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('of something else')")
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.commit()
    for name in ("text.db", "folder.db", "other.db"):
        before = (tmp_path / name).read_bytes() if name != "folder.db" else b""
        with pytest.raises(StudyStorageError) as caught:
            open_storage(f"sqlite:///{tmp_path / name}", tmp_path)
        assert name in caught.value.message
        assert name == "folder.db" or (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("backend", ["journal", "sqlite"])
def test_many_that_open_and_fill_nothing_at_once_make_one_study(tmp_path: Path, backend: str) -> None:
    study = study_of("trials = 3")
    found = at_once(*(partial(opened, study, tmp_path, backend) for _ in range(6)))
    assert len({trials._study_id for trials in found}) == 1
    fill_queue(found[0], study)
    assert all(len(frozen(trials)) == 3 for trials in found)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from worlds.queue_world import drain, opened, study_of
from fedmm.tuning.queue import fill_queue
study = study_of("trials = 20")
trials = opened(study, Path(sys.argv[2]), sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print(len(drain(trials, Path(sys.argv[2]))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["journal", "sqlite"])
def test_processes_that_open_at_once_and_claim_at_once_share_the_queue(tmp_path: Path, backend: str) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path), backend]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(arguments, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    study = study_of("trials = 20")
    trials = opened(study, tmp_path, backend)
    fill_queue(trials, study)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    numbers = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(numbers) == 20
    assert states(trials) == {"complete": 20}
    assert len(frozen(trials)) == 20
    assert drain(trials, tmp_path) == []
