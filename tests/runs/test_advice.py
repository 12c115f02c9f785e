"""Each advice is given exactly where its condition holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fedmm.config import ExperimentConfig
from fedmm.runs.advice import advise
from fedmm.runs.result import Advice, TrainResult
from worlds.fake_run import RESULT

CONFIG = ExperimentConfig.model_validate({"model": {"gating_init": 0.1}})


def values(full: float, uniform: float) -> dict[str, Any]:
    return {
        "full": {"hr_at_10": 2 * full, "ndcg_at_10": full},
        "uniform100": {"hr_at_10": 2 * uniform, "ndcg_at_10": uniform},
    }


def advised(config: ExperimentConfig, tree: dict[str, Any]) -> list[Advice]:
    return list(advise(config, TrainResult.from_json(tree)))


def healthy() -> dict[str, Any]:
    """A run that learned, whose gate moved, and that stands above all baselines under every protocol."""
    return RESULT | {
        "metrics": {"validation": values(0.12, 0.5), "test": values(0.11, 0.45)},
        "baselines": {
            "popularity": {"test": values(0.04, 0.2)},
            "transition_counts": {"test": values(0.10, 0.40)},
            "round_0": {"test": values(0.05, 0.3)},
        },
        "model": {"num_parameters": 9, "gating_weight": 0.7, "w_vis": 0.4, "w_sem": 0.6},
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(healthy())
    *parents, leaf = path.split("/")
    place = result
    for name in parents:
        place = place[name]
    place[leaf] = value
    return result


def test_a_healthy_run_needs_no_advice() -> None:
    assert advised(CONFIG, healthy()) == []


@pytest.mark.parametrize(
    ("path", "value", "level", "words"),
    [
        ("model/gating_weight", 0.0, "info", "gate went to zero"),
        ("model/gating_weight", -0.009, "info", "gate went to zero"),
        ("model/gating_weight", 2.5, "info", "gate grew large"),
        ("model/gating_weight", -2.5, "info", "gate grew large"),
        ("model/gating_weight", 0.1, "warning", "gate did not move from 0.1"),
        ("model/w_vis", 0.95, "info", "visual expert holds 95%"),
        ("model/w_sem", 0.91, "info", "semantic expert holds 91%"),
        ("metrics/test/full/ndcg_at_10", 0.045, "warning", "below its own round 0"),
        ("baselines/popularity/test/full/ndcg_at_10", 0.2, "warning", "below popularity"),
        ("metrics/test/uniform100/ndcg_at_10", 0.39, "info", "uniform negatives disagree"),
        ("baselines/transition_counts/test/full/ndcg_at_10", 0.12, "info", "uniform negatives disagree"),
        ("best_round", 30, "info", "last of 30: validation was still rising"),
    ],
)
def test_one_change_brings_its_advice(path: str, value: float, level: str, words: str) -> None:
    found = advised(CONFIG, changed(path, value))
    assert [entry.level for entry in found if words in entry.text] == [level]
    assert all(words in entry.text or "disagree" in entry.text for entry in found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model/gating_weight", 0.0101),
        ("model/gating_weight", 2.0),
        ("model/gating_weight", 0.1002),
        ("model/w_vis", 0.9),
        ("baselines/round_0/test/full/ndcg_at_10", 0.11),
        ("best_round", 29),
        ("best_round", 1),
    ],
)
def test_at_the_border_there_is_none(path: str, value: float) -> None:
    assert advised(CONFIG, changed(path, value)) == []


def measured(opponent: str, difference: float, p: float, metric: str = "full/ndcg_at_10") -> dict[str, Any]:
    """The healthy run with a part that scores alone, and one paired test."""
    result = healthy() | {"parts": {"visual": {"test": values(0.02, 0.1)}}}
    test = {"difference": difference, "ci95": [difference - 0.01, difference + 0.01], "p_value": p}
    return result | {"paired": {"test": {opponent: {metric: test}}}}


@pytest.mark.parametrize("opponent", ["round_0", "popularity"])
@pytest.mark.parametrize("level", [0.109, 0.111])
def test_within_noise_nothing_is_called_wrong_and_nothing_a_gain(opponent: str, level: float) -> None:
    """The paired test decides, on whichever side the mean happens to fall."""
    result = measured(opponent, 0.11 - level, 0.888)
    result["baselines"][opponent]["test"]["full"]["ndcg_at_10"] = level
    (entry,) = advised(CONFIG, result)
    assert entry.level == "info"
    assert "cannot be told from" in entry.text
    assert "p .888" in entry.text
    result["paired"]["test"][opponent]["full/ndcg_at_10"]["p_value"] = 0.049
    found = advised(CONFIG, result)
    assert [entry.level for entry in found] == ["warning"] * (level > 0.11)
    assert all("p .049" in entry.text for entry in found)


@pytest.mark.parametrize(("p", "level", "words"), [(0.01, "warning", "beats the whole model"), (0.2, "info", "within")])
@pytest.mark.parametrize("part", ["visual", "backbone"])
def test_a_part_that_does_better_alone_is_named(part: str, p: float, level: str, words: str) -> None:
    result = measured(part, -0.025, p)
    result["parts"] = {part: {"test": values(0.135, 0.1)}}
    (entry,) = advised(CONFIG, result)
    assert entry.level == level
    assert words in entry.text
    assert part in entry.text
    assert ".135 against .110" in entry.text


@pytest.mark.parametrize(("p", "level"), [(0.01, "warning"), (0.2, "info")])
def test_a_protocol_under_which_round_0_is_ahead_is_named(p: float, level: str) -> None:
    result = measured("round_0", -0.01, p, "uniform100/ndcg_at_10")
    result["baselines"]["round_0"]["test"]["uniform100"]["ndcg_at_10"] = 0.46
    (entry,) = advised(CONFIG, result)
    assert entry.level == level
    assert entry.text.startswith("Against 100 uniform negatives round 0")


def test_where_the_best_round_is_the_last_the_command_that_goes_on_is_one_that_may() -> None:
    last = healthy() | {"best_round": 30}
    (entry,) = advised(CONFIG, last)
    assert f"(go on with fedmm train --resume --output {last['output']} --rounds 60)" in entry.text
    for section, given in (
        ("federation", {"learning_rate_schedule": "linear"}),
        ("federation", {"rounds": 7}),
    ):
        config = ExperimentConfig.model_validate({"model": {"gating_init": 0.1}, section: given})
        (entry,) = advised(config, last)
        assert ("--resume" in entry.text) == ("rounds" in given)
        assert "--rounds 60" in entry.text
    (entry,) = advised(CONFIG, healthy() | {"best_round": 1, "rounds": 1})
    assert entry.text.startswith("One round is few: ")


def test_a_private_run_keeps_its_last_round_and_is_told_nothing_of_rounds() -> None:
    private = ExperimentConfig.model_validate({"model": {"gating_init": 0.1}, "privacy": {"epsilon": 8.0}})
    last = healthy() | {"best_round": 30}
    assert len(advised(CONFIG, last)) == 1
    assert advised(private, last) == []


@pytest.mark.parametrize(("best", "p", "told"), [(7, 0.3, True), (8, 0.3, False), (7, 0.01, False)])
def test_an_early_best_round_without_a_sure_gain_names_what_to_try(best: int, p: float, told: bool) -> None:
    found = advised(CONFIG, measured("popularity", 0.07, p) | {"best_round": best})
    text = f"The best round is {best} of 30: longer training does not help here. Try a --learning-rate below 0.3,"
    assert [entry.text.startswith(text) for entry in found] == [False] * (p > 0.05) + [True] * told


@pytest.mark.parametrize(("rounds", "p", "told"), [(3, 0.3, True), (9, 0.3, True), (10, 0.3, False), (3, 0.01, False)])
def test_few_rounds_without_a_sure_gain_are_called_few(rounds: int, p: float, told: bool) -> None:
    found = advised(CONFIG, measured("round_0", 0.06, p) | {"rounds": rounds, "best_round": rounds - 1})
    text = f"{rounds} rounds are few: train for more (--rounds 30) before you judge."
    assert [entry.text for entry in found if "few" in entry.text] == [text] * told


def test_without_experts_or_gate_nothing_is_said_of_them() -> None:
    result = changed("model", {"num_parameters": 9, "gating_weight": None, "w_vis": None, "w_sem": None})
    assert advised(CONFIG, result) == []


def test_a_single_expert_may_hold_all() -> None:
    assert (
        advised(CONFIG, changed("model", {"num_parameters": 9, "gating_weight": 0.5, "w_vis": 1.0, "w_sem": None}))
        == []
    )


def test_a_gate_that_was_to_stay_is_not_blamed_for_it() -> None:
    config = ExperimentConfig.model_validate({"model": {"learn_gating": False, "gating_init": 0.0}})
    assert advised(config, changed("model/gating_weight", 0.0)) == []


def test_the_selection_metric_decides_what_is_compared() -> None:
    config = ExperimentConfig.model_validate({"evaluation": {"selection_metric": "uniform100/hr_at_10"}})
    found = advised(config, changed("metrics/test/uniform100/hr_at_10", 0.1))
    assert sum("HR@10 .100" in entry.text for entry in found) == 2


def test_a_gate_that_begins_at_zero_and_stays_did_not_move() -> None:
    config = ExperimentConfig.model_validate({"model": {"gating_init": 0.0}})
    (entry,) = advised(config, changed("model/gating_weight", 0.0))
    assert "did not move" in entry.text
