"""Comparisons without runs: plausible numbers for groups, pairs, rounds and baselines, drawn from a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.comparison.types import ComparedRun, Comparison, Group, Pair, Verdict
from fedmm.config import ExperimentConfig
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts

METRICS = ("full/ndcg_at_10", "full/hr_at_10", "uniform100/hr_at_10")
NO_COUNTS = UserCounts(
    np.zeros(1, np.int64), np.array(["u"]), {"full": RankCounts(*(np.ones(1, np.int64),) * 3)}, "d", "test", "n"
)


def rounds_of(rng: np.random.Generator, level: float, num_rounds: int, experts: bool) -> list[dict[str, Any]]:
    rounds: list[dict[str, Any]] = []
    for number in range(1, num_rounds + 1):
        value = level * (1 - 0.6 * math.exp(-number / 6)) + float(rng.normal(0, 0.001))
        entry = {
            "round": number,
            "train/loss": 7.5 * math.exp(-number / 40),
            f"val/{METRICS[0]}": value,
            "seconds/round": 2.0 + float(rng.random()),
            "federation/uplink_bytes": 5e8 + 9e7 * number,
            "federation/downlink_bytes": 8e7 * number,
        }
        if experts:
            weight = 0.4 + 0.1 * math.tanh(number / 9)
            entry |= {
                "model/gating_weight": 0.1 + 0.4 * number / num_rounds + float(rng.normal(0, 0.01)),
                "model/w_vis": weight,
                "model/w_sem": 1 - weight,
            }
        rounds.append(entry)
    return rounds


def compared_run(
    name: str, seed: int, level: float, settings: dict[str, Any], *, num_rounds: int = 30, title: str = "ml-100k"
) -> ComparedRun:
    rng = np.random.default_rng([seed, int(1000 * level)])
    experts = settings.get("model.fusion") != "backbone"
    found = {name: {} for name in ("full", "uniform100")}
    for metric, times in zip(METRICS, (1.0, 1.8, 6.0), strict=True):
        protocol, _, measure = metric.partition("/")
        found[protocol][measure] = times * level
    beside = {"popularity": 0.4, "transition_counts": 0.93, "round_0": 0.3}
    return ComparedRun(
        name=name,
        run_id=f"{seed:032x}",
        folder=Path("runs") / name,
        seed=seed,
        settings=ExperimentConfig().flat() | settings | {"runtime.seed": seed},
        split="test",
        dataset={"name": title, "digest": "c81626f57a72c251", "num_users": 943, "num_items": 1682,
                 "num_interactions": 100000},
        metrics=found,
        baselines={
            other: {p: {m: v * factor for m, v in values.items()} for p, values in found.items()}
            for other, factor in beside.items()
        },
        counts=NO_COUNTS,
        rounds=rounds_of(rng, level, num_rounds, experts),
        best_round=max(1, num_rounds - 3),
        seconds=75.0 * num_rounds / 30,
        uplink_bytes=3_200_000_000,
        downlink_bytes=2_400_000_000,
        gating_weight=0.5 if experts else None,
        tracking_uri="sqlite:///mlflow.db",
    )  # fmt: skip


def comparison_of(
    groups: Sequence[tuple[str, float, dict[str, Any]]],
    *,
    num_seeds: int = 3,
    num_rounds: int = 30,
    metrics: Sequence[str] = METRICS,
    warnings: Sequence[str] = (),
    title: str = "ml-100k",
) -> Comparison:
    """Groups given as title, level and settings, the best first; a difference above .004 is one."""
    made = []
    for place, (name, level, settings) in enumerate(groups):
        label = chr(ord("A") + place)
        runs = tuple(
            compared_run(f"{name or 'run'} {seed}", seed, level, settings, num_rounds=num_rounds, title=title)
            for seed in range(num_seeds)
        )
        means = {m: runs[0].metrics[m.split("/")[0]][m.split("/")[1]] for m in metrics}
        ci95 = {m: (0.9 * mean, 1.1 * mean) for m, mean in means.items()}
        made.append(Group(label, name, runs, means, ci95))
    pairs = [pair_of(a, b, metric) for metric in metrics for a, b in itertools.combinations(made, 2)]
    differing = sorted({key for _, _, settings in groups for key in settings})
    data = made[0].runs[0].dataset
    return Comparison("test", data, tuple(made), tuple(pairs), tuple(metrics), tuple(differing), tuple(warnings))


def pair_of(a: Group, b: Group, metric: str) -> Pair:
    difference = a.means[metric] - b.means[metric]
    verdict: Verdict = "cannot be told apart" if abs(difference) < 0.004 else "better" if difference > 0 else "worse"
    p = 0.0004 if abs(difference) >= 0.004 else 0.31
    interval = (difference - 0.004, difference + 0.004)
    return Pair(a.label, b.label, metric, difference, interval, p, min(1.0, 3 * p), 40 * difference, verdict)


def usual(num_seeds: int = 3) -> Comparison:
    """Three ways of fusion, as a study of them comes out."""
    return comparison_of(
        [
            ("model.fusion=residual", 0.112, {"model.fusion": "residual", "federation.warmup_rounds": 0}),
            ("model.fusion=competitive", 0.109, {"model.fusion": "competitive", "federation.warmup_rounds": 5}),
            ("model.fusion=backbone", 0.094, {"model.fusion": "backbone", "federation.warmup_rounds": 0}),
        ],
        num_seeds=num_seeds,
        warnings=["uniform100/hr_at_10 has another winner than full/hr_at_10: full ranking decides."],
    )
