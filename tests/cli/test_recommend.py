"""``fedmm recommend``: the shapes that it prints and writes, for whom, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from fedmm.runs.model import TrainedModel
from fedmm.runs.train import run_training
from fedmm_cli.app import main
from worlds.run_world import Watcher, tiny, write_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    write_data(folder)
    run_training(tiny(folder, folder / "run", {"federation.rounds": 1}), Watcher())
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return TrainedModel.load(run)


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main(["recommend", *map(str, arguments), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"recommendations"}
    return list(found["recommendations"])


def test_json_has_users_and_ranked_items(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "users.txt").write_text("u2\n\nu0\n")
    found = printed(capsys, run, "--user", "u1", "--users", tmp_path / "users.txt", "--top", 3)
    assert [entry["user_id"] for entry in found] == ["u1", "u2", "u0"]
    for entry, own in zip(found, model.recommend(users=["u1", "u2", "u0"], k=3), strict=True):
        assert entry["items"] == [
            {"item_id": one.item_id, "rank": rank, "score": one.score, "title": one.title}
            for rank, one in enumerate(own, start=1)
        ]
    everyone = printed(capsys, run, "--all")
    assert [entry["user_id"] for entry in everyone] == list(model.experiment.dataset.interactions.user_ids)


def test_histories_stock_lists_and_scores(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history, stock = list(model.item_ids[:3]), list(model.item_ids[2:9])
    (tmp_path / "histories.txt").write_text(f"{','.join(history)}\n{history[0]}, {history[1]}\n")
    (tmp_path / "stock.txt").write_text("\n".join(stock))
    (tmp_path / "out.txt").write_text(stock[-1])
    (one,) = printed(capsys, run, "--history", ",".join(history), "--only", tmp_path / "stock.txt",
                     "--exclude", tmp_path / "out.txt")  # fmt: skip
    assert one["user_id"] is None
    assert {item["item_id"] for item in one["items"]} == set(stock[1:-1])
    level = one["items"][2]["score"]
    (kept,) = printed(capsys, run, "--history", ",".join(history), "--only", tmp_path / "stock.txt", "--keep-seen",
                      "--min-score", level)  # fmt: skip
    assert all(item["score"] >= level for item in kept["items"])
    several = printed(capsys, run, "--histories", tmp_path / "histories.txt")
    assert [entry["user_id"] for entry in several] == ["1", "2"]


def test_tables_have_a_row_a_recommendation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, run, "--all", "--top", 4)
    rows = [(entry["user_id"], *item.values()) for entry in found for item in entry["items"]]
    columns = ["user_id", "item_id", "rank", "score", "title"]
    wanted = [dict(zip(columns, row, strict=True)) for row in rows]
    for name in ("recs.csv", "recs.parquet", "recs.json"):
        assert main(["recommend", str(run), "--all", "--top", "4", "--quiet", "--output", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == ""
    assert parquet.read_table(tmp_path / "recs.parquet").to_pylist() == wanted
    with (tmp_path / "recs.csv").open(newline="") as file:
        head, *lines = list(csv.reader(file))
    assert head == ["user_id", "rank", "item_id", "score", "title"]
    assert lines == [[str(row[name]) for name in head] for row in wanted]
    assert json.loads((tmp_path / "recs.json").read_text()) == {"recommendations": found}


def test_the_screen_has_ids(run: Path, model: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", str(run), "--user", "u1", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "for u1" in shown
    assert all(one.item_id in shown for one in model.recommend(user="u1"))


def test_unknown_ids_are_named_and_nothing_known_is_exit_2(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(run), "--history", f"{model.item_ids[0]},nope", "--quiet", "--json"]) == 0
    assert "1 unknown item ids are passed over: 'nope'" in " ".join(capsys.readouterr().err.split())
    for arguments, words in (
        (["--history", "nope"], "'nope'"),
        (["--user", "nobody"], "'nobody'"),
        (["--user", "u1", "--all"], "more than one way"),
        ([], "for whom"),
        (["--all", "--output", "recs.doc"], "no format"),
        (["--users", str(tmp_path / "absent")], "cannot be read"),
    ):
        assert main(["recommend", str(run), *arguments]) == 2
        ended = capsys.readouterr()
        assert ended.out == ""
        assert words in ended.err
