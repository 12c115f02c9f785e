"""What a silo counts before the first round where its sums travel as they are, and what was agreed to be counted."""

from __future__ import annotations

from typing import Any

import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import Split
from fedmm.deployment import sums
from fedmm.deployment.building import counts_wanted
from fedmm.deployment.messages import Header, Message, RefusedError, whole
from fedmm.deployment.sizes import sketch_size


def require_agreed(config: ExperimentConfig, what: str) -> None:
    """Raises RefusedError for counts that the settings of the offer have no use for. (A private start has a plan, by
    which it is checked.)"""
    own, model = config.federation, config.model
    sketched = own.spectral_sketch_size is not None
    open_weight = model.succession is None and model.fusion != "backbone" and not sketched  # the data settle it
    wanted = {
        "popularity": "popularity100" in config.evaluation.protocols,
        "counts": counts_wanted(config) or open_weight or (own.spectral_start and not sketched),
        "degrees": own.spectral_start and sketched,
        "sketch": own.spectral_start and sketched,
    }
    if what not in wanted:
        raise RefusedError(f"a request for {what[:40]!r}, which this silo does not count.")
    if not wanted[what]:
        raise RefusedError(f"a request for {what}, which the agreed settings have no use for.", "Ask whoever leads it.")


def counted_openly(header: Header, config: ExperimentConfig, split: Split, what: str) -> Message:
    """The silo's sums of ``what``, which ``require_agreed`` let through. Raises RefusedError for a request that cannot
    be."""
    if what == "counts":
        return Message("sums", tensors=sums.counted(split))
    if what == "popularity":
        return Message("sums", tensors={"popularity": torch.from_numpy(sums.popularity_of(split))})
    if what == "degrees":
        return Message("sums", tensors={"degrees": torch.from_numpy(sums.degrees_of(split))})
    size = sketch_size(header.message.body, config, split.num_items)
    seed = whole(header.message.body, "seed")
    expected: dict[str, Any] = {"degrees": (torch.float64, (split.num_items + 1,))}
    degrees = header.with_tensors(expected).tensors["degrees"].numpy()
    return Message("sums", tensors={"sketch": torch.from_numpy(sums.sketched(split, degrees, size, seed))})
