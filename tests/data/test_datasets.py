"""The bundled dataset is what it says, and files of your own come through as one dataset."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import BUNDLED, list_datasets, load_dataset
from fedmm.data.types import Dataset
from fedmm.errors import DataError

OWN_ROWS = [f"u{u},i{(u + k) % 9},{k % 5 + 1},{100 + k}\n" for u in range(6) for k in range(5)]
OWN = "user,item,rating,time\n" + "".join(OWN_ROWS)


@pytest.fixture(scope="module")
def bundled() -> Dataset:
    return load_dataset(DataConfig())


def test_bundled_counts(bundled):
    interactions = bundled.interactions
    assert interactions.num_users == 597
    assert interactions.num_items == 1849
    assert len(interactions.timestamps) == len(interactions.histories.values) == 56_166
    assert min(interactions.histories.lengths) >= 5
    assert np.bincount(interactions.histories.values, minlength=1850)[1:].min() >= 5
    assert interactions.histories.values.min() == 1
    assert interactions.user_ids[0] == "1"
    assert interactions.item_ids[:3].tolist() == ["", "1", "2"]
    assert bundled.digest == load_dataset(DataConfig()).digest == "dc88b88d929330ab"  # a change breaks old checkpoints


def test_bundled_histories_are_in_time_order_and_hold_no_item_twice(bundled):
    interactions = bundled.interactions
    for row, history in enumerate(interactions.histories):
        times = interactions.timestamps[interactions.histories.offsets[row] : interactions.histories.offsets[row + 1]]
        assert (np.diff(times) >= 0).all()
        assert len(set(history.tolist())) == len(history)


@pytest.fixture(scope="module")
def five_core() -> Dataset:
    return load_dataset(DataConfig(name="movielens-small-5core"))


def test_the_full_5core_is_left_as_it_is(five_core):
    interactions = five_core.interactions
    assert (interactions.num_users, interactions.num_items) == (610, 3650)
    assert len(interactions.histories.values) == 90_274
    assert min(interactions.histories.lengths) >= 5
    assert np.bincount(interactions.histories.values, minlength=3651)[1:].min() >= 5
    assert not any("dropped" in note for note in five_core.notes)
    assert five_core.digest == "e86e5637917f3307"  # a change breaks old checkpoints


def test_films_of_the_5core_without_a_poster_have_the_text_alone(five_core, bundled):
    visual, semantic = five_core.features["visual"], five_core.features["semantic"]
    assert semantic.coverage == 1.0
    assert not visual.values[~visual.present].any()
    with_poster = five_core.interactions.item_ids[visual.present].tolist()
    assert with_poster == bundled.interactions.item_ids[1:].tolist()
    assert all(five_core.titles[1:])


def test_the_dataset_with_posters_lies_in_the_5core(five_core, bundled):
    """One file of ratings serves both: each user's events on films with a poster are the same, in the same order."""
    large, small = five_core.interactions, bundled.interactions
    rows = {user: row for row, user in enumerate(large.user_ids.tolist())}
    with_poster = set(small.item_ids[1:].tolist())
    for user, history in zip(small.user_ids.tolist(), small.histories, strict=True):
        own = large.item_ids[large.histories[rows[user]]].tolist()
        assert [item for item in own if item in with_poster] == small.item_ids[history].tolist()


def test_tie_orders_move_only_ties(bundled):
    base = bundled.interactions
    in_file = load_dataset(DataConfig(tie_order="file"))
    other = load_dataset(DataConfig(tie_seed=1))
    assert len({bundled.digest, in_file.digest, other.digest}) == 3
    for one in (in_file, other):
        assert np.array_equal(one.interactions.timestamps, base.timestamps)
        moved = one.interactions.histories.values != base.histories.values
        users = base.histories.row_of_value
        tied = Counter(zip(users.tolist(), base.timestamps.tolist(), strict=True))
        assert all(tied[users[place], base.timestamps[place]] > 1 for place in np.flatnonzero(moved))
    # The original file is sorted by film id within a user: so are its ties.
    values, times = in_file.interactions.histories.values, in_file.interactions.timestamps
    users = in_file.interactions.histories.row_of_value
    equal = (times[1:] == times[:-1]) & (users[1:] == users[:-1])
    assert equal.sum() > 5000
    assert (values[1:][equal] > values[:-1][equal]).all()


def test_bundled_features_and_titles(bundled):
    assert set(bundled.features) == {"visual", "semantic"}
    for features in bundled.features.values():
        assert features.values.shape == (1850, 64)
        assert features.coverage == 1.0
        assert not features.present[0]
        assert not features.values[0].any()
    assert bundled.titles[0] == ""
    assert all(bundled.titles[1:])
    assert "The Usual Suspects (1995)" in bundled.titles
    assert any("1849 of 1849 items" in note for note in bundled.notes)


def test_text_neighbours_of_a_film_are_its_sequels(bundled):
    """A sequel's title repeats its first film's: of 1,849 films it must be among the nearest few in text features."""
    first = {title.rsplit(" (", 1)[0]: item for item, title in enumerate(bundled.titles)}
    values = bundled.features["semantic"].values
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    ranks = []
    for item, title in enumerate(bundled.titles):
        sequel = re.match(r"(.*?) (?:2|3|II|III)(?:: .*)? \(\d{4}\)$", title)
        if sequel and sequel[1] in first:
            near = unit @ unit[first[sequel[1]]]
            ranks.append(int((near > near[item]).sum()))  # the film itself is before it
    assert len(ranks) == 43
    assert np.median(ranks) == 1
    assert np.mean(np.array(ranks) <= 10) > 0.9


def test_bundled_files_are_small_plain_and_explained():
    sizes = {path.name: path.stat().st_size for path in BUNDLED.iterdir()}
    assert sum(size for name, size in sizes.items() if name.startswith("movielens")) < 4e6
    assert sum(size for name, size in sizes.items() if name.startswith("ml-100k")) < 2e6
    for name in sizes:
        if name.endswith(".npz"):
            with np.load(BUNDLED / name, allow_pickle=False) as file:
                assert all(file[key].dtype.kind in "uifb" for key in file.files)
    with np.load(BUNDLED / "ml-100k.features.npz") as file:
        assert set(file.files) == {"item_id", "visual", "visual_present", "text", "text_present"}  # and no rating
        assert file["item_id"].tolist() == list(range(1, 1683))
        assert file["visual_present"].sum() == 1667
        assert np.flatnonzero(~file["text_present"]).tolist() == [266]
    text = (BUNDLED / "README.md").read_text(encoding="utf-8")
    assert "10.1145/2827872" in text
    assert "same terms" in text


def test_own_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(OWN)
    dataset = load_dataset(DataConfig(path=path))
    assert dataset.name == "mine"
    assert dataset.features == {}
    assert dataset.interactions.num_users == 6
    assert set(dataset.titles.tolist()) == {""}
    assert len(dataset.titles) == dataset.interactions.num_items + 1
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    np.savez(tmp_path / "f.npz", item_id=[f"i{k}" for k in range(8)], features=vectors)
    dataset = load_dataset(DataConfig(path=path, text_features=str(tmp_path / "f.npz")))
    assert set(dataset.features) == {"semantic"}
    assert any("semantic features: 8 of 9 items (88.9%)" in note for note in dataset.notes)


def test_by_row_features_count_items_that_a_filter_drops(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(OWN + "u0,rare,5,900\n")
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(10, 3)))
    config = DataConfig(path=path, min_item_interactions=2, visual_features=str(tmp_path / "f.npy"))
    dataset = load_dataset(config)
    assert dataset.interactions.num_items == 9
    assert dataset.features["visual"].coverage == 1.0
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(9, 3)))
    with pytest.raises(DataError, match="10 items"):
        load_dataset(config)


def test_features_can_be_left_out():
    dataset = load_dataset(DataConfig(visual_features="none"))
    assert set(dataset.features) == {"semantic"}
    assert load_dataset(DataConfig(visual_features="None", text_features="none")).features == {}


def test_filters_apply_to_named_datasets():
    dataset = load_dataset(DataConfig(min_rating=4.0, min_user_interactions=10, min_item_interactions=10))
    counts = np.bincount(dataset.interactions.histories.values, minlength=dataset.interactions.num_items + 1)
    assert counts[1:].min() >= 10
    assert dataset.interactions.histories.lengths.min() >= 10
    assert any("ratings below 4" in note for note in dataset.notes)
    assert dataset.features["visual"].coverage == 1.0


def test_unknown_names_have_a_nearest():
    with pytest.raises(DataError, match="There is no dataset called 'movielens_smal'") as caught:
        load_dataset(DataConfig(name="movielens_smal"))
    assert "Did you mean movielens-small?" in caught.value.remedy
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(name="ratings.csv"))
    assert caught.value.remedy == "A file is given with --data ratings.csv (data.path)."


def test_list():
    small, whole, large, *_ = list_datasets()
    assert (whole.name, whole.available) == ("movielens-small-5core", True)
    assert (whole.num_users, whole.num_items, whole.num_interactions) == (610, 3650, 90_274)
    assert (small.name, small.available, small.num_users, small.num_items) == ("movielens-small", True, 597, 1849)
    assert (large.name, large.num_users, large.num_items, large.num_interactions) == ("ml-100k", 943, 1682, 100_000)


@pytest.mark.parametrize("name", ["movielens-small", "movielens-small-5core"])
def test_bundled_equals_the_original_where_that_is_at_hand(name):
    bundled = load_dataset(DataConfig(name=name))
    ratings = Path(__file__).parents[2].parent / "shared" / "data" / "movielens-small" / "ratings.csv"
    original = load_dataset(DataConfig(path=ratings)) if ratings.is_file() else bundled

    def events(dataset: Dataset) -> set[tuple[str, str, float]]:
        one = dataset.interactions
        users = one.user_ids[one.histories.row_of_value].tolist()
        return set(zip(users, one.item_ids[one.histories.values].tolist(), one.timestamps.tolist(), strict=True))

    assert events(bundled) <= events(original)


def test_listing_is_light():
    """What ``fedmm data list`` imports does without the heavy libraries."""
    heavy = {"torch", "pandas", "pyarrow", "mlflow"}
    code = f"import sys, fedmm.data.datasets as d; d.list_datasets(); print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
