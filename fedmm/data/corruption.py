"""Features that say nothing: what a model does with them shows what it is worth without good ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fedmm.data.types import ItemFeatures
from fedmm.utils.seeding import numpy_stream


def keep(features: ItemFeatures, stream: np.random.Generator) -> ItemFeatures:
    """The features as they are."""
    del stream
    return features


def noise(features: ItemFeatures, stream: np.random.Generator) -> ItemFeatures:
    """Independent normal numbers with each dimension's own mean and standard deviation, for the items that have the
    modality: their scale is kept, all that they say is gone."""
    values = features.values.copy()
    own = values[features.present].astype(np.float64)
    if len(own):
        drawn = stream.normal(size=own.shape) * own.std(axis=0) + own.mean(axis=0)
        values[features.present] = drawn.astype(values.dtype)
    return replace(features, values=values)


def shuffle(features: ItemFeatures, stream: np.random.Generator) -> ItemFeatures:
    """Real vectors on the wrong items: a permutation among the items that have the modality."""
    values = features.values.copy()
    places = np.flatnonzero(features.present)
    values[places] = features.values[stream.permutation(places)]
    return replace(features, values=values)


CORRUPTIONS: Mapping[str, Callable[[ItemFeatures, np.random.Generator], ItemFeatures]] = {
    "none": keep,
    "noise": noise,
    "shuffle": shuffle,
}


def corrupt(features: Mapping[str, ItemFeatures], kind: str) -> dict[str, ItemFeatures]:
    """Every modality after ``CORRUPTIONS[kind]``. The draw is fixed, as that of evaluation negatives is: runs under
    different seeds meet the same features."""
    return {
        modality: CORRUPTIONS[kind](own, numpy_stream(0, "corruption", kind, modality))
        for modality, own in features.items()
    }
