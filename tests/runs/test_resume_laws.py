"""Stopped by a signal and resumed is the same as never stopped, bit for bit, wherever the signal falls."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmm import experiment
from fedmm.errors import ConfigError
from fedmm.runs import train as train_module
from fedmm.tracking.messages import Message, Params
from fedmm.utils.files import read_rounds
from fedmm.utils.interrupts import Interrupted, Interrupts, Stop
from worlds.run_stores import MemoryStore
from worlds.run_world import ROUNDS, Watcher, assert_same, last_state, outcome, tiny, train

STEADY = {"federation.learning_rate": 1e-30}  # validation never moves
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "server adam": {"federation.server_optimizer": "adam", "federation.server_learning_rate": 0.02},
    "server momentum over a plain mean": {
        "federation.server_optimizer": "momentum", "federation.aggregation": "mean",
        "federation.client_weighting": "positions",
    },
    "server yogi over local adamw": {
        "federation.server_optimizer": "yogi", "federation.server_learning_rate": 0.02,
        "federation.local_optimizer": "adamw", "federation.learning_rate": 0.01, "federation.weight_decay": 0.1,
    },
    "server adagrad over local epochs of FedProx": {
        "federation.server_optimizer": "adagrad", "federation.server_learning_rate": 0.05,
        "federation.local_steps": None, "federation.local_epochs": 2, "federation.proximal_mu": 0.1,
        "federation.batch_size": 1,
    },
    "patience": {"evaluation.patience": 3, **STEADY},
    "seldom saved, seldom validated": {"runtime.checkpoint_every": 4, "evaluation.every": 2},
    "warm-up": {"federation.warmup_rounds": 4},
    "memory experts, sampled negatives": {
        "model.experts": "memory", "model.fusion": "competitive", "model.scoring": "cosine",
        "model.memory": {"num_prototypes": 2},
        "federation.num_negatives": 7, "federation.spectral_start": False,
    },
    "personal parameters": {
        "model.personal_gate": True, "model.user_vector": True, "federation.warmup_rounds": 2,
    },
    "control variates": {"federation.local_algorithm": "scaffold", "model.user_vector": True},
    "sequential engine": {"runtime.engine": "sequential", "runtime.dtype": "float64"},
}  # fmt: skip
MOMENTS = {"server adam": 2, "server momentum over a plain mean": 1, "server yogi over local adamw": 2,
           "server adagrad over local epochs of FedProx": 1}  # fmt: skip


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def after(number: int) -> Watcher:
    """A signal while round ``number`` is being recorded."""
    return Watcher(lambda report: interrupt() if report.round == number else None)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the run that nobody stopped, by the name of its settings."""
    folder = tmp_path_factory.mktemp("whole")

    def trained(case: str) -> Path:
        if not (folder / case).exists():
            train(tiny(data, folder / case, SETTINGS[case]))
        return folder / case

    return trained


SOON = ("defaults", "control variates", "personal parameters", "memory experts, sampled negatives", "patience")


@pytest.mark.parametrize(
    "case", [case if case in SOON else pytest.param(case, marks=pytest.mark.slow) for case in SETTINGS]
)
def test_interrupted_is_uninterrupted(case: str, data: Path, tmp_path: Path, whole: Callable[[str], Path]) -> None:
    config, watcher = tiny(data, tmp_path / "parts", SETTINGS[case]), Watcher()
    with pytest.raises(Interrupted):
        train(config, after(3))
    tensors, meta = last_state(tmp_path / "parts")
    assert meta["round"] == 3
    moments = [value for name, value in tensors.items() if name.startswith("optimizer/") and value.any()]
    num_params = sum(name.startswith("params/") for name in tensors)
    assert len(moments) >= MOMENTS.get(case, 0) * num_params / 2  # or there would be nothing to restore
    train(config, watcher, resume=True)
    assert watcher.reports[0].round == 4
    assert watcher.warnings == []
    assert [note for note in watcher.notes if "after round 3" in note]
    assert_same(outcome(tmp_path / "parts"), outcome(whole(case)))


def test_the_count_of_stale_validations_is_restored(data: Path, tmp_path: Path) -> None:
    """A run that forgot it would stop later."""
    config = tiny(data, tmp_path / "run", SETTINGS["patience"])
    with pytest.raises(Interrupted):
        train(config, after(3))
    assert last_state(tmp_path / "run")[1]["stale"] == 2
    assert train(config, resume=True)["rounds"] == 4


@pytest.mark.parametrize(
    "place",
    ["a round", "saving", "result"]
    + [pytest.param(place, marks=pytest.mark.slow) for place in ("a validation", "best round", "baselines")],
)
def test_wherever_the_signal_falls(
    place: str, data: Path, tmp_path: Path, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(data, tmp_path / "parts")
    watcher = Watcher(at_stage=lambda text: interrupt(signal.SIGTERM) if place in text else None)
    calls = []

    def interrupted(function: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            if len(calls) == at:
                interrupt(signal.SIGTERM)
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        if place == "a round":
            patch.setattr(experiment, "run_round", interrupted(experiment.run_round, 3))
        elif place == "a validation":
            patch.setattr(experiment.Experiment, "validate", interrupted(experiment.Experiment.validate, 3))
        elif place == "saving":
            patch.setattr(train_module, "save_state", interrupted(train_module.save_state, 4))  # round 0 is saved too
        elif place == "result":
            patch.setattr(train_module, "write_result", interrupted(train_module.write_result, 1))
        with pytest.raises(Interrupted) as caught:
            train(config, watcher)
    assert caught.value.exit_code == 143
    assert caught.value.remedy == f"Go on with: fedmm train --resume --output {tmp_path / 'parts'}"
    assert not (tmp_path / "parts" / "result.json").exists()
    done = {"a round": 2, "a validation": 2, "saving": 3}.get(place, ROUNDS)
    assert last_state(tmp_path / "parts")[1]["round"] == done
    assert [entry["round"] for entry in read_rounds(tmp_path / "parts")] == list(range(1, done + 1))
    train(config, resume=True)
    assert_same(outcome(tmp_path / "parts"), outcome(whole("defaults")))


def test_a_second_signal_does_not_tear_what_the_first_one_saves(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(data, tmp_path / "run", {"runtime.checkpoint_every": 100})
    save, saved = train_module.save_state, []

    def save_slowly(folder: Path, own: Any, state: Any, progress: Any) -> Path:
        if state.server.round:
            interrupt(signal.SIGTERM)
        saved.append(state.server.round)
        return save(folder, own, state, progress)

    monkeypatch.setattr(train_module, "save_state", save_slowly)
    with pytest.raises(Interrupted) as caught:
        train(config, after(2))
    assert caught.value.exit_code == 143
    assert saved == [0, 2]
    assert last_state(tmp_path / "run")[1]["round"] == 2


def test_a_round_that_is_not_recorded_is_not_saved(
    data: Path, tmp_path: Path, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between a round's end and its record costs the round, never its record alone."""
    config = tiny(data, tmp_path / "parts", {"runtime.checkpoint_every": 100})
    shielded, calls = Interrupts.shielded, []

    def late(self: Interrupts) -> Any:
        calls.append(None)
        if len(calls) == 3:
            interrupt()
        return shielded(self)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "shielded", late)
        with pytest.raises(Interrupted):
            train(config)
    assert last_state(tmp_path / "parts")[1]["round"] == len(read_rounds(tmp_path / "parts")) == 2
    train(config, resume=True)
    left, right = outcome(tmp_path / "parts"), outcome(whole("defaults"))
    assert (left.rounds, left.result) == (right.rounds, right.result)


def test_before_the_first_checkpoint_nothing_is_left(data: Path, tmp_path: Path) -> None:
    watcher = Watcher(at_stage=lambda text: interrupt() if text == "spectral start" else None)
    with pytest.raises(Interrupted) as caught:
        train(tiny(data, tmp_path / "run"), watcher)
    assert caught.value.remedy == ""
    assert list(tmp_path.iterdir()) == []


def test_tracking_does_not_swallow_a_signal(data: Path, tmp_path: Path, memory_store: MemoryStore) -> None:
    """Whatever a store raises is its own affair, except what came from outside."""
    sent: list[Message] = []

    def once(message: Message) -> None:
        sent.append(message)
        if isinstance(message, Params) and len(sent) == 1:
            interrupt()

    memory_store.before = once
    with pytest.raises(Interrupted):
        train(tiny(data, tmp_path / "run", {"tracking.enabled": True}))
    assert memory_store.endings == ["KILLED"]


def test_a_signal_that_python_drops_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a finaliser goes nowhere; the next shield raises it again."""

    class Final:
        def __del__(self) -> None:
            interrupt()

    def interrupted_finaliser() -> None:
        with Interrupts() as interrupts:
            final = Final()
            del final
            with interrupts.shielded():
                pass

    monkeypatch.setattr("sys.unraisablehook", lambda dropped: None)
    with pytest.raises(Interrupted) as caught:
        interrupted_finaliser()
    assert caught.value.exit_code == 130


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not issubclass(Stop, Exception)


def test_resume_refuses_whatever_changes_a_number_and_names_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tiny(data, tmp_path / "run"), after(2))
    for key, value in {
        "federation.rounds": 5, "federation.learning_rate": 0.4, "model.gating_init": 0.7, "runtime.seed": 3,
        "evaluation.patience": 2, "runtime.dtype": "float64", "data.tie_order": "file",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"other settings: {key} .* -> {value}"):
            train(tiny(data, tmp_path / "run", {key: value}), resume=True)
    assert train(tiny(data, tmp_path / "run", {"tracking.experiment": "other"}), resume=True)["rounds"] == ROUNDS


GROWN = ["defaults", "server adam", "patience", "warm-up", "personal parameters", "control variates"]


@pytest.mark.slow
@pytest.mark.parametrize("case", GROWN)
@pytest.mark.parametrize("stopped", [False, True])
def test_more_rounds_are_those_of_a_run_that_had_them_from_the_start(
    case: str, stopped: bool, data: Path, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    """Whether the shorter run had finished or was stopped on the way."""
    folder = tmp_path / "run"
    shorter = {**SETTINGS[case], "federation.rounds": 5}
    if stopped:
        with pytest.raises(Interrupted):
            train(tiny(data, folder, shorter), after(2))
    else:
        train(tiny(data, folder, shorter))
    watcher = Watcher()
    result = train(tiny(data, folder, SETTINGS[case]), watcher, resume=True)
    assert watcher.warnings == []
    assert_same(outcome(folder), outcome(whole(case)))
    assert result["config_digest"] == tiny(data, folder, SETTINGS[case]).digest
    assert f"rounds = {ROUNDS}" in (folder / "config.toml").read_text()


def test_a_run_that_grows_counts_as_stopped_until_it_is_done(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(tiny(data, folder, {"federation.rounds": 2}))
    with pytest.raises(Interrupted):
        train(tiny(data, folder), after(4), resume=True)
    assert not (folder / "result.json").exists()
    assert train(tiny(data, folder), resume=True)["rounds"] == ROUNDS


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"federation.learning_rate_schedule": "cosine"}, "learning_rate_schedule"), ({"evaluation.every": 4}, "every 4")],
)
def test_more_rounds_are_refused_where_they_would_change_a_number(
    settings: dict[str, Any], words: str, data: Path, tmp_path: Path
) -> None:
    train(tiny(data, tmp_path / "run", {**settings, "federation.rounds": 5}))
    before = outcome(tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        train(tiny(data, tmp_path / "run", settings), resume=True)
    assert_same(outcome(tmp_path / "run"), before)


def test_resuming_a_finished_run_says_so(data: Path, tmp_path: Path) -> None:
    config, watcher = tiny(data, tmp_path / "run"), Watcher()
    train(config)
    before = outcome(tmp_path / "run")
    train(config, watcher, resume=True)
    assert_same(outcome(tmp_path / "run"), before)
    assert [note for note in watcher.notes if f"after round {ROUNDS}, which had finished" in note]


def test_the_run_that_was_stopped_last_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder named: a finished run is none to resume, and a new one beside it gets a name of its own."""
    monkeypatch.chdir(tmp_path)
    config, watcher = tiny(data, None, {"federation.rounds": 2}), Watcher()
    first = train(config, watcher, resume=True)
    assert [text for text in watcher.warnings if "no stopped run" in text]
    with pytest.raises(Interrupted):
        train(config, after(1))
    watcher = Watcher()
    assert train(config, watcher, resume=True)["output"] == f"{first['output']}-2"
    assert [report.round for report in watcher.reports] == [2]
