"""Federations under masks as tests lead them."""

from pathlib import Path
from typing import Any

import numpy as np

from fedmm.deployment.lead import Lead
from worlds.silo_world import lead_of, silos_of

WHOLE = ("clip", "rotate", "round")
MASKED = {
    "update_transforms": (*WHOLE, "mask"), "spectral_start": False, "succession": 0.0, "protocols": ("full",),
    "rounds": 2, "hidden_dim": 4, "fusion": "backbone",
}  # fmt: skip
BY_USERS = {
    "epsilon": 8.0, "cohorts": "all", "protocols": ("full",), "rounds": 2,
    "update_transforms": (*WHOLE, "noise_share", "mask"), "client_fraction": 1.0,
}  # fmt: skip
NAMES = ["a", "b", "c"]
WORDS = np.arange(4, dtype=np.uint32)


def led(folder: Path, silos: Any = None, kept: Path | None = None, **settings: Any) -> Lead:
    """A server that has begun its federation, of the silos ``NAMES`` unless others are given."""
    lead = lead_of(folder, silos or silos_of(folder, NAMES, **settings), kept=kept, **settings)
    lead.begin()
    return lead
