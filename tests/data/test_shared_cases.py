"""Inputs that public reports of other tools led to, where they lie beside the checkout: read rightly or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.errors import DataError

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
NONE = {"visual_features": "none", "text_features": "none"}
AMAZON = {"columns": "item,user,rating,timestamp", "header": False}
REFUSED = {
    "01-mind-behaviors/behaviors.tsv": ({}, "5 tab-separated columns without a header"),
    "03-amazon18/All_Beauty.csv": ({}, "holds Amazon's item ids"),
    "05-diginetica/train-item-views.csv": ({}, "the user is missing"),
    "07-gowalla/Gowalla_totalCheckins.txt": ({}, "5 columns and no header"),
    "10-steam-jsonl/steam_reviews.txt": ({}, "Python dict"),
    "14-feature-rows/inter.csv": ({"visual_features": "visual_ids_1_to_31.npy"}, "first row is not all zeros"),
    "14-feature-rows/inter_missing17.csv": (
        {"visual_features": "visual_ids_1_to_30_item1_blank.npy"},
        "in more than one way",
    ),
}
READ = {
    "03-amazon18/All_Beauty.csv": (AMAZON, "item = column 1"),
    "05-diginetica/train-item-views.csv": (
        {"user_column": "sessionId"},
        "timeframe may tell the order within a day and is not used",
    ),
    "09-foursquare/dataset_TSMC2014_NYC.csv": ({"item_column": "venueId"}, "utcTimestamp is taken for the time"),
    "10-steam-jsonl/reviews.json": ({}, "user = reviewerID, item = asin"),
    "10-steam-jsonl/reviews.json.gz": ({}, "user = reviewerID, item = asin"),
    "10-steam-jsonl/reviews.txt": ({}, "user = reviewerID, item = asin"),
    "12-recbole-benchmark-inter/mini.train.inter": ({}, "30 items that only the first list of each user holds"),
    "15-repeats/plays.tsv": ({}, "dropped 961 of 1200 rows .*data.repeats=keep"),
}


def settings_of(place: str, given: dict[str, object]) -> DataConfig:
    path = CASES / place
    files = {key: str(path.parent / str(value)) for key, value in given.items() if key == "visual_features"}
    return DataConfig.model_validate({"path": path, "min_user_interactions": 1, **NONE, **given, **files})


@pytest.mark.parametrize("place", REFUSED)
def test_cases_that_are_refused(place: str) -> None:
    given, words = REFUSED[place]
    if (CASES / place).is_file():
        with pytest.raises(DataError, match=words) as caught:
            load_dataset(settings_of(place, given))
        assert caught.value.remedy
    else:
        assert not (CASES / place).exists()


@pytest.mark.parametrize("place", READ)
def test_cases_that_are_read(place: str) -> None:
    given, words = READ[place]
    notes = " | ".join(load_dataset(settings_of(place, given)).notes) if (CASES / place).is_file() else None
    assert notes is None or re.search(words, notes), notes
