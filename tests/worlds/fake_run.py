"""A run that needs no training: its result object and three of its rounds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

METRICS = ("hr", "ndcg", "mrr", "recall")
CUTOFFS = (5, 10, 20, 50)


def evaluation(level: float) -> dict[str, Any]:
    """One scorer's metrics under every protocol, by the schema of ``--json``."""
    protocols = {}
    for place, protocol in enumerate(("full", "uniform100", "popularity100")):
        height = level * (1 + place)
        values = {f"{m}_at_{k}": min(height * k / (10 + i), 1.0) for i, m in enumerate(METRICS) for k in CUTOFFS}
        intervals = {name: [value * 0.8, min(value * 1.2, 1.0)] for name, value in values.items()}
        protocols[protocol] = {**values, "num_users": 597, "ci95": intervals}
    return protocols


RESULT: dict[str, Any] = {
    "version": "0.1.0",
    "status": "finished",
    "seed": 0,
    "run_id": "0f3c5a7b9d1e4f60a2b4c6d8e0f21436",
    "checkpoint": "runs/movielens-small-residual-seed0-a1b2c3/checkpoints/best",
    "output": "runs/movielens-small-residual-seed0-a1b2c3",
    "tracking_uri": "sqlite:///mlflow.db",
    "dataset": {
        "name": "movielens-small", "digest": "0123456789abcdef",
        "num_users": 597, "num_items": 1849, "num_interactions": 56166,
    },
    "config_digest": "a1b2c3d4e5f6",
    "rounds": 30,
    "best_round": 27,
    "seconds": {"total": 74.2, "data": 1.3, "train": 61.0, "evaluation": 9.9, "parts": {}},
    "metrics": {"validation": evaluation(0.16), "test": evaluation(0.14)},
    "baselines": {
        "popularity": {"test": evaluation(0.08)},
        "transition_counts": {"test": evaluation(0.15)},
        "round_0": {"test": evaluation(0.10)},
    },
    "parts": {}, "paired": {}, "groups": {}, "clients": {},
    "model": {"num_parameters": 195_234, "gating_weight": 0.412, "w_vis": 0.381, "w_sem": 0.619, "w_trans": None},
    "communication": {"uplink_bytes": 2_815_000_000, "downlink_bytes": 2_799_000_000},
    "peak_rss_bytes": 812_000_000,
    "notes": ["visual features cover 100.0% of the items"],
    "advice": [
        {"level": "info", "text": "Full ranking and uniform100 disagree on whether the model beats transition counts "
         "(ndcg_at_10): believe full ranking."},
        {"level": "warning", "text": "The model is below popularity on test (ndcg_at_10 0.030 against 0.039): "
         "something is wrong."},
    ],
}  # fmt: skip


def round_reports(metric: str = "full/ndcg_at_10") -> list[Any]:
    """Three rounds: the first in the warm-up, the second the best, the third without validation."""
    return [
        SimpleNamespace(
            round=number, rounds=3, loss=5.0 / number, validation=None if number == 3 else {metric: 0.05 * number},
            gating_weight=0.1 * number, expert_weights={"visual": 0.4, "semantic": 0.6}, load_balance_loss=0.0,
            update_norm=1.0, uplink_bytes=number, downlink_bytes=number, num_clients=120, seconds=2.0,
            is_best=number < 3, warmup=number == 1, epsilon=None,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
