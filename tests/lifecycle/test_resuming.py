"""A stopped run goes on as if it had never been stopped, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedmm.errors import CheckpointError, ConfigError
from fedmm.runs.checkpoint import FOLDER
from fedmm.utils.files import read_rounds
from fedmm.utils.interrupts import Interrupted
from worlds.lifecycle_world import SETTINGS, Silence, lasting, six_rounds, train


def test_a_damaged_last_round_costs_that_round_only(world: Path) -> None:
    whole = train(six_rounds(world, "whole", SETTINGS[0]))
    config = six_rounds(world, "stopped", SETTINGS[0])
    with pytest.raises(Interrupted):
        train(config, Silence(stop_after=4))
    next((world / "stopped" / FOLDER / "round-00004").glob("*.safetensors")).write_bytes(b"torn")
    observer = Silence()
    assert lasting(train(config, observer, resume=True)) == lasting(whole)
    assert observer.rounds == [4, 5, 6]
    assert any("round before it" in text for text in observer.warnings)


def test_where_every_round_is_damaged_nothing_begins_in_silence(world: Path) -> None:
    config = six_rounds(world, "stopped")
    with pytest.raises(Interrupted):
        train(config, Silence(stop_after=2))
    for tensors in (world / "stopped" / FOLDER).glob("round-*/*.safetensors"):
        tensors.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        train(config, resume=True)
    assert len(read_rounds(world / "stopped")) == 2


def test_resuming_nothing_begins_anew_and_says_so(world: Path) -> None:
    observer = Silence()
    train(six_rounds(world, "fresh"), observer, resume=True)
    assert any("no stopped run" in text for text in observer.warnings)


def test_more_threads_and_rarer_checkpoints_may_resume(world: Path) -> None:
    whole = train(six_rounds(world, "whole"))
    with pytest.raises(Interrupted):
        train(six_rounds(world, "stopped"), Silence(stop_after=2))
    config = six_rounds(world, "stopped", {"runtime.threads": 2, "runtime.checkpoint_every": 5})
    assert lasting(train(config, resume=True)) == lasting(whole)


def test_a_run_may_be_moved_and_resumed(world: Path) -> None:
    whole = train(six_rounds(world, "whole"))
    with pytest.raises(Interrupted):
        train(six_rounds(world, "stopped"), Silence(stop_after=3))
    shutil.move(world / "stopped", world / "moved")
    assert lasting(train(six_rounds(world, "moved"), resume=True)) == lasting(whole)


def test_an_occupied_folder_is_refused_before_data_are_read(world: Path) -> None:
    train(six_rounds(world, "whole"))
    (world / "own.csv").unlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(six_rounds(world, "whole"))
