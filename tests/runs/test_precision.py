"""What ``runtime.precision`` comes to, who may ask for it, and that a run keeps it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from fedmm.api import load_run
from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.errors import ConfigError
from fedmm.runs.folder import CONFIG_FILE
from fedmm.utils.devices import choose_precision, has_bfloat16, require_precision
from fedmm.utils.interrupts import Interrupted
from worlds.precision_world import pretend
from worlds.run_world import Watcher, assert_same, outcome, tiny, train

CPU = torch.device("cpu")
SHORT = {"federation.rounds": 2}


def test_emulated_bfloat16_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, bfloat16=False)
    assert not has_bfloat16(CPU)
    assert choose_precision("auto", torch.float32, CPU) == "float32"
    with pytest.raises(ConfigError, match="only emulates it") as caught:
        require_precision("bfloat16", CPU)
    assert "--precision float32" in str(caught.value.remedy)
    pretend(monkeypatch, bfloat16=True)
    assert has_bfloat16(CPU)
    assert not has_bfloat16(torch.device("meta"))
    assert choose_precision("auto", torch.float32, CPU) == "bfloat16"
    assert choose_precision("auto", torch.float64, CPU) == "float32"
    assert [choose_precision(own, torch.float64, CPU) for own in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_emulation_on_a_gpu_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not has_bfloat16(torch.device("cuda"))


def test_float64_has_no_rounded_products() -> None:
    with pytest.raises(ValidationError, match=r'precision "bfloat16" and dtype "float64" exclude each other'):
        ExperimentConfig.model_validate({"runtime": {"precision": "bfloat16", "dtype": "float64"}})


def test_only_the_precision_of_before_is_left_out_of_the_digest() -> None:
    digests = [ExperimentConfig().with_values({"runtime.precision": own}).digest for own in ("float32", "bfloat16")]
    assert digests[0] == ExperimentConfig().digest != digests[1]


def test_a_run_keeps_what_auto_came_to(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped and resumed it is as never stopped; where the hardware is missing it is refused, not trained otherwise;
    and whoever has the run may evaluate it."""
    pretend(monkeypatch, bfloat16=True)
    auto = {**SHORT, "runtime.precision": "auto"}
    watcher, stopped = Watcher(), tiny(data, tmp_path / "stopped", auto)
    train(tiny(data, tmp_path / "whole", auto), watcher)
    assert load_config([tmp_path / "whole" / CONFIG_FILE]).runtime.precision == "bfloat16"
    assert [note for note in watcher.notes if "bfloat16 (runtime.precision)" in note]

    with pytest.raises(Interrupted):
        train(stopped, Watcher(lambda report: os.kill(os.getpid(), signal.SIGINT)))
    pretend(monkeypatch, bfloat16=False)
    for config in (load_config([tmp_path / "stopped" / CONFIG_FILE]), stopped):
        with pytest.raises(ConfigError, match=r"runtime.precision"):
            train(config, resume=True)
    assert load_run(tmp_path / "whole").model.evaluate("test").full
    pretend(monkeypatch, bfloat16=True)
    train(load_config([tmp_path / "stopped" / CONFIG_FILE]), Watcher(), resume=True)
    assert_same(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_bfloat16_is_refused_before_there_is_a_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, bfloat16=False)
    with pytest.raises(ConfigError, match="only emulates it"):
        train(tiny(data, tmp_path / "run", {**SHORT, "runtime.precision": "bfloat16"}))
    assert not (tmp_path / "run").exists()
    config = tiny(data, tmp_path / "run", {**SHORT, "runtime.precision": "auto"})
    train(config)
    assert load_config([tmp_path / "run" / CONFIG_FILE]).runtime.precision == "float32"
