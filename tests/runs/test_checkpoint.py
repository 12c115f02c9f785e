"""Laws of checkpoints: bit for bit back, a whole one at every instant, and no damage goes unnoticed."""

import errno
import itertools
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.errors import CheckpointError, StorageError
from fedmm.runs import checkpoint
from fedmm.runs.checkpoint import (
    ensure_writable,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    round_name,
    save_checkpoint,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    def bits(tensor: torch.Tensor) -> bytes:
        flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""

    return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)


@st.composite
def random_tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Any bits at all, NaN payloads among them, in any shape, transposed or cut out of a larger tensor."""
    result = {}
    for index in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        size = int(np.prod(shape, dtype=int)) * torch.empty((), dtype=dtype).element_size()
        raw = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=torch.uint8)
        tensor = (raw.view(dtype) if size else torch.empty(0, dtype=dtype)).reshape(shape)
        change = draw(st.sampled_from(["none", "transpose", "slice"]))
        if change == "transpose" and tensor.ndim > 1:
            tensor = tensor.transpose(0, 1)
        elif change == "slice" and tensor.ndim:
            tensor = tensor[::2]
        result[f"{draw(st.sampled_from('zam'))}.{index}"] = tensor
    return result


@settings(max_examples=60, deadline=None)
@given(tensors=random_tensors(), number=st.floats(allow_nan=False), text=st.text())
def test_round_trip_is_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, torch.Tensor], number: float, text: str
) -> None:
    folder = tmp_path_factory.mktemp("round-trip")
    meta = {"number": number, "text": text, "nested": {"list": [1, None, True]}}
    loaded, loaded_meta = load_checkpoint(save_checkpoint(folder, "best", tensors, meta))
    assert list(loaded) == list(tensors)  # the order too: algebra on parameters may depend on it
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)
    assert loaded_meta == meta
    assert repr(loaded_meta["number"]) == repr(number)


def test_tied_overlapping_and_special_tensors(tmp_path: Path) -> None:
    table = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    tensors = {
        "input": table,
        "output": table,
        "row": table[2:4],
        "transposed": table.T,
        "scalar": torch.tensor(-0.0),
        "mask": torch.tensor([True, False]),
        "count": torch.tensor(2**62 + 1),
        "odd": torch.tensor([float("nan"), float("-inf")]),
        "none": torch.empty(0, 3),
    }
    loaded, _ = load_checkpoint(save_checkpoint(tmp_path, "best", tensors, {}))
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)
    with torch.no_grad():
        loaded["input"].zero_()  # what was tied comes back with memory of its own
    assert same_bits(loaded["output"], table)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it, and no call succeeds after it."""


class Killer:
    """Ends the "process" at the n-th step that touches the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
        self.left = 10**9
        self.reached = False  # the n-th step
        self._error = error
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
            self._guard(monkeypatch, os, name, getattr(os, name))
        self._guard(monkeypatch, os, "fsync", lambda descriptor: None)
        whole = checkpoint.write_synced

        def in_two_steps(path: Path, content: bytes) -> None:
            self.step()
            path.write_bytes(content[: len(content) // 2])
            self.step()
            whole(path, content)

        monkeypatch.setattr(checkpoint, "write_synced", in_two_steps)

    def _guard(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str, real: object) -> None:
        def guarded(*args: object, **options: object) -> object:
            self.step()
            return real(*args, **options)  # type: ignore[operator]

        monkeypatch.setattr(module, name, guarded)

    def step(self) -> None:
        self.left -= 1
        if self._error is not None and self.left == 0:
            raise self._error
        if self._error is None and self.left <= 0:
            raise KilledError

    def survives(self, steps: int, call: object) -> bool:
        self.left = steps
        try:
            call()  # type: ignore[operator]
        except KilledError:
            return False
        finally:
            self.reached = self.left <= 0
            self.left = 10**9
        return True


def save(folder: Path, name: str, value: int) -> None:
    save_checkpoint(folder, name, {"x": torch.full((5,), value)}, {"value": value})


def value_of(path: Path, which: str = "best") -> int:
    tensors, meta = load_checkpoint(path, which=which)  # type: ignore[arg-type]
    assert torch.equal(tensors["x"], torch.full((5,), meta["value"]))
    return int(meta["value"])


def test_a_whole_checkpoint_exists_whenever_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(monkeypatch)
    num_points = 0
    for first in itertools.count(1):
        folder = tmp_path / str(first)
        save(folder, "best", 0)
        done = killer.survives(first, lambda folder=folder: save(folder, "best", 1))
        assert value_of(folder / "best") in ({1} if done else {0, 1})
        assert value_of(tmp_path / str(first)) in (0, 1)
        for second in itertools.count(1):  # and killed again while it repairs and saves
            again = tmp_path / f"{first}-{second}"
            shutil.copytree(folder, again)
            before = value_of(again / "best")
            done_again = killer.survives(second, lambda again=again: save(again, "best", 2))
            assert value_of(again / "best") in ({2} if done_again else {before, 2})
            save(again, "best", 3)
            assert value_of(again / "best") == 3
            assert [entry.name for entry in again.iterdir()] == ["best"]
            shutil.rmtree(again)
            if done_again:
                break
            num_points += 1
        if done:
            break
    assert num_points > 100  # the law was not proved over nothing


def test_rounds_survive_a_kill_while_saving_and_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = Killer(monkeypatch)
    for steps in itertools.count(1):
        folder = tmp_path / str(steps)
        for number in (1, 2, 3):
            save(folder, round_name(number), number)

        def work(folder: Path = folder) -> None:
            save(folder, round_name(4), 4)
            prune_checkpoints(folder)

        done = killer.survives(steps, work)
        assert value_of(folder, "last") in ({4} if done else {3, 4})
        save(folder, round_name(5), 5)
        prune_checkpoints(folder)
        expected = 4 if (folder / round_name(4)).exists() else 3
        assert sorted(entry.name for entry in folder.iterdir()) == [round_name(expected), round_name(5)]
        if done:
            break


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_every_failing_call_is_a_storage_error_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    killer = Killer(monkeypatch, OSError(number, os.strerror(number)))
    for steps in itertools.count(1):
        folder = tmp_path / str(steps)
        save(folder, "best", 0)
        failure = None
        try:
            killer.survives(steps, lambda folder=folder: save(folder, "best", 1))
        except StorageError as error:
            failure = error
        if failure is None:  # also where only tidying up failed: the new one is there
            assert value_of(folder / "best") == 1
            if not killer.reached:
                assert steps > 5
                break
        else:
            assert str(folder / "best") in failure.message
            assert os.strerror(number) in failure.message
            assert "--output" in failure.remedy
            assert value_of(folder / "best") in (0, 1)
            assert not (folder / ".best.new").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    tensors = {"x": torch.zeros(2**20)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            save_checkpoint(tmp_path, "best", tensors, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "best", {"x": torch.arange(4.0)}, {"a": 1})
    for name in (checkpoint.TENSORS_FILE, checkpoint.META_FILE):
        whole = (path / name).read_bytes()
        cuts = [whole[:size] for size in range(len(whole))]
        flips = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
        for damaged in [*cuts, *(flips if name == checkpoint.TENSORS_FILE else [])]:
            (path / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match="damaged") as caught:
                load_checkpoint(path)
            assert caught.value.remedy
        (path / name).write_bytes(whole)
    load_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "null", '{"format": "1"}', '{"format": 1}', '{"format": 1, "sha256": "", "tensors": [], "meta": 3}'],
)
def test_foreign_json_is_damage(tmp_path: Path, text: str) -> None:
    path = save_checkpoint(tmp_path, "best", {"x": torch.zeros(1)}, {})
    (path / checkpoint.META_FILE).write_text(text)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = save_checkpoint(tmp_path, "best", {"x": torch.zeros(1)}, {})
    (path / checkpoint.TENSORS_FILE).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "best", {"x": torch.zeros(1)}, {})
    state = json.loads((path / checkpoint.META_FILE).read_text())
    (path / checkpoint.META_FILE).write_text(json.dumps({**state, "format": checkpoint.FORMAT + 1}))
    with pytest.raises(CheckpointError, match="newer fedmm") as caught:
        load_checkpoint(path)
    assert "Upgrade" in caught.value.remedy


def test_what_is_no_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "file.pt").write_bytes(b"x")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / checkpoint.TENSORS_FILE).write_bytes(b"")
    for name, words in (
        ("absent", "no checkpoint at"),
        ("file.pt", "is a file"),
        ("", "holds no"),
        ("half", "state.json is missing"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.remedy


def test_a_run_folder_leads_to_its_best_or_its_last(tmp_path: Path) -> None:
    folder = tmp_path / checkpoint.FOLDER
    save(folder, round_name(9), 9)
    save(folder, round_name(100_000), 100_000)  # numbers are compared, not letters
    for place in (tmp_path, folder):
        assert value_of(place) == value_of(place, "last") == 100_000
    save(folder, checkpoint.BEST, 7)
    for place in (tmp_path, folder):
        assert (value_of(place), value_of(place, "last")) == (7, 100_000)


def test_a_damaged_newest_round_gives_way_to_the_one_before_and_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, round_name(number), number)
    (tmp_path / round_name(3) / checkpoint.TENSORS_FILE).write_bytes(b"")
    warnings: list[str] = []
    found = newest_checkpoint(tmp_path, warnings.append)
    assert found == tmp_path / round_name(2)
    assert len(warnings) == 1
    assert round_name(3) in warnings[0]
    assert newest_checkpoint(tmp_path / "absent") is None


@settings(max_examples=25, deadline=None)
@given(numbers=st.sets(st.integers(0, 200_000), max_size=6), keep=st.integers(1, 4))
def test_pruning_keeps_the_last_and_everything_that_is_no_round(
    tmp_path_factory: pytest.TempPathFactory, numbers: set[int], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("prune")
    for number in numbers:
        (folder / round_name(number)).mkdir()
    (folder / "best").mkdir()
    (folder / "notes.txt").touch()
    prune_checkpoints(folder, keep)
    kept = {round_name(number) for number in sorted(numbers)[-keep:]}
    assert {entry.name for entry in folder.iterdir()} == kept | {"best", "notes.txt"}


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".venv.old").mkdir()
    (tmp_path / ".venv.old" / "precious").touch()
    save(tmp_path, "best", 1)
    assert (tmp_path / ".venv.old" / "precious").exists()


def test_ensure_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="file"):
            ensure_writable(path)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="No space left") as caught:
        ensure_writable(tmp_path)
    assert "Free some space" in caught.value.remedy
    assert not (tmp_path / ".writable").exists()
