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
    assert "1 unknown item id is passed over: 'nope'" in " ".join(capsys.readouterr().err.split())
    for arguments, words in (
        (["--history", "nope"], "'nope'"),
        (["--user", "nobody"], "'nobody'"),
        (["--user", "u1", "--all"], "more than one way"),
        ([], "for whom"),
        (["--history", " , "], "names no item"),
        (["--all", "--output", "recs.doc"], "no format"),
        (["--users", str(tmp_path / "absent")], f"There is no file {tmp_path / 'absent'}."),
    ):
        assert main(["recommend", str(run), *arguments]) == 2
        ended = capsys.readouterr()
        assert ended.out == ""
        assert words in ended.err


def test_similar_items_have_a_layout_of_their_own(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = model.item_ids[:2]
    asked = ["recommend", str(run), "--similar", first, "--similar", second, "--by", "image", "--top", "3", "--quiet"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["similar"]
    assert [entry["similar_to"] for entry in found] == [first, second]
    own = model.similar(first, by="image", k=3)
    assert [(item["item_id"], item["score"]) for item in found[0]["items"]] == [(one.item_id, one.score) for one in own]
    assert main([*asked, "--output", str(tmp_path / "near.csv")]) == 0
    with (tmp_path / "near.csv").open(newline="") as file:
        head, *lines = list(csv.reader(file))
    assert head == ["similar_to", "rank", "item_id", "score", "title"]
    assert [line[0] for line in lines] == [first] * 3 + [second] * 3
    capsys.readouterr()
    assert main(asked) == 0
    assert f"like {first}" in capsys.readouterr().out


def test_flags_without_effect_and_numbers_out_of_range_are_refused(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\n\n")
    history = ["--history", model.item_ids[0]]
    for arguments, words in (
        ([*history, "--by", "text"], "--by has an effect only with --similar"),
        (["--similar", "i1", "--keep-seen"], "--keep-seen has an effect only without --similar"),
        (["--similar", "i1", "--diversity", "0"], "--diversity has an effect only without"),
        (["--similar", "i1", "--by", "smell"], "'smell'"),
        (["--similar", "nope"], "no item 'nope'"),
        (["--similar", "i1", "--all"], "more than one way"),
        ([*history, "--diversity", "2"], "diversity cannot be 2"),
        ([*history, "--diversity", "nan"], "diversity cannot be nan"),
        ([*history, "--min-score", "nan"], "not a number"),
        ([*history, "--top", "0"], "--top cannot be 0."),
        ([*history, "--only", str(tmp_path / "empty")], "the list is empty"),
        (["--users", str(tmp_path / "empty")], "is empty"),
        (["--histories", str(tmp_path / "empty")], "is empty"),
    ):
        assert main(["recommend", str(run), *arguments, "--quiet"]) == 2, arguments
        ended = capsys.readouterr()
        assert ended.out == ""
        assert words in " ".join(ended.err.split()), arguments


def test_nothing_left_to_choose_from_is_said(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["recommend", str(run), "--history", model.item_ids[0], "--min-score", "1e9", "--quiet"]
    assert main(asked) == 0
    assert "no item is left" in capsys.readouterr().out
    for name in ("none.csv", "none.parquet", "none.json"):
        assert main([*asked, "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "none.csv").read_text() == "user_id,rank,item_id,score,title\n"
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    assert json.loads((tmp_path / "none.json").read_text()) == {"recommendations": [{"user_id": None, "items": []}]}


def test_explanations_are_on_the_screen_and_in_json(
    run: Path, model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = printed(capsys, run, "--user", "u1", "--top", 2, "--explain")
    own = model.explain(user="u1", k=2)
    assert [item["explanation"]["words"] for item in found["items"]] == [one.words for one in own]
    assert main(["recommend", str(run), "--user", "u1", "--top", "2", "--explain", "--quiet"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(one.words in shown for one in own)
    path = tmp_path / "why.json"
    history = f"{model.item_ids[0]},nope,{model.item_ids[1]}"
    assert main(["recommend", str(run), "--history", history, "--explain", "--output", str(path), "--quiet"]) == 0
    assert capsys.readouterr().err.count("1 unknown item id is") == 1
    (written,) = json.loads(path.read_text())["recommendations"]
    assert len(written["items"][0]["explanation"]["entries"]) == 2
    assert main(["recommend", str(run), "--all", "--explain", "--output", str(tmp_path / "why.csv"), "--quiet"]) == 2
    assert "cannot hold explanations" in capsys.readouterr().err
