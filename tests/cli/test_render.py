"""Last screens and live tables: they fit, say everything, and need no colour."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedmm.evaluation.measured import Metrics
from fedmm.runs.own_parts import OWN_PARTS_FILE
from fedmm.runs.result import EvaluateResult, Seconds, TrainResult
from fedmm.study import load_study
from fedmm.utils.text import in_bytes, in_time
from fedmm_cli import progress, render
from fedmm_cli.progress import LiveObserver, PlainObserver, QuietObserver, make_observer
from fedmm_cli.sweep_report import print_sweep
from worlds.fake_run import evaluation, round_reports
from worlds.trials_world import sweep_result


def show(tree: dict[str, Any], *, details: bool = False) -> None:
    """The last screen of a run with this result."""
    render.print_result(TrainResult.from_json(tree), details=details)


@pytest.fixture(params=[60, 80, 100, 200])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_the_last_screen_fits_and_has_all_that_matters(
    width: int, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show(result, details=True)
    screen = capsys.readouterr().out
    lines = screen.splitlines()
    paths = (result["checkpoint"], result["output"], result["run_id"])  # stay whole, to be copied
    assert max(len(line.rstrip()) for line in lines if not any(path in line for path in paths)) <= width
    assert "\x1b" not in screen
    for protocol in render.PROTOCOLS.values():
        assert protocol in screen
    for row in ("model", "popularity", "transition counts", "round 0"):
        assert sum(line.startswith(f"{row} ") and "[" in line for line in lines) == 3
    assert ".140 [.112, .168]" in screen
    flowing = " ".join(screen.split())
    for piece in (
        "gate 0.412, w_vis 0.381, w_sem 0.619", "best round 27 of 30", "up 2.8 GB, down 2.8 GB", "1 min 14 s",
        "gate: the experts' weight", "round 0: untrained",
        result["checkpoint"], result["output"], result["run_id"], "fedmm ui", "! The model is below popularity",
        "believe full ranking", "812.0 MB", "1,849 items",
    ):  # fmt: skip
        assert piece in flowing


def test_commands_of_last_screens_name_the_files_of_own_parts(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run and of a study, as their folders say."""
    folder, study = tmp_path / "of mine", load_study("default")
    origins = {"loss": {"mine": {"module": "own", "file": "own part.py", "sha256": None}}}
    folder.mkdir()
    best = {"trial": 3, "value": 0.12, "params": {}, "seed": 1, "seeds": [1], "run_id": None, "run_ids": [None]}
    swept = sweep_result(study, folder=str(folder), best={**best, "config_path": f"{folder}/best.toml"})
    for parts in ("", " --parts 'own part.py'"):
        show(result | {"output": str(folder)}, details=True)
        print_sweep(study, swept)
        shown = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("again")]
        assert shown[0].endswith(f"fedmm evaluate '{folder}'{parts}")
        assert shown[1].endswith(f"fedmm train --config '{folder}/best.toml'{parts}")
        (folder / OWN_PARTS_FILE).write_text(json.dumps(origins))


def test_cold_items_have_a_table_of_their_own(
    width: int, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {name: evaluation(level)["full"] for name, level in (("model", 0.25), ("visual", 0.1), ("popularity", 0.05))}
    chance = {"hr_at_10": 0.0541, "ndcg_at_10": 0.0246, "mrr_at_10": 0.0158}
    section = {"num_items": 185, "num_queries": 5025, "num_users": 547, "chance": chance, "rows": rows}
    show(result | {"cold_items": section})
    screen = capsys.readouterr().out
    table = screen[screen.index("Cold items") :].splitlines()
    assert max(len(line.rstrip()) for line in table) <= width
    assert table[-1].startswith("=")
    assert "185 items never trained" in " ".join(screen.split())
    for label, first in (("model", ".250"), ("visual alone", ".100"), ("popularity", ".050"), ("chance", ".054")):
        assert any(line.strip().startswith(label) and first in line for line in table), label


def test_long_paths_stay_whole_to_be_copied(
    width: int, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result["output"] = "/very/long" * 20
    show(result)
    assert result["output"] in capsys.readouterr().out


def test_a_backbone_without_tracking_has_no_gate_and_no_hint(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result["model"] |= {"gating_weight": None, "w_vis": None, "w_sem": None}
    result |= {"run_id": None, "advice": []}
    show(result)
    screen = capsys.readouterr().out
    assert "fusion" not in screen
    assert "fedmm ui" not in screen


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("sqlite:///mlflow.db", "fedmm ui\n"),
        ("sqlite:////data/all.db", "fedmm ui --store sqlite:////data/all.db\n"),
        ("http://server:5000", None),
    ],
)
def test_the_way_to_the_tracking_store(
    uri: str, hint: str | None, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show(result | {"tracking_uri": uri}, details=True)
    screen = capsys.readouterr().out
    assert uri in screen
    assert (hint in screen) if hint else ("fedmm ui" not in screen)


@pytest.mark.parametrize("kept", [("full",), ("uniform100", "popularity100")])
def test_only_what_was_measured_is_shown(
    kept: tuple[str, ...], width: int, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    cut = {name: {"test": {p: entry["test"][p] for p in kept}} for name, entry in result["baselines"].items()}
    own = {p: {k: v for k, v in result["metrics"]["test"][p].items() if "_at_10" not in k} for p in kept}
    for name in list(own[kept[0]]["ci95"]):
        if name.endswith("_at_10"):
            del own[kept[0]]["ci95"][name]
    shown = {**result, "metrics": {"test": own}, "baselines": cut, "split": "test", "round": 3}
    render.print_evaluation(EvaluateResult.from_json(shown), "test", details=True)
    screen = capsys.readouterr().out
    assert "HR@5" in screen
    for protocol, label in render.PROTOCOLS.items():
        assert (label in screen) == (protocol in kept)


def paired(p: float, low: float = 0.0012) -> dict[str, Any]:
    return {"full/ndcg_at_10": {"difference": 0.0311, "ci95": [low, 0.0734], "p_value": p}}


def test_the_verdict_and_the_model_come_last_on_a_short_screen(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parts = {name: {"test": evaluation(0.1)} for name in ("backbone", "visual", "semantic")}
    tests = {"round_0": paired(0.001), "transition_counts": paired(0.053), "backbone": paired(0.888, -0.03)}
    show(result | {"parts": parts, "paired": {"test": tests}})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 30
    rows = [line.split()[0] for line in lines if "[" in line]
    assert rows == ["popularity", "transition", "round", "backbone", "visual", "semantic", "model"]
    last = " ".join(" ".join(lines).partition("= ")[2].split())
    assert last == (
        "The model's NDCG@10 is .127 in full ranking: better than round 0 (+.0311, p .0010); cannot be told from "
        "transition counts (+.0311, p .053; the interval just leaves out 0; the test decides) and backbone alone "
        "(+.0311, p .888)."
    )


def test_no_width_breaks_a_word(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = {"round_0": paired(0.001), "transition_counts": paired(0.053)}
    screens = []
    for width in ("60", "72", "80", "100", "200"):
        monkeypatch.setenv("COLUMNS", width)
        show(result | {"paired": {"test": tests}})
        words = [word for line in capsys.readouterr().out.splitlines() if "[" not in line for word in line.split()]
        screens.append([word for word in words if set(word) != {"\u2500"} and "@" not in word])
    assert all(screen == screens[0] for screen in screens)


def test_the_parts_of_the_time_add_up_to_it() -> None:
    parts = {"start_up": 2.0, "data": 0.5, "rounds": 10.0, "evaluation": 5.0, "tracking": 0.1, "other": 0.4}
    seconds = Seconds(total=18.0, data=3.0, train=9.0, evaluation=6.0, parts=parts)
    assert list(render.time_parts(seconds)) == ["rounds 10.0 s", "evaluation 5.0 s", "start-up 2.0 s", "rest 1.0 s"]
    shown = render.time_parts(seconds, all_parts=True)
    assert list(shown)[3:] == ["data 0.5 s", "tracking 0.1 s", "rest 0.4 s"]


def test_a_value_of_one_keeps_its_digit() -> None:
    assert render._cell(Metrics(hr_at_1=1.0, ci95={"hr_at_1": (0.9996, 1.0)}), "hr_at_1") == "1.000 [1.000, 1.000]"


def test_human_units_never_grow_past_their_unit() -> None:
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 2_815_000_000: "2.8 GB", 5e15: "5000.0 TB"}
    assert {number: in_bytes(number) for number in sizes} == sizes
    times = {0: "0.0 s", 59.9: "59.9 s", 61: "1 min 01 s", 3600: "1 h 00 min", 7500: "2 h 05 min"}
    assert {seconds: in_time(seconds) for seconds in times} == times


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_observer_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmm.config import ExperimentConfig

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    config = ExperimentConfig()
    assert type(make_observer(config, quiet=True, stream=Terminal())) is QuietObserver
    assert type(make_observer(config, quiet=False, stream=Terminal())) is LiveObserver
    assert type(make_observer(config, quiet=False, stream=io.StringIO())) is PlainObserver
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_observer(config, quiet=False, stream=Terminal())) is PlainObserver


def test_the_live_table_shows_the_last_rounds_and_one_best(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(progress, "SHOWN_ROUNDS", 3)
    observer = LiveObserver(Terminal(), "full/ndcg_at_10")
    observer.console = Console(file=io.StringIO(), force_terminal=True, width=width)
    first, second, third = round_reports()
    with observer:
        observer.prepared({"name": "own", "num_users": 3, "num_items": 5, "num_interactions": 9}, 3)
        for report in (first, second, third):
            observer.round_done(report, 65.0)
        observer.stage("evaluating on test")
        observer.warn("look out")
        last = io.StringIO()
        Console(file=last, width=width).print(observer._live.get_renderable())
    lines = [line.rstrip() for line in last.getvalue().splitlines()]
    names = ["round", "loss", "val", "full", "NDCG@10", "gate", "w_vis", "w_sem", "seconds"]
    assert lines[0].split() == [name for name in names if width > 60 or not name.startswith("w_")]
    assert [line.split()[0] for line in lines[1:4]] == ["1/3", "2/3", "3/3"]
    assert [line.endswith("best") for line in lines[1:4]] == [False, True, False]
    assert lines[1].endswith("warm-up")
    assert "evaluating on test, " in lines[4]
    assert max(map(len, lines)) <= width
    written = observer.console.file.getvalue()
    assert "1 min 05 s left" in written
    assert "warning: look out" in written


@pytest.mark.parametrize("columns", range(46, 80, 3))
def test_the_live_table_cuts_no_number(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    observer = LiveObserver(Terminal(), "full/ndcg_at_10")
    observer.console = Console(file=io.StringIO(), force_terminal=True, width=columns)
    for report in round_reports():
        report.warmup = False
        observer.round_done(report, 65.0)
    shown = io.StringIO()
    Console(file=shown, width=columns).print(observer._draw())
    assert "…" not in shown.getvalue()


def test_a_plain_round_is_one_line_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    observer = PlainObserver(stream, "full/ndcg_at_10")
    with observer:
        for report in round_reports():
            observer.round_done(report, 1.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"round {number}/3") for line, number in zip(lines, itertools.count(1), strict=False))
