"""Laws of the server: the lists of ``recommend``, 4xx for whatever is malformed, limits, and newer models."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.errors import CheckpointError, ConfigError
from fedmm.recommendation.choosing import Choice
from fedmm.runs.train import run_training
from fedmm.runs.trained import TrainedModel
from fedmm.serving import server
from fedmm.serving.batching import Batcher, TooBusyError
from fedmm.serving.current import Current, Served, newest
from fedmm_cli.app import main
from worlds.run_world import Watcher, tiny, write_data
from worlds.serving_world import Client, served


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same data: ``first`` and, of another seed, ``second``; with personal parameters."""
    folder = tmp_path_factory.mktemp("served")
    write_data(folder)
    own = {"model.personal_gate": True, "model.user_vector": True, "model.experts": "pooled", "federation.rounds": 1}
    for seed, name in enumerate(("first", "second")):
        run_training(tiny(folder, folder / name, {**own, "runtime.seed": seed}), Watcher())
    return folder


@pytest.fixture(scope="module")
def client(runs: Path) -> Iterator[Client]:
    with served(runs / "first") as found:
        yield found


@pytest.fixture(scope="module")
def model(runs: Path) -> TrainedModel:
    return TrainedModel.load(runs / "first")


def as_pairs(items: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(one["item_id"], pytest.approx(one["score"], abs=1e-5)) for one in items]


def test_many_at_once_get_the_lists_of_recommend(client: Client, model: TrainedModel) -> None:
    users = [str(one) for one in model.experiment.dataset.interactions.user_ids]
    histories = [list(model.item_ids[at : at + 1 + at % 5]) for at in range(20)]
    asked = [*({"user_id": user, "k": 5} for user in users), *({"history": row} for row in histories)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: client.post("/recommend", body), asked))
    wanted = [*model.recommend(users=users, k=5), *model.recommend(histories=histories)]
    for body, (status, found), best in zip(asked, answers, wanted, strict=True):
        assert status == 200
        assert found["user_id"] == body.get("user_id")
        assert [item["rank"] for item in found["items"]] == list(range(1, len(best) + 1))
        assert as_pairs(found["items"]) == [(one.item_id, one.score) for one in best]
        assert (found["unknown"], found["round"]) == ([], model.round)


def test_choices_similar_items_and_reasons(client: Client, model: TrainedModel) -> None:
    ids = list(model.item_ids)
    body = {"history": [ids[0], "strange"], "only": ids[:9], "exclude": [ids[3]], "keep_seen": True, "k": 50}
    status, found = client.post("/recommend", body)
    assert (status, found["unknown"]) == (200, ["strange"])
    assert {item["item_id"] for item in found["items"]} == set(ids[:9]) - {ids[3]}
    level = found["items"][4]["score"]
    _, fewer = client.post("/recommend", {**body, "min_score": level})
    assert fewer["items"] == [item for item in found["items"] if item["score"] >= level]
    status, found = client.get(f"/similar?item_id={ids[4]}&by=text&k=3")
    assert (status, as_pairs(found["items"])) == (
        200,
        [tuple(one[:2]) for one in model.similar(ids[4], by="text", k=3)],
    )
    status, found = client.post("/explain", {"history": ids[:2], "items": [ids[5]]})
    assert (status, found) == (200, json.loads(json.dumps([model.explain(ids[:2], [ids[5]])[0].to_json()])))
    assert client.get("/health") == (200, {**client.get("/health")[1], "status": "ok", "run": "first"})


def test_a_history_may_be_long_and_not_endless(client: Client, model: TrainedModel) -> None:
    ids = list(model.item_ids[:20])
    assert client.post("/recommend", {"history": ids * 200})[1]["items"]
    assert client.post("/recommend", {"history": ids * 501})[0] == 422


def test_what_is_not_there_is_said(client: Client) -> None:
    for path, body, status in (
        ("/recommend", {"user_id": "nobody"}, 404),
        ("/recommend", {"history": ["nothing"]}, 404),
        ("/recommend", {}, 422),
        ("/recommend", {"user_id": "u1", "history": ["i1"]}, 422),
        ("/recommend", {"user_id": "u1", "k": 0}, 422),
        ("/recommend", {"user_id": "u1", "more": 1}, 422),
        ("/recommend", {"history": ["i1"] * 10_001}, 422),
        ("/explain", {"history": ["i1"], "items": ["nothing"]}, 404),
        ("/nowhere", {}, 404),
        ("/health", {}, 405),
    ):
        found = client.post(path, body)
        assert (found[0], found[1].keys()) == (status, {"error"}), (path, body)
        assert found[1]["error"].keys() == {"code", "message", "remedy"}
    assert client.get("/similar?item_id=i1&by=smell")[0] == 422
    assert client.get("/similar?item_id=nothing")[0] == 404


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["user_id", "history", "k", "only", "exclude", "keep_seen", "min_score", "items", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=80)
@given(st.sampled_from(["/recommend", "/explain", "/similar"]), JSON, st.randoms(use_true_random=False))
def test_whatever_is_malformed_is_the_askers_fault(client: Client, path: str, tree: Any, dice: random.Random) -> None:
    content = bytearray(json.dumps(tree).encode())
    for _ in range(dice.randrange(3)):
        content.insert(dice.randrange(len(content) + 1), dice.randrange(256))
    status, body = client.raw("POST", path, bytes(content), Content_Type="application/json")
    assert 200 <= status < 500
    assert b"Traceback" not in body
    assert status == 200 or "error" in json.loads(body)


@pytest.mark.parametrize("content", [
    b"\x00\xff garbage \r\n\r\n", b"GET\r\n\r\n", b"POST /recommend HTTP/1.1\r\nContent-Length: -4\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
])  # fmt: skip
def test_what_is_no_http_does_no_harm(client: Client, content: bytes) -> None:
    answer = client.bytes(content)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert client.get("/health")[0] == 200


def test_deep_and_large_bodies_are_refused(runs: Path) -> None:
    with served(runs / "first", body_bytes=2000) as client:
        deep = b"[" * 900 + b"]" * 900
        assert client.raw("POST", "/recommend", deep, Content_Type="application/json")[0] in (400, 422)
        assert client.raw("POST", "/recommend", b" " * 2001)[0] == 413
        head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert client.bytes(head + b"3e8\r\n" + b" " * 1000 + b"\r\n" + b"3e9\r\n" + b" " * 1001 + b"\r\n0\r\n\r\n"
                            ).startswith(b"HTTP/1.1 413")  # fmt: skip
        told = client.raw("GET", "/metrics")[1].decode()
        assert 'fedmm_requests_total{path="/recommend",status="413"} 2.0' in told
        assert 'status="500"' not in told


def test_a_token_is_asked_for(runs: Path) -> None:
    with served(runs / "first", token="secret") as client:
        body = {"history": ["i1"]}
        assert client.get("/health")[0] == 200
        assert client.raw("GET", "/")[0] == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            assert client.post("/recommend", body, **headers)[0] == 401
            assert client.raw("GET", "/metrics", **headers)[0] == 401
        assert client.post("/recommend", body, Authorization="Bearer secret")[0] == 200


def test_a_queue_is_bounded_and_nobody_waits_for_ever(runs: Path) -> None:
    current = Served.load(runs / "first")
    asked = current.chooser.asked(["i1"], None, None, None, None)

    async def scene() -> list[int]:
        sizes: list[int] = []
        batcher = Batcher(2, sizes.append)
        with pytest.raises(TimeoutError):  # nobody computes
            await batcher.lists(current, asked, Choice(3), 0.01)
        waiting = asyncio.create_task(batcher.lists(current, asked, Choice(3), 60.0))
        await asyncio.sleep(0)
        with pytest.raises(TooBusyError):
            await batcher.lists(current, asked, Choice(3), 60.0)
        running = asyncio.create_task(batcher.run())
        assert len(await waiting) == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        batcher.close()
        return sizes

    assert asyncio.run(scene()) == [1]  # the one who gave up was not computed for


def test_a_newer_run_takes_over_and_a_broken_one_does_not(runs: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "runs", list[str]()
    shutil.copytree(runs / "first", folder / "first")
    with pytest.raises(CheckpointError, match="holds none"):
        newest(tmp_path / "nothing")
    current = Current(folder)
    assert not current.renew(said.append)
    before = current.served
    shutil.copytree(runs / "second", folder / "broken")
    _touch(folder / "broken", 10)
    (folder / "broken" / "checkpoints" / "best" / "state.safetensors").write_bytes(b"nonsense")
    assert not current.renew(said.append)
    assert not current.renew(said.append)
    assert len(said) == 1  # once
    assert "the one before is served" in said[0]
    assert current.served is before
    shutil.copytree(runs / "second", folder / "second")
    _touch(folder / "second", 20)
    with served(folder, said, reload_seconds=0.05) as client:
        assert client.get("/health")[1]["run"] == "second"
    assert current.renew(said.append)
    assert current.served.name == "second"
    assert before.model.recommend(["i1"]) != current.served.model.recommend(["i1"])


def test_the_server_looks_for_newer_models_by_itself(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "first", tmp_path / "runs" / "first")
    shutil.copytree(runs / "second", tmp_path / "second")
    _touch(tmp_path / "second", 10)
    with served(tmp_path / "runs", reload_seconds=0.05) as client:
        assert client.get("/health")[1]["run"] == "first"
        (tmp_path / "second").rename(tmp_path / "runs" / "second")
        while b"fedmm_reloads_total 1.0" not in client.raw("GET", "/metrics")[1]:
            assert client.get("/health")[0] == 200
        assert client.get("/health")[1]["run"] == "second"


def _touch(run: Path, later: int) -> None:
    """Makes it the one that finished last."""
    stat = (run / "result.json").stat()
    os.utime(run / "result.json", (stat.st_atime, stat.st_mtime + later))


def test_who_can_ask_and_what_is_missing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [server.is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    monkeypatch.setenv(server.TOKEN, "from-environment")
    assert server.read_token(None) == "from-environment"
    (tmp_path / "token").write_text("from-file\n")
    assert server.read_token(tmp_path / "token") == "from-file"
    (tmp_path / "token").write_text("\n")
    for path in (tmp_path / "token", tmp_path / "missing"):
        with pytest.raises(ConfigError):
            server.read_token(path)
    for wrong in (["--timeout", "0"], ["--max-waiting", "0"], ["--port", "70000"], ["--reload", "-1"]):
        assert main(["serve", str(runs / "first"), *wrong]) == 2
    assert main(["serve", str(tmp_path)]) == 2
    assert "is no run and holds none" in capsys.readouterr().err
    monkeypatch.setattr(server, "PACKAGES", ("no_such_package",))
    assert main(["serve", str(runs / "first")]) == 2
    assert 'pip install "fedmm[serve]"' in capsys.readouterr().err
