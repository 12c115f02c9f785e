"""Datasets: the named ones, and files of your own, loaded as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.config.names import ALIKE, nearest_name, suggestion
from fedmm.data.extending import joined
from fedmm.data.features import load_features
from fedmm.data.fetch import ML100K_FACTS, cached_ml100k
from fedmm.data.made_features import made_features, require_raw
from fedmm.data.preparation import RawInteractions
from fedmm.data.prepared import Prepared, prepare_file, prepare_raw
from fedmm.data.public import EVENTS, ITEMS, PUBLIC, kept
from fedmm.data.readers import read_interactions, read_titles
from fedmm.data.sources import read_sources
from fedmm.data.title_files import load_titles
from fedmm.data.types import BoolArray, Dataset, IntArray, ItemFeatures
from fedmm.errors import DataError

Titles = Mapping[str, str]  # item id -> title
PLAIN = {
    "columns": None,
    "header": None,
    "encoding": None,
    "decimal": ".",
    "sql": None,
    "user_column": None,
    "item_column": None,
    "rating_column": None,
    "timestamp_column": None,
}  # how fetched tables are written
BUNDLED = Path(str(resources.files("fedmm.data"))) / "bundled"
"""The data files that ship with the package; wheels are installed unpacked, so this is a folder."""


@dataclass(frozen=True)
class DatasetInfo:
    """One line of ``fedmm data list``; counts are those of the default filters."""

    name: str
    available: bool
    where: str
    description: str
    num_users: int | None = None
    num_items: int | None = None
    num_interactions: int | None = None


@dataclass(frozen=True)
class _Named:
    load: Callable[[DataConfig], tuple[Prepared, Titles]]
    features: Path | None
    info: Callable[[], DatasetInfo]
    require: Callable[[], object] = lambda: None  # raises where it was not fetched


def load_dataset(config: DataConfig, tell: Callable[[str], None] | None = None) -> Dataset:
    """Read, filter and index the interactions that ``config`` names, with their titles and item features; ``tell``
    hears how far the making of features is.

    A modality without a file is left out of ``features``. Raises DataError for an unknown name, a dataset that
    has not been fetched, and files that cannot be understood.
    """
    titles: Titles = {}
    if config.path is not None:
        source = config.path.expanduser()
        prepared = prepare_file(source, lambda: read_sources(config), config)
        name, shipped = config.path.stem, None
    else:
        named = _named(config.name)
        prepared, titles = named.load(config)
        name, shipped = config.name, named.features
    return _completed(config, prepared, titles, name, shipped, tell)


def read_by(config: DataConfig, fusion: str) -> DataConfig:
    """``config`` without pictures and texts where a model of that ``fusion`` has no experts: nothing would read what
    is made of them.

    >>> read_by(DataConfig(images=Path("pictures")), "backbone").images
    """
    if fusion != "backbone" or (config.images, config.texts) == (None, None):
        return config
    unread: dict[str, object] = {}
    unread |= {"images": None, "visual_features": "none"} if config.images is not None else {}
    unread |= {"texts": None, "text_features": "none"} if config.texts is not None else {}
    return config.model_copy(update=unread)


def extended_dataset(
    old: Dataset, before: DataConfig, config: DataConfig, tell: Callable[[str], None] | None = None
) -> Dataset:
    """``old``, which was loaded by ``before``, with the new events of the file ``config.path``; features and attributes
    are those of ``config``, for all items.

    Raises DataError for a file that cannot be understood, or holds nothing new.
    """
    assert config.path is not None
    raw, notes = joined(old, read_interactions(config.path.expanduser(), config), config)
    made = prepare_raw(raw, config.model_copy(update={"min_rating": None, "exclude_users": ()}))
    titles = dict(zip(old.interactions.item_ids.tolist(), old.titles.tolist(), strict=True))
    shipped = None if before.path is not None else _named(before.name).features
    prepared = replace(made, notes=(*notes, *made.notes))
    return _completed(config, prepared, titles, config.path.stem, shipped, tell, old.features)


def _completed(
    config: DataConfig,
    prepared: Prepared,
    titles: Titles,
    name: str,
    shipped: Path | None,
    tell: Callable[[str], None] | None,
    like: Mapping[str, ItemFeatures] | None = None,
) -> Dataset:
    """Interactions with titles, item features and attributes; ``like`` are the features of a run that goes on."""
    interactions, notes = prepared.interactions, prepared.notes
    features: dict[str, ItemFeatures] = {}
    feature_notes: list[str] = []
    if config.images is not None or config.texts is not None:
        require_raw(config, interactions.item_ids)
    for modality, setting, raw in (
        ("visual", config.visual_features, config.images),
        ("semantic", config.text_features, config.texts),
    ):
        path = _feature_path(setting, shipped)
        if raw is not None:
            made, remarks = made_features(modality, config, interactions.item_ids, tell, (like or {}).get(modality))
            features[modality] = made
            feature_notes += remarks
        elif path is not None:
            found, remarks = load_features(
                path, interactions.item_ids, modality, prepared.known_item_ids, config.feature_order
            )
            features[modality] = found
            feature_notes += remarks
    if config.titles is not None:
        titles = load_titles(config.titles.expanduser())
    titles_of = np.array([titles.get(item, "") for item in interactions.item_ids.tolist()], dtype=np.str_)
    from fedmm.data.corruption import corrupt  # torch comes with its random streams: listing datasets needs none

    features = corrupt(features, config.feature_corruption)
    if config.feature_corruption != "none":
        feature_notes.append(f"features corrupted: {config.feature_corruption}")
    attributes = None
    if config.attributes is not None:
        from fedmm.data.attributes import load_attributes  # scipy, which listing datasets does not need

        attributes, remarks = load_attributes(config.attributes.expanduser(), interactions.item_ids)
        feature_notes += remarks
    return Dataset(
        name,
        interactions,
        features,
        titles_of,
        prepared.digest,
        (*notes, *feature_notes),
        attributes=attributes,
    )


def list_datasets() -> tuple[DatasetInfo, ...]:
    """Every named dataset and whether it is on this machine."""
    return tuple(named.info() for named in _NAMED.values())


def require_dataset(name: str) -> None:
    """Raises DataError for a name that is not known, and for a dataset that was not fetched; reads nothing."""
    _named(name).require()


def _named(name: str) -> _Named:
    if name in _NAMED:
        return _NAMED[name]
    near = nearest_name(name, _NAMED, ALIKE)
    if near is None and Path(name).suffix:
        raise DataError(f"There is no dataset called {name!r}.", f"A file is given with --data {name} (data.path).")
    raise DataError(
        f"There is no dataset called {name!r}.",
        f"{suggestion(near)} `fedmm data list` shows all; your own file is given with --data FILE (data.path).".strip(),
    )


def _feature_path(setting: str | None, shipped: Path | None) -> Path | None:
    if setting is None:
        return shipped
    return None if setting.lower() == "none" else Path(setting).expanduser()


def _load_movielens_small(config: DataConfig) -> tuple[Prepared, Titles]:
    return _load_movielens("movielens-small", config, posters_only=True)


def _load_movielens_small_5core(config: DataConfig) -> tuple[Prepared, Titles]:
    return _load_movielens("movielens-small-5core", config, posters_only=False)


def _load_movielens(name: str, config: DataConfig, *, posters_only: bool) -> tuple[Prepared, Titles]:
    """The 5-core of all films, or what lies in it of the 5-core of films with a poster."""
    with np.load(BUNDLED / "movielens-small.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    user_ids, users = np.unique(arrays["user"], return_inverse=True)
    kept_users, kept_items = arrays["poster_core_user"], arrays["poster_core_item"]
    if not posters_only:
        kept_users, kept_items = np.ones_like(kept_users), np.ones_like(kept_items)
    rows = kept_users[users] & kept_items[arrays["item"]]
    item_ids = arrays["item_id"].astype(str)
    raw = RawInteractions(
        source=name,
        user_ids=user_ids[kept_users].astype(str),
        item_ids=item_ids[kept_items],
        users=_renumbered(kept_users, users[rows]),
        items=_renumbered(kept_items, arrays["item"][rows]),
        ratings=arrays["half_stars"][rows] / 2.0,
        timestamps=arrays["timestamp"][rows].astype(np.float64),
    )
    return prepare_raw(raw, config), dict(zip(item_ids.tolist(), _lines(arrays["title"]), strict=True))


def _renumbered(kept: BoolArray, codes: NDArray[np.integer]) -> IntArray:
    """Codes into what is ``kept``, from codes into all."""
    found: IntArray = (np.cumsum(kept) - 1)[codes]
    return found


def _lines(encoded: NDArray[np.uint8]) -> list[str]:
    return encoded.tobytes().decode().split("\n")


def _load_ml100k(config: DataConfig) -> tuple[Prepared, Titles]:
    folder = cached_ml100k()
    prepared = prepare_file(folder / "ratings.tsv", lambda: _read_ml100k(folder), config)
    return prepared, read_titles(folder / "items.tsv")


def _read_ml100k(folder: Path) -> RawInteractions:
    raw = read_interactions(folder / "ratings.tsv", DataConfig.model_validate({"name": "ml-100k"}))
    if len(raw) != ML100K_FACTS.num_interactions:
        raise DataError(
            f"{folder / 'ratings.tsv'} has {len(raw)} ratings instead of {ML100K_FACTS.num_interactions}.",
            "Remove the folder and run: fedmm data fetch ml-100k",
        )
    return raw


def _load_public(name: str, config: DataConfig) -> tuple[Prepared, Titles]:
    folder = kept(name)
    plain = config.model_copy(update=PLAIN)
    path = folder / EVENTS
    prepared = prepare_file(path, lambda: read_interactions(path, plain), config)
    return prepared, read_titles(folder / ITEMS)


def _public_info(name: str) -> DatasetInfo:
    about = PUBLIC[name]
    try:
        where, available = str(kept(name)), True
    except DataError:
        where, available = f"run: fedmm data fetch {name}", False
    return DatasetInfo(name, available, where, about.description, *(about.counts or (None, None, None)))


def _movielens_small_info() -> DatasetInfo:
    description = "MovieLens ml-latest-small: films with a poster, 5-core"
    return DatasetInfo("movielens-small", True, str(BUNDLED), description, 597, 1849, 56166)


def _movielens_small_5core_info() -> DatasetInfo:
    description = "MovieLens ml-latest-small: all films, 5-core (those without a poster have text features alone)"
    return DatasetInfo("movielens-small-5core", True, str(BUNDLED), description, 610, 3650, 90274)


def _ml100k_info() -> DatasetInfo:
    description = "MovieLens 100K, all ratings (the ratings are fetched, the features ship)"
    try:
        where, available = str(cached_ml100k()), True
    except DataError:
        where, available = "run: fedmm data fetch ml-100k", False
    facts = ML100K_FACTS
    return DatasetInfo(
        "ml-100k", available, where, description, facts.num_users, facts.num_items, facts.num_interactions
    )


_NAMED: Mapping[str, _Named] = {
    "movielens-small": _Named(_load_movielens_small, BUNDLED / "movielens-small.features.npz", _movielens_small_info),
    "movielens-small-5core": _Named(
        _load_movielens_small_5core, BUNDLED / "movielens-small-5core.features.npz", _movielens_small_5core_info
    ),
    "ml-100k": _Named(_load_ml100k, BUNDLED / "ml-100k.features.npz", _ml100k_info, cached_ml100k),
    **{
        name: _Named(partial(_load_public, name), None, partial(_public_info, name), partial(kept, name))
        for name in PUBLIC
    },
}
