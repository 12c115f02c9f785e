"""Public datasets by name, on small files of the exact format: read, verified, pinned, and loaded with their titles."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import list_datasets, load_dataset
from fedmm.data.public import PUBLIC, fetch_public, kept
from fedmm.errors import DataError, StorageError

EVENTS = [(str(1 + n % 5), str(10 + (n * 7) % 6), 1 + n % 5, 978_300_000 + n) for n in range(30)]
COUNTS = 5, 6, 30
ML1M = {
    "ml-1m/ratings.dat": "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in EVENTS).encode(),
    "ml-1m/movies.dat": (
        "10::Toy Story (1995)::Animation|Children's|Comedy\n11::Misérables, Les (1995)::Drama\n"
    ).encode("latin-1"),
    "ml-1m/README": b"SUMMARY\n",
}
ROWS_20M = "".join(f"{u},{i},{r}.5,{t}\n" for u, i, r, t in EVENTS)
ML20M = {
    "ml-20m/ratings.csv": f"userId,movieId,rating,timestamp\n{ROWS_20M}".encode(),
    "ml-20m/movies.csv": b'movieId,title,genres\n10,"American President, The (1995)",Comedy|Drama\n'
    b"11,Nixon (1995),(no genres listed)\n",
}
REVIEWS = "".join(
    json.dumps(
        {"reviewerID": f"A{u}", "asin": f"00{i}", "reviewerName": "x", "helpful": [0, 0], "reviewText": "Good, \"oh\".",
         "overall": float(r), "summary": "s", "unixReviewTime": t, "reviewTime": "01 1, 2001"}
    ) + "\n"
    for u, i, r, t in EVENTS
)  # fmt: skip
PRODUCTS = (
    "{'asin': '0010', 'title': \"Puzzle \\t'A'\", 'brand': 'Ravens', 'categories': [['Toys', 'Puzzles'], ['Toys']], "
    "'description': 'Thousand pieces.', 'price': 9.99, 'related': {'also_bought': ['0011']}}\n"
    "{'asin': '0011', 'categories': [['Toys']]}\n{'asin': '9999', 'title': 'Never reviewed'}\n"
)


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def amazon(folder: Path) -> dict[str, bytes]:
    return {
        "reviews_Toys_and_Games_5.json.gz": gzip.compress(REVIEWS.encode()),
        "meta_Toys_and_Games.json.gz": gzip.compress(PRODUCTS.encode()),
    }


def source_of(name: str, folder: Path, *, packed: bool) -> Path:
    if name == "amazon-toys":
        unpacked(folder, amazon(folder))
        return folder / "reviews_Toys_and_Games_5.json.gz" if packed else folder
    files = ML1M if name == "ml-1m" else ML20M
    return zipped(folder / f"{name}.zip", files) if packed else unpacked(folder, files)


TITLES = {
    "ml-1m": {"10": "Toy Story (1995)", "11": "Les Misérables (1995)"},
    "ml-20m": {"10": "The American President (1995)", "11": "Nixon (1995)"},
    "amazon-toys": {"0010": "Puzzle 'A'", "0011": ""},
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", TITLES)
def test_a_dataset_is_loaded_as_it_was_published(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "from").mkdir()
    folder = fetch_public(name, source_of(name, tmp_path / "from", packed=packed), counts=COUNTS)
    assert folder == kept(name)
    dataset = load_dataset(DataConfig(name=name, min_user_interactions=1, repeats="keep"))
    own = dataset.interactions
    users = [str(own.user_ids[row]) for row in own.histories.row_of_value]
    found = set(zip(users, own.item_ids[own.histories.values].tolist(), own.timestamps.tolist(), strict=True))
    user, item = ("A", "00") if name == "amazon-toys" else ("", "")
    assert found == {(f"{user}{u}", f"{item}{i}", float(t)) for u, i, _, t in EVENTS}
    titles = dict(zip(own.item_ids.tolist(), dataset.titles.tolist(), strict=True))
    assert {item: titles[item] for item in TITLES[name]} == TITLES[name]
    assert next(info for info in list_datasets() if info.name == name).available
    assert (folder / "items.tsv").read_text(encoding="utf-8").startswith("item_id\ttitle\ttext\n")


def test_texts_of_products_hold_title_brand_kinds_and_description(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    folder = fetch_public("amazon-toys", source_of("amazon-toys", tmp_path / "from", packed=True), tmp_path, COUNTS)
    lines = (folder / "items.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["0010\tPuzzle 'A'\tPuzzle 'A'. Ravens. Toys, Puzzles. Thousand pieces.", "0011\t\tToys"]


def test_titles_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "reviews_Toys_and_Games_5.json").write_text(REVIEWS)
    folder = fetch_public("amazon-toys", tmp_path, tmp_path / "cache", COUNTS)
    assert json.loads((folder / "about.json").read_bytes())["titles"] == 0


def test_what_was_first_fetched_is_the_measure(tmp_path: Path) -> None:
    source = zipped(tmp_path / "ml-1m.zip", ML1M)
    folder = fetch_public("ml-1m", source, tmp_path, COUNTS)
    assert fetch_public("ml-1m", None, tmp_path) == folder  # nothing is downloaded
    assert fetch_public("ml-1m", source, tmp_path, COUNTS) == folder
    other = ML1M | {"ml-1m/ratings.dat": ML1M["ml-1m/ratings.dat"].replace(b"978300000", b"978300001")}
    with pytest.raises(DataError, match="is not what was first fetched under this name"):
        fetch_public("ml-1m", zipped(tmp_path / "other.zip", other), tmp_path, COUNTS)
    assert kept("ml-1m", tmp_path) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml-1m", "ml-1m.zip", "other.zip", "pins.json"]


def test_other_counts_than_the_published_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 5 users; ml-1m has 6,040"):
        fetch_public("ml-1m", zipped(tmp_path / "ml-1m.zip", ML1M), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


def test_a_damaged_copy_is_told(tmp_path: Path) -> None:
    folder = fetch_public("ml-1m", zipped(tmp_path / "ml-1m.zip", ML1M), tmp_path, COUNTS)
    (folder / "ratings.tsv").write_text("user_id\n")
    with pytest.raises(DataError, match="is damaged"):
        kept("ml-1m", tmp_path)


SPOILED = {
    "no ratings": ({"ml-1m/movies.dat": b""}, "does not hold ratings.dat"),
    "another table": (ML1M | {"ml-1m/ratings.dat": b"1,2,3,4\n"}, "ratings.dat, line 1"),
    "half a line": (ML1M | {"ml-1m/ratings.dat": ML1M["ml-1m/ratings.dat"][:-14]}, "ratings.dat, line 30"),
    "other films": (ML1M | {"ml-1m/movies.dat": b"10,Toy\n"}, "movies.dat, line 1"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_sources_that_are_another_are_refused(name: str, tmp_path: Path) -> None:
    files, words = SPOILED[name]
    with pytest.raises(DataError, match=words):
        fetch_public("ml-1m", zipped(tmp_path / "ml-1m.zip", files), tmp_path, COUNTS)
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip"]


@pytest.mark.parametrize("cut", [-20, 60])
def test_half_a_download_is_refused(cut: int, tmp_path: Path) -> None:
    packed = amazon(tmp_path)["reviews_Toys_and_Games_5.json.gz"]
    (tmp_path / "reviews_Toys_and_Games_5.json.gz").write_bytes(packed[:cut])
    with pytest.raises(DataError, match="is damaged"):
        fetch_public("amazon-toys", tmp_path, tmp_path / "cache", COUNTS)


def test_without_a_network_the_way_by_hand_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    for name, about in PUBLIC.items():
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            fetch_public(name, None, tmp_path)
        assert f"fedmm data fetch {name} --from {about.urls[0].rsplit('/', 1)[-1]}" in str(caught.value.remedy)


def test_a_download_is_stored_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "ml-1m.zip", ML1M)

    def served(url: str, **_: object) -> object:
        return (tmp_path / url.rsplit("/", 1)[-1]).open("rb")

    monkeypatch.setattr("urllib.request.urlopen", served)
    folder = fetch_public("ml-1m", None, tmp_path / "cache", COUNTS)
    assert json.loads((folder / "about.json").read_bytes())["origin"] == PUBLIC["ml-1m"].urls[0]
