"""How much noise a private run began with: a checkpoint keeps it, and whoever goes on must come to the same.

The noise of a run follows from its settings by the accountant. By privacy loss distributions that is another package,
of which another version may say another number: rounds of two sizes of noise would then be accounted for as one.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmm.errors import CheckpointError
from fedmm.privacy.plan import PrivacyPlan

KEY, SLACK = "noise", 1e-9
PACKAGE = "dp-accounting"


def noise_of(plan: PrivacyPlan | None) -> dict[str, Any]:
    """What a checkpoint says of it; nothing where the run is not private.

    >>> noise_of(PrivacyPlan(1e-3, 2.0, 0.0, 0.0, "none", 1.0, 3, None))
    {'noise': {'multipliers': [2.0, 0.0, 0.0], 'bands': 1, 'by': 'fedmm'}}
    """
    if plan is None:
        return {}
    multipliers = [plan.noise_multiplier, plan.holders_multiplier, plan.pairs_multiplier]
    return {KEY: {"multipliers": multipliers, "bands": plan.bands, "by": _accountant(plan)}}


def require_same_noise(meta: Mapping[str, Any], plan: PrivacyPlan | None, path: Path) -> None:
    """Raises CheckpointError where the checkpoint ``path`` was made with another noise than ``plan`` has. Those of
    before, which say nothing of it, pass."""
    kept = meta.get(KEY)
    if kept is None or plan is None:
        return
    own = noise_of(plan)[KEY]
    alike = all(math.isclose(a, b, rel_tol=SLACK) for a, b in zip(kept["multipliers"], own["multipliers"], strict=True))
    if alike and kept["bands"] == own["bands"]:
        return
    then, now = kept["multipliers"][0], own["multipliers"][0]
    raise CheckpointError(
        f"{path} was trained with noise of {then:.9g} times a round's sensitivity over {kept['bands']} rounds, by the "
        f"account of {kept['by']}; that of {own['by']} here comes to {now:.9g} over {own['bands']}.",
        f"Install {kept['by']}, or train again.",
    )


def _accountant(plan: PrivacyPlan) -> str:
    """Who says how much noise is enough."""
    if plan.accountant != "pld":
        return "fedmm"
    try:
        return f"{PACKAGE}=={importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        return PACKAGE
