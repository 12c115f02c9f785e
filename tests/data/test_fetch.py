"""Laws of fetching: whatever the source, the same verified files appear, whole or not at all."""

from __future__ import annotations

import hashlib
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedmm.config import DataConfig
from fedmm.data import datasets, fetch
from fedmm.data.datasets import list_datasets, load_dataset
from fedmm.data.fetch import cache_folder, cached_ml100k, fetch_ml100k
from fedmm.data.ml100k import ML100K_FACTS, Facts, digest_of, read_ml100k
from fedmm.errors import DataError, StorageError

GENERATOR = np.random.default_rng(0)
PAIRS = GENERATOR.permutation([(user, item) for user in range(1, 9) for item in range(1, 7) if (user + item) % 3])
TIMES = 880_000_000 + GENERATOR.integers(0, 9, len(PAIRS))
RATINGS = np.column_stack([PAIRS, GENERATOR.integers(1, 6, len(PAIRS)), TIMES])
ITEMS = [  # GroupLens' title, RecBole's title and year, the genres
    ("Toy Story (1995)", "Toy Story", "1995", ["Animation", "Children's", "Comedy"]),
    ("Usual Suspects, The (1995)", "Usual Suspects, The", "1995", ["Crime", "Thriller"]),
    ("Misérables, Les (1995)", "Misérables, Les", "1995", ["Drama"]),
    ("unknown", "unkonwn", "unkonwn", ["unknown"]),
    ('"Quoted" (1990)', '"Quoted"', "1990", ["Film-Noir"]),
    ("Good Morning (1971)", "Good Morning", "1971", ["unknown"]),
]
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def grouplens_files() -> dict[str, bytes]:
    lines = [
        "|".join([str(item), title, "01-Jan-1995", "", "http://x", *(str(int(genre in genres)) for genre in GENRES)])
        for item, (title, _, _, genres) in enumerate(ITEMS, start=1)
    ]
    data = "".join("\t".join(map(str, row)) + "\n" for row in RATINGS)
    return {"u.data": data.encode(), "u.item": ("\n".join(lines) + "\n").encode("latin-1")}


def recbole_files(rows: np.ndarray = RATINGS) -> dict[str, bytes]:
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    inter = head + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    items = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + "".join(
        f"{item}\t{title}\t{year}\t{' '.join(genres)}\n" for item, (_, title, year, genres) in enumerate(ITEMS, start=1)
    )
    return {"ml-100k.inter": inter.encode(), "ml-100k.item": items.encode()}


def packed(path: Path, files: dict[str, bytes], inside: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{inside}/{name}", content)
    return path


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return packed(tmp_path / "small-1.0-py3-none-any.whl", recbole_files(), "recbole/dataset_example/ml-100k")


@pytest.fixture
def facts(wheel: Path) -> Facts:
    users, items = len(set(RATINGS[:, 0])), len(set(RATINGS[:, 1]))
    return Facts(users, items, len(RATINGS), digest_of(read_ml100k(wheel).ratings))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test asked the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


def test_all_sources_give_the_same_files(tmp_path, wheel, facts):
    sources = [
        wheel,
        packed(tmp_path / "ml-100k.zip", grouplens_files(), "ml-100k"),
        unpacked(tmp_path / "flat", grouplens_files()),
        unpacked(tmp_path / "nested" / "ml-100k", grouplens_files()).parent,
        unpacked(tmp_path / "recbole", recbole_files()),
    ]
    written = set()
    for place, source in enumerate(sources):
        folder = fetch_ml100k(source, tmp_path / f"cache{place}", facts)
        assert sorted(path.name for path in folder.iterdir()) == ["README.txt", "items.tsv", "ratings.tsv"]
        assert [path.name for path in folder.parent.iterdir()] == ["ml-100k"]
        assert "10.1145/2827872" in (folder / "README.txt").read_text()
        written.add(((folder / "ratings.tsv").read_bytes(), (folder / "items.tsv").read_bytes()))
    assert len(written) == 1
    ratings, items = written.pop()
    rows = [line.split("\t") for line in ratings.decode().splitlines()]
    assert rows[0] == ["user_id", "item_id", "rating", "timestamp"]
    assert np.array_equal(np.array(rows[1:], dtype=int), RATINGS)  # order and all
    assert items.decode().splitlines()[1:] == [
        "1\tToy Story (1995)\tAnimation, Children's, Comedy",
        "2\tThe Usual Suspects (1995)\tCrime, Thriller",
        "3\tLes Misérables (1995)\tDrama",
        "4\t\t",
        '5\t"Quoted" (1990)\tFilm-Noir',
        "6\tGood Morning (1971)\t",
    ]


def test_the_checksum_ignores_order_and_sees_any_change(tmp_path, wheel):
    base = digest_of(read_ml100k(wheel).ratings)
    shuffled = unpacked(tmp_path / "shuffled", recbole_files(RATINGS[::-1]))
    assert digest_of(read_ml100k(shuffled).ratings) == base
    for column in range(4):
        rows = RATINGS.copy()
        rows[7, column] += 1
        assert digest_of(read_ml100k(unpacked(tmp_path / f"changed{column}", recbole_files(rows))).ratings) != base


def test_a_changed_dataset_is_refused_and_nothing_is_written(tmp_path, facts):
    rows = RATINGS.copy()
    rows[3, 2] = rows[3, 2] % 5 + 1
    for name, content, words in (
        ("rating", rows, "have checksum"),
        ("row", RATINGS[1:], f"has {len(RATINGS) - 1} ratings; ML-100K has {len(RATINGS)}"),
        ("user", np.concatenate([RATINGS[1:], [[99, 1, 1, 1]]]), "has 9 users"),
        ("item", np.concatenate([RATINGS[1:], [[1, 99, 1, 1]]]), "has 7 items"),
    ):
        with pytest.raises(DataError, match=words):
            fetch_ml100k(unpacked(tmp_path / name, recbole_files(content)), tmp_path / "cache", facts)
    assert not (tmp_path / "cache").exists()


def test_sources_that_are_none(tmp_path, facts):
    (tmp_path / "text.zip").write_text("no zip")
    packed(tmp_path / "other.zip", {"readme": b""}, "x")
    faulty = b"user_id\titem_id\trating\ttimestamp\n1\tx\t3\t4\n"
    unpacked(tmp_path / "bad", recbole_files() | {"ml-100k.inter": faulty})
    unpacked(tmp_path / "empty", recbole_files() | {"ml-100k.inter": b""})
    for source, words in (
        ("absent", "There is no"),
        ("text.zip", "not a readable zip or wheel"),
        ("other.zip", "holds neither u.data"),
        (".", "holds neither u.data"),
        ("bad", "cannot be read as ML-100K"),
        ("empty", "has 0 ratings; ML-100K has"),
    ):
        folder = tmp_path / "hollow" if source == "." else tmp_path / source
        (tmp_path / "hollow").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=words) as caught:
            fetch_ml100k(folder, tmp_path / "cache", facts)
        assert caught.value.remedy
    assert not (tmp_path / "cache").exists()


def test_what_is_cached_and_whole_is_kept_and_what_is_damaged_is_replaced(tmp_path, wheel, facts, monkeypatch):
    folder = fetch_ml100k(wheel, tmp_path / "cache", facts)
    before = (folder / "ratings.tsv").stat().st_mtime_ns
    assert fetch_ml100k(None, tmp_path / "cache", facts) == folder  # the network is not asked
    assert (folder / "ratings.tsv").stat().st_mtime_ns == before
    whole = (folder / "ratings.tsv").read_bytes()
    (folder / "ratings.tsv").write_bytes(whole[:-40])
    monkeypatch.setattr(fetch, "_from_grouplens", lambda folder: wheel)
    assert fetch_ml100k(None, tmp_path / "cache", facts) == folder
    assert (folder / "ratings.tsv").read_bytes() == whole
    assert [path.name for path in folder.parent.iterdir()] == ["ml-100k"]


def test_the_registry_stands_in_for_grouplens(tmp_path, wheel, facts, monkeypatch):
    asked: list[list[str]] = []

    def unreachable(*args: object, timeout: float) -> None:
        assert timeout <= 10
        raise urllib.error.URLError("no route")

    def download(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(StorageError, match=r"cannot be reached \(no route\); the wheel .* has checksum"):
        fetch_ml100k(None, tmp_path / "cache", facts)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert fetch_ml100k(None, tmp_path / "cache", facts) == tmp_path / "cache" / "ml-100k"
    assert all("download" in command and "--no-deps" in command and "install" not in command for command in asked)


def test_nothing_reachable_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route")

    def failing(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no matching distribution\n")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(StorageError, match="no matching distribution") as caught:
        fetch_ml100k(None, tmp_path / "cache")
    assert "--from" in caught.value.remedy


def test_a_folder_that_cannot_be_written(tmp_path, wheel, facts, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        fetch_ml100k(wheel, tmp_path / "file", facts)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fetch_ml100k(wheel, tmp_path / "cache", facts)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_cache_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    with pytest.raises(DataError, match="not in") as caught:
        cached_ml100k()
    assert caught.value.remedy == "Run: fedmm data fetch ml-100k"
    with pytest.raises(DataError, match="not in"):
        load_dataset(DataConfig(name="ml-100k"))
    monkeypatch.delenv("FEDMM_CACHE")
    assert cache_folder().name == "fedmm"


def test_a_fetched_dataset_loads_with_titles_and_the_features_that_ship(tmp_path, wheel, facts, monkeypatch):
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path))
    fetch_ml100k(wheel, None, facts)
    with pytest.raises(DataError, match=rf"has {len(RATINGS)} ratings instead of 100000"):
        load_dataset(DataConfig(name="ml-100k"))
    monkeypatch.setattr(datasets, "ML100K_FACTS", facts)
    dataset = load_dataset(DataConfig(name="ml-100k"))
    assert dataset.interactions.item_ids.tolist() == ["", "1", "2", "3", "4", "5", "6"]
    assert dataset.titles.tolist()[:4] == ["", "Toy Story (1995)", "The Usual Suspects (1995)", "Les Misérables (1995)"]
    assert dataset.titles[5] == '"Quoted" (1990)'
    assert {name: one.coverage for name, one in dataset.features.items()} == {"visual": 1.0, "semantic": 1.0}
    info = {one.name: one for one in list_datasets()}
    assert info["ml-100k"].available
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "elsewhere"))
    info = {one.name: one for one in list_datasets()}
    assert not info["ml-100k"].available
    assert "fedmm data fetch ml-100k" in info["ml-100k"].where


def test_the_pinned_facts():
    assert ML100K_FACTS.num_users == 943
    assert ML100K_FACTS.num_items == 1682
    assert ML100K_FACTS.num_interactions == 100_000
    assert len(ML100K_FACTS.digest) == len(fetch.WHEEL_SHA256) == 64
