"""The benchmarks' data: repeatable, valid histories, a long tail, something to learn, and the same bits mapped."""

from pathlib import Path

import numpy as np
import pytest
from generated import SHORTEST, generate, generate_features, generate_histories, num_groups

from fedmm.config import DataConfig
from fedmm.data.splits import make_split


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 1), (3, 2), (40, 7), (300, 5000), (2000, 300)])
def test_histories_are_distinct_items_of_the_catalogue(num_users: int, num_items: int) -> None:
    histories = generate_histories(num_users, num_items, 20, 0)
    assert len(histories) == num_users
    assert histories.values.min() >= 1
    assert histories.values.max() <= num_items
    assert histories.lengths.min() >= 1
    assert all(len(set(row.tolist())) == len(row) for row in histories)


def test_seeds_decide_everything() -> None:
    first, again, other = (generate(50, 200, 12, seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert np.array_equal(first.features["visual"].values, again.features["visual"].values)
    assert not np.array_equal(first.features["visual"].values, other.features["visual"].values)
    assert not np.array_equal(first.features["visual"].values, first.features["semantic"].values)


def test_it_is_what_training_takes() -> None:
    dataset = generate(400, 3000, 30, 0, feature_width=8)
    split = make_split(dataset, DataConfig())
    assert (len(split.train), split.num_items) == (400, 3000)
    lengths = dataset.interactions.histories.lengths
    assert 27 < lengths.mean() < 33
    assert lengths.min() >= SHORTEST - 2
    for features in dataset.features.values():
        assert features.values.shape == (3001, 8)
        assert not features.values[~features.present].any()
        assert np.square(features.values[features.present]).mean() == pytest.approx(1.0, abs=0.05)


def test_popularity_has_a_long_tail() -> None:
    histories = generate_histories(3000, 2000, 30, 0)
    counts = np.sort(np.bincount(histories.values, minlength=2001)[1:])[::-1]
    assert counts[:200].sum() > 3 * 0.1 * counts.sum()
    assert counts[0] > 10 * np.median(counts)


def test_what_follows_depends_on_what_came_before() -> None:
    """Neighbours in a history share features far more often than chance has it."""
    dataset = generate(500, 2500, 30, 0, feature_width=64)
    rows, values = dataset.interactions.histories, dataset.features["visual"].values
    same = rows.row_of_value[1:] == rows.row_of_value[:-1]
    left, right = values[rows.values[:-1][same]], values[rows.values[1:][same]]
    chance = values[np.roll(rows.values, 997)[:-1][same]]
    assert (left * right).mean() > 5 * abs((left * chance).mean())
    assert num_groups(2500) == 50


def test_files_hold_the_same_bits(tmp_path: Path) -> None:
    held = generate_features(70_000, 4, 0)  # more than one block
    mapped = generate_features(70_000, 4, 0, tmp_path)
    for modality, features in held.items():
        assert isinstance(mapped[modality].values, np.memmap)
        assert np.array_equal(mapped[modality].values, features.values)
    halves = generate_features(70_000, 4, 0, dtype=np.float16)
    assert halves["visual"].values.dtype == np.float16
