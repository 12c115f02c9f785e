"""A run's result as flat numbers, by the names under which they are tracked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """``test/full/hr_at_10`` and so on; on test those of what stands beside the model too."""
    parts = {{"validation": "best"}.get(split, split): values for split, values in result["metrics"].items()}
    for kind in ("baseline", "part"):
        parts |= {f"{kind}/{name}": entry["test"] for name, entry in result[f"{kind}s"].items() if "test" in entry}
    flat = {
        f"{part}/{protocol}/{name}": float(value)
        for part, protocols in parts.items()
        for protocol, values in protocols.items()
        for name, value in values.items()
        if name != "ci95"
    }
    for name, values in result.get("cold_items", {}).get("rows", {}).items():
        flat |= {f"cold/{name}/{key}": float(value) for key, value in values.items() if key != "ci95"}
    for opponent, tests in result["paired"].get("test", {}).items():
        for metric, test in tests.items():
            flat |= {f"paired/{opponent}/{metric}/{name}": test[name] for name in ("difference", "p_value")}
    return flat
