"""What ``recommend`` and ``export`` can refuse without a model is refused before anything loads, by the flag's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmm.runs.trained import TrainedModel
from fedmm_cli.app import main

ONE = ["--user", "u1"]
WRONG = {
    "top": (["recommend", "run", *ONE, "--top", "0"], "--top cannot be 0."),
    "diversity": (["recommend", "run", *ONE, "--diversity", "3"], "--diversity cannot be 3."),
    "min score": (["recommend", "run", *ONE, "--min-score", "nan"], "--min-score is not a number."),
    "by": (["recommend", "run", "--similar", "i1", "--by", "smell"], "--by cannot be 'smell'."),
    "items": (["recommend", "run", *ONE, "--items", "absent.npz"], "There is no file absent.npz"),
    "format": (["export", "run", "--format", "pickle", "--output", "x"], "--format cannot be 'pickle'."),
    "weights": (["export", "run", "--weights", "int4", "--output", "x"], "--weights cannot be 'int4'."),
    "top of a graph": (["export", "run", "--top", "0", "--output", "x"], "--top cannot be 0."),
    "folder": (["export", "run", "--output", "full"], "--output full is a folder."),
    "full": (["export", "run", "--format", "bundle", "--output", "full"], "--output full exists already."),
    "alias": (["export", "run", "--register", "films", "--alias", "bad alias!"], "--alias cannot be 'bad alias!'."),
    "alias of mlflow's": (["export", "run", "--register", "films", "--alias", "v1"], "--alias cannot be 'v1'."),
    "other format": (["export", "run", "--register", "films", "--format", "onnx"], "--register is not for"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_is_said_before_anything_loads(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("something loaded")

    monkeypatch.setattr(TrainedModel, "load", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    command, words = WRONG[case]
    assert main(command) == 2
    assert words in " ".join(capsys.readouterr().err.split())
