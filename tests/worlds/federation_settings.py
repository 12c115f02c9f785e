"""Settings of what clients send and of when they are there, with a value that changes a run's numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from worlds.config_world import Given

CLIPPED: Given = {"federation.update_transforms": ("clip",)}


@dataclasses.dataclass(frozen=True)
class Case:
    """Another value of a setting, and the settings beside which it matters."""

    value: Any
    beside: Given = dataclasses.field(default_factory=dict)


MESSAGES = {
    "federation.counts_received": Case("largest", {"model.transition": True}),
    "federation.update_transforms": Case(("clip",)),
    "federation.update_clip": Case(0.1, CLIPPED),
    "federation.update_clip_by": Case("part", CLIPPED),
    "federation.update_clip_quantile": Case(0.5, CLIPPED),
    "federation.update_bits": Case(4, {"federation.update_transforms": ("clip", "rotate", "round")}),
    "federation.upload_bits": Case(3),
    "federation.download_bits": Case(3),
    "federation.upload_step": Case(1.0),
    "federation.download_step": Case(0.5),
    "federation.absence_rate": Case(0.5),
    "federation.over_selection": Case(2.0),
    "federation.deadline": Case(0.5),
    "federation.speed_spread": Case(0.0, {"federation.deadline": 0.7}),
    "federation.day_rounds": Case(2),
}
