"""``UPDATE_TRANSFORMS`` is the registry behind ``federation.update_transforms``."""

from __future__ import annotations

from fedmm.federation.transforms.clipping import clip
from fedmm.federation.transforms.contract import UpdateTransform
from fedmm.federation.transforms.low_rank import low_rank
from fedmm.federation.transforms.masks import mask
from fedmm.federation.transforms.noise import noise
from fedmm.federation.transforms.noise_share import noise_share
from fedmm.federation.transforms.rounding import rotate, stochastic_rounding
from fedmm.utils.registry import Registry

UPDATE_TRANSFORMS: Registry[UpdateTransform] = Registry(
    "update_transform",
    {
        "clip": clip,
        "low_rank": low_rank,
        "rotate": rotate,
        "round": stochastic_rounding,
        "noise": noise,
        "noise_share": noise_share,
        "mask": mask,
    },
)
