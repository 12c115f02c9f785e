"""From a folder of pictures and a table of texts to a trained model by one command, and next week by another."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from worlds.picture_world import write_shop

pytestmark = pytest.mark.slow


def test_pictures_that_drive_choices_help_and_next_week_is_trained_on(run, tmp_path: Path, monkeypatch) -> None:
    """500 users, 300 items: with what the command takes by default the residual model beats the backbone by the paired
    test on test; one command more and next week's events, users and items are trained on."""
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shop = write_shop(tmp_path / "shop")
    assert {path.suffix for path in shop.images.iterdir()} == {".jpg", ".png"}
    raw = ("--data", "shop/events.csv", "--images", "shop/images", "--texts", "shop/texts.csv")
    quiet = ("--set", "tracking.enabled=false", "--quiet")
    mine, plain = (
        run("train", *raw, "--output", output, *quiet, *more, "--json")
        for output, more in (("mine", ()), ("plain", ("--fusion", "backbone")))
    )
    assert (mine.code, plain.code) == (0, 0), mine.stderr + plain.stderr
    settings = tomllib.loads(Path("mine/config.toml").read_text())["model"]
    assert (settings["gating_init"], settings["gate_start"]) == (1.0, "given")
    assert "the gate starts at 1: untrained, .1, 1 and 3 reach" in (tmp_path / "mine" / "result.json").read_text()
    best, backbone = (json.loads(own.stdout)["metrics"]["test"]["full"]["ndcg_at_10"] for own in (mine, plain))
    assert best > backbone + 0.02
    pairs = json.loads(run("compare", "mine", "plain", "--json").stdout)["pairs"]
    (pair,) = (own for own in pairs if own["metric"] == "full/ndcg_at_10")
    assert abs(pair["difference"]) == pytest.approx(best - backbone)
    assert pair["p_adjusted"] < 0.01, pair
    more = ("--data", "shop/next_week.csv", "--output", "next", "--rounds", "3")
    later = run("train", "--start-from", "mine", *more, *quiet, "--json")
    assert later.code == 0, later.stderr
    found = json.loads(later.stdout)
    assert found["dataset"]["num_users"] == 510
    assert found["dataset"]["num_items"] == 300
    assert found["dataset"]["num_interactions"] > 500 * 5 + 500
