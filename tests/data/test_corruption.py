"""Corrupted features: the scale or the vectors stay, what they say of their item goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.corruption import CORRUPTIONS, corrupt
from fedmm.data.types import ItemFeatures
from fedmm.utils.seeding import numpy_stream


def drawn(num_items: int, width: int, seed: int = 0) -> ItemFeatures:
    stream = numpy_stream(seed, "corruption test")
    values = stream.normal(size=(num_items + 1, width)).astype(np.float32) * 3 + 1
    present = stream.random(num_items + 1) < 0.8
    present[0] = False
    return ItemFeatures(values, present)


@given(st.sampled_from(sorted(CORRUPTIONS)), st.integers(0, 30), st.integers(1, 4), st.integers(0, 9))
def test_who_has_features_and_what_the_others_hold_stay(kind: str, num_items: int, width: int, seed: int) -> None:
    own = drawn(num_items, width, seed)
    before = own.values.copy()
    found = corrupt({"visual": own}, kind)["visual"]
    assert np.array_equal(found.present, own.present)
    assert np.array_equal(found.values[~own.present], own.values[~own.present])
    assert found.values.dtype == own.values.dtype
    assert np.array_equal(own.values, before)
    assert np.isfinite(found.values).all()


@given(st.integers(1, 30), st.integers(0, 9))
def test_shuffling_gives_every_vector_to_one_item(num_items: int, seed: int) -> None:
    own = drawn(num_items, 3, seed)
    found = corrupt({"visual": own}, "shuffle")["visual"]
    assert sorted(map(tuple, found.values[own.present])) == sorted(map(tuple, own.values[own.present]))


def test_noise_keeps_the_scale_and_nothing_else() -> None:
    own = drawn(4000, 2)
    found = corrupt({"visual": own}, "noise")["visual"].values[own.present]
    kept = own.values[own.present]
    assert found.mean(0) == pytest.approx(kept.mean(0), abs=5 * 3 / len(kept) ** 0.5)
    assert found.std(0) == pytest.approx(kept.std(0), rel=0.1)
    assert abs(np.corrcoef(found[:, 0], kept[:, 0])[0, 1]) < 5 / len(kept) ** 0.5


def test_the_draw_is_fixed_and_each_modality_has_its_own() -> None:
    own = drawn(50, 3)
    for kind in ("noise", "shuffle"):
        one, two = (corrupt({"visual": own, "semantic": own}, kind) for _ in range(2))
        assert np.array_equal(one["visual"].values, two["visual"].values)
        assert not np.array_equal(one["visual"].values, one["semantic"].values)
        assert not np.array_equal(one["visual"].values, own.values)
