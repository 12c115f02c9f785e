"""Public datasets by name: fetched from where they are published or taken from a file, verified, and kept in the cache.

What a dataset must be is known by its published counts, and pinned on this machine by checksum and size when it is
first fetched: whatever is fetched later under the name must be the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fedmm.data.fetch import CONNECT_SECONDS, cache_folder, replacing
from fedmm.data.public_files import (
    Event,
    Item,
    Lines,
    amazon_events,
    amazon_items,
    first_of,
    members_of,
    ml1m_events,
    ml1m_items,
    ml20m_events,
    ml20m_items,
)
from fedmm.errors import DataError, StorageError

GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
AMAZON = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
EVENTS, ITEMS, ABOUT, PINS = "ratings.tsv", "items.tsv", "about.json", "pins.json"
Counts = tuple[int, int, int]  # users, items, interactions


@dataclass(frozen=True)
class Public:
    """A dataset that is published: where, in which files, and how large it is."""

    name: str
    description: str
    urls: tuple[str, ...]
    events: tuple[tuple[str, ...], Callable[[Lines], Iterator[Event]]]  # names the file may have, and how it is read
    items: tuple[tuple[str, ...], Callable[[Lines], Iterator[Item]]]
    counts: Counts | None  # None: nobody has told; the first one fetched is the measure
    terms: str


def _movielens(name: str, title: str, endings: tuple[str, str], counts: Counts) -> Public:
    events, items = (ml1m_events, ml1m_items) if endings[0].endswith(".dat") else (ml20m_events, ml20m_items)
    return Public(
        name,
        f"MovieLens {title}, all ratings",
        (f"{GROUPLENS}{name}.zip",),
        ((endings[0],), events),
        ((endings[1],), items),
        counts,
        "For research; not to be passed on or used commercially without GroupLens' permission. Cite Harper and Konstan "
        "(2015), The MovieLens Datasets, ACM TiiS 5(4):19.",
    )


def _amazon(word: str, category: str, counts: Counts | None = None) -> Public:
    reviews, products = f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"
    return Public(
        f"amazon-{word}",
        f"Amazon 2014, {category.replace('_', ' ')}, 5-core, with titles and texts",
        (f"{AMAZON}{reviews}", f"{AMAZON}{products}"),
        ((reviews, reviews.removesuffix(".gz"), f"{category}_5.json.gz", f"{category}_5.json"), amazon_events),
        ((products, products.removesuffix(".gz")), amazon_items),
        counts,
        "For research. Cite McAuley, Targett, Shi and van den Hengel (2015), Image-based recommendations on styles and "
        "substitutes, SIGIR.",
    )


PUBLIC = {
    one.name: one
    for one in (
        _movielens("ml-1m", "1M", ("ratings.dat", "movies.dat"), (6040, 3706, 1_000_209)),
        _movielens("ml-20m", "20M", ("ratings.csv", "movies.csv"), (138_493, 26_744, 20_000_263)),
        _amazon("toys", "Toys_and_Games", (19_412, 11_924, 167_597)),
        _amazon("beauty", "Beauty", (22_363, 12_101, 198_502)),
        _amazon("sports", "Sports_and_Outdoors", (35_598, 18_357, 296_337)),
        _amazon("games", "Video_Games"),
        _amazon("office", "Office_Products"),
        _amazon("clothing", "Clothing_Shoes_and_Jewelry"),
        _amazon("phones", "Cell_Phones_and_Accessories"),
        _amazon("instruments", "Musical_Instruments"),
        _amazon("baby", "Baby"),
        _amazon("grocery", "Grocery_and_Gourmet_Food"),
        _amazon("health", "Health_and_Personal_Care"),
        _amazon("home", "Home_and_Kitchen"),
        _amazon("tools", "Tools_and_Home_Improvement"),
        _amazon("pets", "Pet_Supplies"),
        _amazon("music", "Digital_Music"),
        _amazon("electronics", "Electronics"),
        _amazon("books", "Books"),
    )
}


def kept(name: str, cache_dir: Path | None = None) -> Path:
    """The folder of a dataset that was fetched: ``ratings.tsv``, ``items.tsv`` and ``about.json``.

    Raises DataError where it was not fetched, or its files are no longer those.
    """
    folder = (cache_dir or cache_folder()) / name
    if not (folder / ABOUT).is_file():
        raise DataError(f"{name} is not in {folder}.", f"Run: fedmm data fetch {name}")
    about = json.loads((folder / ABOUT).read_bytes())
    for file, size in about["bytes"].items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise DataError(f"{folder / file} is damaged.", f"Remove {folder} and run: fedmm data fetch {name}")
    return folder


def fetch_public(
    name: str, source: Path | None = None, cache_dir: Path | None = None, counts: Counts | None = None
) -> Path:
    """Puts the dataset into the cache and returns its folder; one that is there already is kept. ``source`` is the file
    as it was downloaded, or a folder that holds it; without one it is downloaded.

    The counts must be those published (``counts`` stands for others), and the checksum that of the first time. The
    folder appears whole or not at all. Raises DataError for a source that is another, StorageError where nothing can be
    reached or written.
    """
    about, parent = PUBLIC[name], cache_dir or cache_folder()
    if source is None:
        if (parent / name / ABOUT).is_file():
            return kept(name, parent)
        with tempfile.TemporaryDirectory(prefix="fedmm-fetch-") as folder:
            for url in about.urls:
                _download(url, Path(folder), needed=url == about.urls[0], name=name)
            return _store(about, Path(folder), parent, counts or about.counts, about.urls[0])
    return _store(about, source.expanduser(), parent, counts or about.counts, str(source))


def _download(url: str, folder: Path, *, needed: bool, name: str) -> None:
    target = folder / url.rsplit("/", 1)[-1]
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except OSError as error:
        target.unlink(missing_ok=True)
        if needed:
            raise StorageError(
                f"{url} cannot be reached ({getattr(error, 'reason', error)}).",
                f"Download it elsewhere and run: fedmm data fetch {name} --from {target.name}",
            ) from None


def _store(about: Public, source: Path, parent: Path, counts: Counts | None, origin: str) -> Path:
    zips = sorted(source.glob("*.zip")) if source.is_dir() else []
    with replacing(parent / about.name) as folder:
        facts = _write(about, zips[0] if len(zips) == 1 else source, folder, counts)
        _pin(about.name, facts, parent)
        text = json.dumps({"name": about.name, "origin": origin, "terms": about.terms, **facts}, indent=2)
        (folder / ABOUT).write_text(text, encoding="utf-8")
    return parent / about.name


def _write(about: Public, source: Path, folder: Path, counts: Counts | None) -> dict[str, object]:
    """Both tables; their counts, sizes and checksum."""
    users: set[str] = set()
    items: set[str] = set()
    with ExitStack() as stack:
        members = members_of(source, stack)
        lines = first_of(members, about.events[0])
        if lines is None:
            raise DataError(
                f"{source} does not hold {about.events[0][0]}.",
                f"Give {about.urls[0].rsplit('/', 1)[-1]} as it was downloaded, or a folder that holds it.",
            )

        def events() -> Iterator[Event]:
            for event in about.events[1](lines):
                users.add(event[0])
                items.add(event[1])
                yield event

        number = _table(folder / EVENTS, ("user_id", "item_id", "rating", "timestamp"), events())
        found = len(users), len(items), number
        if counts is not None and found != counts:
            told = ("users", "items", "interactions")
            wrong = next(place for place in range(3) if found[place] != counts[place])
            raise DataError(
                f"{source} has {found[wrong]:,} {told[wrong]}; {about.name} has {counts[wrong]:,}.",
                "Use the original, unchanged dataset.",
            )
        texts = first_of(members, about.items[0])
        known = () if texts is None else (item for item in about.items[1](texts) if item[0] in items)
        num_titles = _table(folder / ITEMS, ("item_id", "title", "text"), known)
    digest = hashlib.sha256()
    sizes = {}
    for name in (EVENTS, ITEMS):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        sizes[name] = (folder / name).stat().st_size
    return {"counts": found, "titles": num_titles, "bytes": sizes, "sha256": digest.hexdigest()}


def _table(path: Path, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> int:
    number = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(head) + "\n")
        for row in rows:
            file.write("\t".join(row) + "\n")
            number += 1
    return number


def _pin(name: str, facts: dict[str, object], parent: Path) -> None:
    """Keeps checksum and sizes of what was first fetched under a name. Raises DataError where they are others now."""
    path = parent / PINS
    pins = json.loads(path.read_bytes()) if path.is_file() else {}
    if name in pins and pins[name]["sha256"] != facts["sha256"]:
        raise DataError(
            f"{name} is not what was first fetched under this name: checksum {str(facts['sha256'])[:12]}... instead of "
            f"{pins[name]['sha256'][:12]}..., {facts['bytes']} bytes instead of {pins[name]['bytes']}.",
            f"Use the same file, with the same titles; to begin anew, take {name} out of {path}.",
        )
    pins[name] = {"sha256": facts["sha256"], "bytes": facts["bytes"]}
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(pins, indent=2), encoding="utf-8")
    beside.replace(path)
