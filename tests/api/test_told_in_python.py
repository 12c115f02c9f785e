"""What ``fedmm.train`` says of itself where no observer is given: on stderr, or in the log that shows it."""

from __future__ import annotations

import logging

import pytest

import fedmm
from fedmm.runs.watching import LOG, LogObserver, Told
from fedmm.testing import tiny_config


def test_stderr_is_told_notes_rounds_and_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    run = fedmm.train(tiny_config())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(":")[0] for line in lines if line.startswith("round ")] == ["round 1/2", "round 2/2"]
    assert {f"- {note}" for note in run.result.notes} <= set(lines)
    assert lines[-1] == f"the run is in {run.folder}"


def test_nothing_is_told_where_it_is_not_wanted_or_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fedmm.train(tiny_config(), quiet=True)
    fedmm.train(tiny_config(), observer=LogObserver())
    with caplog.at_level(logging.INFO, "fedmm"):
        fedmm.train(tiny_config())
    assert capsys.readouterr() == ("", "")
    assert any("training on" in record.message for record in caplog.records)


def test_a_warning_is_told_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Told().warn("look out")
    assert (caplog.messages, capsys.readouterr().err) == (["look out"], "")
    monkeypatch.setattr(LOG, "propagate", False)  # as in a program without a handler
    Told().warn("look out")
    assert (caplog.messages, capsys.readouterr().err) == (["look out"], "warning: look out\n")
