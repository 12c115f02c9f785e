"""Laws of trackers: training never feels the store, and the store in the end gets everything, once and in order."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.errors import ConfigError
from fedmm.tracking import tracker as tracker_module
from fedmm.tracking.messages import (
    Artifact,
    DatasetInput,
    Finish,
    Message,
    Metrics,
    Params,
    Tags,
    as_text,
    parse,
    serialise,
)
from fedmm.tracking.tracker import UNSENT_FILE, LocalTracker, RoundRecord, StoreTracker, status_of
from fedmm.utils import files


class OutageError(Exception):
    """The store does not answer."""


class RefusalError(Exception):
    """The store says no."""


class FakeStore:
    """Takes messages while ``up`` says so; remembers them in order."""

    uri = "http://user:secret@store.example"

    def __init__(self, up: Iterator[bool] | None = None, refuse: tuple[type, ...] = ()) -> None:
        self.run_id: str | None = None
        self.last_step = -1
        self.received: list[Message] = []
        self.num_calls = 0
        self._up = up
        self._refuse = refuse

    def _answer(self) -> None:
        self.num_calls += 1
        if self._up is not None and not next(self._up, True):
            raise OutageError(f"cannot reach {self.uri}\nsecond line")

    def connect(self) -> None:
        if self.run_id is None:
            self._answer()
            self.run_id = "run"

    def send(self, message: Message) -> None:
        assert self.run_id is not None
        self._answer()
        if isinstance(message, self._refuse):
            raise RefusalError("no")
        self.received.append(message)

    def refused(self, error: Exception) -> bool:
        return isinstance(error, RefusalError)


MESSAGES: list[Message] = [
    Params({"model.hidden_dim": "64"}),
    Tags({"dataset": "x"}),
    Metrics({"train/loss": 1.5, "a": -0.0}, 3, 1_700_000_000_000),
    DatasetInput("x", "d", {"num_users": 1}, "training"),
    Artifact("/a/b", None),
    Artifact("/a/b", "figures"),
    Finish("KILLED", 1_700_000_000_000),
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_messages_survive_a_file(tmp_path: Path, message: Message) -> None:
    files.write_lines(tmp_path / "x", [serialise(message)])
    assert [parse(entry) for entry in files.read_lines(tmp_path / "x")] == [message]


def test_nan_survives_a_file_and_nonsense_is_no_message(tmp_path: Path) -> None:
    files.write_lines(tmp_path / "x", [serialise(Metrics({"a": math.nan}, 1, 2)), {"kind": "Tags"}, {"b": 1}])
    first, *others = [parse(entry) for entry in files.read_lines(tmp_path / "x")]
    assert isinstance(first, Metrics)
    assert math.isnan(first.values["a"])
    assert others == [None, None]


def test_settings_as_text() -> None:
    values = [None, True, False, 3, 1e-3, "a", ["full", "x"], (5, 10)]
    assert [as_text(value) for value in values] == [
        "none", "true", "false", "3", "0.001", "a", '["full", "x"]', "[5, 10]",
    ]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    up=st.lists(st.booleans(), max_size=30),
    kills=st.sets(st.integers(0, 9)),
    retry=st.sampled_from([0.0, 1e9]),
)
def test_whatever_the_outages_and_kills_everything_arrives_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, up: list[bool], kills: set[int], retry: float
) -> None:
    folder = tmp_path_factory.mktemp("run")
    store = FakeStore(iter(up))
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker_module, "RETRY_SECONDS", retry)
        tracker = StoreTracker(store, folder, warnings.append).open()
        tracker.log_params({"a": None})
        for step in range(10):
            tracker.log_round({"train/loss": step / 3}, step)
            if step in kills:  # the process dies, another one resumes the run
                unsent = tracker.num_unsent
                store.last_step = max((m.step for m in store.received if isinstance(m, Metrics)), default=-1)
                tracker = StoreTracker(store, folder, lambda _: None).open()
                assert tracker.num_unsent <= unsent
            assert tracker.num_unsent == len(files.read_lines(folder / UNSENT_FILE))
        list(iter(lambda: next(store._up, None), None))  # type: ignore[arg-type]  # the store is back for good
        tracker.log_summary({"test": 1.0})
        tracker.finish("FINISHED")
        tracker.finish("FAILED")
    assert [type(message) for message in store.received] == [Params, *[Metrics] * 11, Finish]
    steps = [message.step for message in store.received if isinstance(message, Metrics)]
    assert steps == [*range(10), 9]
    assert store.received[-1].status == "FINISHED"  # type: ignore[union-attr]
    assert tracker.num_unsent == 0
    assert not (folder / UNSENT_FILE).exists()
    assert [entry["round"] for entry in files.read_rounds(folder)] == list(range(10))
    assert len(warnings) <= 1


def test_one_round_is_one_call(tmp_path: Path) -> None:
    store = FakeStore()
    tracker = StoreTracker(store, tmp_path, pytest.fail).open()
    before = store.num_calls
    tracker.log_round({f"m{index}": 1.0 for index in range(200)}, 0)
    assert store.num_calls == before + 1


def test_a_store_that_failed_is_left_alone_for_a_while_and_asked_again_at_the_end(tmp_path: Path) -> None:
    store = FakeStore(iter([False]))
    warnings: list[str] = []
    tracker = StoreTracker(store, tmp_path, warnings.append).open()
    for step in range(50):
        tracker.log_round({"train/loss": 1.0}, step)
    assert store.num_calls == 1
    assert tracker.num_unsent == 50
    assert len(warnings) == 1
    assert str(tmp_path / UNSENT_FILE) in warnings[0]
    assert "secret" not in warnings[0]
    tracker.finish("FINISHED")
    assert len(store.received) == 51


def test_a_store_that_stays_away_loses_nothing(tmp_path: Path) -> None:
    store = FakeStore(iter([False] * 1000))
    with StoreTracker(store, tmp_path, lambda _: None).open() as tracker:
        tracker.log_params({"a": 1})
        tracker.log_round({"train/loss": 1.0}, 1)
    kinds = [entry["kind"] for entry in files.read_lines(tmp_path / UNSENT_FILE)]
    assert kinds == ["Params", "Metrics", "Finish"]
    later = FakeStore()  # the run is resumed: it must not be closed by the end of the process before
    StoreTracker(later, tmp_path, pytest.fail).open()
    assert [type(message) for message in later.received] == [Params, Metrics]


def test_a_refused_message_is_kept_and_does_not_stop_the_others(tmp_path: Path) -> None:
    store = FakeStore(refuse=(Artifact,))
    warnings: list[str] = []
    with StoreTracker(store, tmp_path, warnings.append).open() as tracker:
        tracker.log_artifact(tmp_path / "gone")
        tracker.log_artifact(tmp_path / "gone too")
        tracker.log_round({"train/loss": 1.0}, 1)
    assert [type(message) for message in store.received] == [Metrics, Finish]
    assert len(warnings) == 1
    assert tracker.num_unsent == len(files.read_lines(tmp_path / UNSENT_FILE)) == 2


def test_config_errors_come_out_of_opening_and_only_there(tmp_path: Path) -> None:
    class Broken(FakeStore):
        def connect(self) -> None:
            raise ConfigError("deleted")

    with pytest.raises(ConfigError):
        StoreTracker(Broken(), tmp_path, pytest.fail).open()
    warnings: list[str] = []
    StoreTracker(Broken(), tmp_path, warnings.append).log_round({}, 1)
    assert len(warnings) == 1


def test_a_resumed_run_does_not_send_the_rounds_the_store_has(tmp_path: Path) -> None:
    store = FakeStore()
    store.last_step = 7
    tracker = StoreTracker(store, tmp_path, pytest.fail).open()
    for step in (6, 7, 8):
        tracker.log_round({"train/loss": 1.0}, step)
    assert [message.step for message in store.received if isinstance(message, Metrics)] == [8]
    assert [entry["round"] for entry in files.read_rounds(tmp_path)] == [6, 7, 8]


def test_a_run_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for make in (
        lambda warn: LocalTracker(RoundRecord(tmp_path / "file", warn)),
        lambda warn: StoreTracker(FakeStore(), tmp_path / "file", warn),
    ):
        warnings: list[str] = []
        with make(warnings.append) as tracker:
            tracker.log_round({"train/loss": 1.0}, 1)
            tracker.log_round({"train/loss": 1.0}, 2)
        assert len(warnings) == 1
        assert "cannot be written" in warnings[0]


class Exit(RuntimeError):  # noqa: N818 - as command-line frameworks name theirs
    """How command-line frameworks leave."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(), "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(1), "FAILED"),
        (SystemExit("words"), "FAILED"),
        (SystemExit(130), "KILLED"),
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (ValueError(), "FAILED"),
        (ConfigError("x"), "FAILED"),
        (Exit(0), "FINISHED"),
        (Exit(2), "FAILED"),
        (Exit(143), "KILLED"),
    ],
)
def test_the_exit_decides_the_status(tmp_path: Path, error: BaseException | None, status: str) -> None:
    assert status_of(error) == status
    store = FakeStore()
    tracker = StoreTracker(store, tmp_path, pytest.fail).open()

    def work() -> None:
        with tracker:
            if error is not None:
                raise error

    with contextlib.suppress(*([type(error)] if error is not None else [])):
        work()
    assert [message.status for message in store.received if isinstance(message, Finish)] == [status]
