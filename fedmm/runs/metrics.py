"""A run's result as flat numbers, by the names under which they are tracked."""

from __future__ import annotations

from collections.abc import Mapping

from fedmm.runs.result import TrainResult

OWN = ("best/", "test/")  # the model's own numbers: columns of a list of runs


def flat_metrics(result: TrainResult) -> dict[str, float]:
    """``test/full/hr_at_10`` and so on; on test those of the reference models too."""
    parts = {{"validation": "best"}.get(split, split): values for split, values in result.metrics.items()}
    for kind, rows in (("baseline", result.baselines), ("part", result.parts)):
        parts |= {f"{kind}/{name}": entry["test"] for name, entry in rows.items() if "test" in entry}
    flat = {
        f"{part}/{protocol}/{name}": float(value)
        for part, protocols in parts.items()
        for protocol, values in protocols.items()
        for name, value in values.items()
        if name != "ci95"
    }
    for name, values in ({} if result.cold_items is None else result.cold_items.rows).items():
        flat |= {f"cold/{name}/{key}": float(value) for key, value in values.items() if key != "ci95"}
    for opponent, tests in result.paired.get("test", {}).items():
        for metric, test in tests.items():
            flat |= {f"paired/{opponent}/{metric}/{name}": test[name] for name in ("difference", "p_value")}
    return flat


def summary_metrics(flat: Mapping[str, float]) -> dict[str, float]:
    """The model's own final metrics, which are tracked as metrics.

    >>> summary_metrics({"test/full/hr_at_10": 0.25, "baseline/popularity/full/hr_at_10": 0.125})
    {'test/full/hr_at_10': 0.25}
    """
    return {name: value for name, value in flat.items() if name.startswith(OWN)}


def reference_tags(flat: Mapping[str, float]) -> dict[str, str]:
    """What the model is compared with, which is tracked as tags: as metrics each would be a chart of one point.

    >>> reference_tags({"test/full/hr_at_10": 0.25, "baseline/popularity/full/hr_at_10": 0.125})
    {'baseline/popularity/full/hr_at_10': '0.125'}
    """
    return {name: f"{value:.6g}" for name, value in flat.items() if not name.startswith(OWN)}
