"""MovieLens 100K as its sources spell it, brought to one form and verified."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmm.data.titles import natural_title
from fedmm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
REMEDY = "Use the original, unchanged dataset."
UNKNOWN = {"", "unknown", "unkonwn"}  # item 267, in both its spellings


@dataclass(frozen=True)
class Facts:
    """What the ratings must be: counts, and the checksum of their sorted rows."""

    num_users: int
    num_items: int
    num_interactions: int
    digest: str


ML100K_FACTS = Facts(943, 1682, 100_000, "6cfffb52c89b05fbc3afb75f6912eeda04c81c2add0dc58e773a0ef6c8adb160")


@dataclass(frozen=True, eq=False)
class Ml100k:
    """``ratings``: user_id, item_id, rating, timestamp in the source's row order; ``items``: item_id, title, genres."""

    ratings: pd.DataFrame
    items: pd.DataFrame
    origin: str


def read_ml100k(source: Path) -> Ml100k:
    """Read ML-100K out of a folder, zip or wheel: GroupLens' files, RecBole's, or fedmm's own cache.

    Raises DataError when the source is missing, damaged or holds none of these.
    """
    member = _members(source)
    ratings, items = member("ratings.tsv"), member("items.tsv")
    if ratings is not None and items is not None:
        return Ml100k(_ratings(ratings, source, header=True), _own_items(items, source), str(source.name))
    ratings, items = member("u.data"), member("u.item")
    if ratings is not None and items is not None:
        origin = f"{source.name} (GroupLens)"
        return Ml100k(_ratings(ratings, source, header=False), _grouplens_items(items, source), origin)
    ratings, items = member("ml-100k.inter"), member("ml-100k.item")
    if ratings is not None and items is not None:
        return Ml100k(_ratings(ratings, source, header=True), _recbole_items(items, source), f"{source.name} (RecBole)")
    raise DataError(
        f"{source} holds neither u.data and u.item nor ml-100k.inter and ml-100k.item.",
        "Give GroupLens' ml-100k.zip, its unpacked folder, or the wheel of recbole 1.2.1.",
    )


def digest_of(ratings: pd.DataFrame) -> str:
    """SHA-256 of the rows ``user<TAB>item<TAB>rating<TAB>timestamp<NEWLINE>``, sorted as numbers."""
    rows = ratings[COLUMNS].to_numpy(np.int64)
    rows = rows[np.lexsort(rows.T[::-1])]
    return hashlib.sha256("".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in rows.tolist()).encode()).hexdigest()


def verify(data: Ml100k, facts: Facts) -> None:
    """DataError unless the ratings have the counts and the checksum of ``facts``."""
    ratings = data.ratings
    for name, found, wanted in (
        ("ratings", len(ratings), facts.num_interactions),
        ("users", ratings["user_id"].nunique(), facts.num_users),
        ("items", ratings["item_id"].nunique(), facts.num_items),
    ):
        if found != wanted:
            raise DataError(f"{data.origin} has {found} {name}; ML-100K has {wanted}.", REMEDY)
    found_digest = digest_of(ratings)
    if found_digest != facts.digest:
        raise DataError(
            f"{data.origin}: the ratings have checksum {found_digest[:12]}..., ML-100K's have {facts.digest[:12]}...",
            REMEDY,
        )


def _members(source: Path) -> Callable[[str], bytes | None]:
    """How to get a file by its bare name out of the source; the shallowest wins."""
    if source.is_dir():
        depths = ("", "*/", "*/*/", "*/*/*/")
        return lambda name: next((path.read_bytes() for depth in depths for path in source.glob(depth + name)), None)
    if not source.is_file():
        raise DataError(f"There is no {source}.", "Give a folder, zip or wheel that holds ML-100K.")
    try:
        with zipfile.ZipFile(source) as archive:
            wanted = {"ratings.tsv", "items.tsv", "u.data", "u.item", "ml-100k.inter", "ml-100k.item"}
            found: dict[str, bytes] = {}
            for entry in sorted(archive.namelist(), key=lambda entry: entry.count("/"), reverse=True):
                if (name := entry.rsplit("/", 1)[-1]) in wanted:
                    found[name] = archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:  # RuntimeError: encrypted
        raise DataError(f"{source} is not a readable zip or wheel ({error}).", "Download it again.") from None
    return found.get


def _table(content: bytes, source: Path, **options: object) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(io.BytesIO(content), quoting=3, keep_default_na=False, **options)  # type: ignore[call-overload, no-any-return]
    except (ValueError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{source} cannot be read as ML-100K ({reason}).", REMEDY) from None


def _ratings(content: bytes, source: Path, header: bool) -> pd.DataFrame:
    return _table(content, source, sep="\t", header=0 if header else None, names=COLUMNS, dtype=np.int64)


def _own_items(content: bytes, source: Path) -> pd.DataFrame:
    return _numbered(_table(content, source, sep="\t", dtype=str), source)


def _grouplens_items(content: bytes, source: Path) -> pd.DataFrame:
    names = ["item_id", "title", "released", "video", "url", *GENRES]
    table = _table(content, source, sep="|", header=None, names=names, encoding="latin-1", dtype=str)
    flags = (table[list(GENRES[1:])] == "1").to_numpy()
    genres = [", ".join(np.array(GENRES[1:])[row]) for row in flags]
    return _items(table["item_id"], table["title"], genres, source)


def _recbole_items(content: bytes, source: Path) -> pd.DataFrame:
    names = ["item_id", "title", "year", "genres"]
    table = _table(content, source, sep="\t", header=0, names=names, dtype=str)
    dated = zip(table["title"], table["year"], strict=True)
    titles = [title if title in UNKNOWN else f"{title} ({year})" for title, year in dated]
    genres = [", ".join(name for name in text.split() if name not in UNKNOWN) for text in table["genres"]]
    return _items(table["item_id"], titles, genres, source)


def _items(item_ids: object, titles: object, genres: object, source: Path) -> pd.DataFrame:
    import pandas as pd

    items = _numbered(pd.DataFrame({"item_id": item_ids, "title": titles, "genres": genres}), source)
    items["title"] = ["" if title in UNKNOWN else natural_title(title) for title in items["title"]]
    return items.sort_values("item_id", ignore_index=True)


def _numbered(items: pd.DataFrame, source: Path) -> pd.DataFrame:
    """The items with whole numbers for ids."""
    try:
        return items.astype({"item_id": np.int64})
    except (KeyError, ValueError, OverflowError) as error:
        reason = str(error.args[0] if error.args else error)
        raise DataError(f"{source}: the items cannot be read as ML-100K's ({reason}).", REMEDY) from None
