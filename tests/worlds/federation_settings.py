"""Settings of what clients send, of what is private about it, and of when they are there, with values that change a
run's numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from worlds.config_world import Given

PRIVATE: Given = {"privacy.noise_multiplier": 1.0}
BY_CLIENTS: Given = {
    **PRIVATE,
    "privacy.cohorts": "all",
    "federation.update_transforms": ("clip", "round", "noise_share", "mask"),
}
TURNS: Given = {**PRIVATE, "federation.client_fraction": 0.25, "federation.rounds": 3}
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
    "federation.update_rank": Case(4, {"federation.update_transforms": ("low_rank",)}),
    "federation.update_bits": Case(4, {"federation.update_transforms": ("clip", "rotate", "round")}),
    "federation.upload_bits": Case(3),
    "federation.download_bits": Case(3),
    "federation.upload_share": Case(0.1),
    "federation.upload_step": Case(1.0),
    "federation.download_step": Case(0.5),
    "federation.absence_rate": Case(0.5),
    "federation.over_selection": Case(2.0),
    "federation.deadline": Case(0.5),
    "federation.late_updates": Case("buffered", {"federation.over_selection": 2.0}),
    "federation.speed_spread": Case(0.0, {"federation.deadline": 0.7}),
    "federation.day_rounds": Case(2),
}
PRIVACY = {
    "privacy.epsilon": Case(8.0),
    "privacy.delta": Case(0.01, PRIVATE),
    "privacy.noise_multiplier": Case(2.0),
    "privacy.rounds": Case(1, PRIVATE),
    "privacy.cohorts": Case("all", PRIVATE),
    "privacy.mechanism": Case("banded", TURNS),
    "privacy.bands": Case(2, {**TURNS, "privacy.mechanism": "banded"}),
    "privacy.start_share": Case(0.2, PRIVATE),
    "privacy.kinds": Case(3, PRIVATE),
    "privacy.senders_share": Case(0.5, BY_CLIENTS),
    "privacy.gating_init": Case(0.7, PRIVATE),
    "privacy.counts_weight": Case(0.5, PRIVATE),
}
