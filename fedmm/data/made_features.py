"""Item features made of pictures and texts, as ``data.images`` and ``data.texts`` name them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.features import standardised
from fedmm.data.fetch import cache_folder
from fedmm.data.item_pictures import find_pictures
from fedmm.data.item_texts import read_item_texts
from fedmm.data.preparation import StrArray
from fedmm.data.prepared_store import PreparedStore
from fedmm.data.types import BoolArray, ItemFeatures
from fedmm.encoders.cache import VectorCache
from fedmm.encoders.encoding import Advance, Read, Watch, encode_all
from fedmm.encoders.pictures import UnreadableError, open_picture, picture_bytes
from fedmm.encoders.reduction import Components, fit_components
from fedmm.encoders.registry import ChosenEncoder
from fedmm.errors import DataError
from fedmm.utils.text import in_time

TRAINING_DIMS = 64  # what an unset ``data.feature_dims`` is in training
TOLD_EVERY = 10.0  # seconds between two lines about the making
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class MadeRows:
    """What an encoder made of items' pictures or texts."""

    ids: tuple[str, ...]  # [n]
    values: NDArray[np.float32]  # [n, F]; rows of absent items are zero
    present: BoolArray  # [n]
    faults: dict[str, str]  # item id -> why it has no vector although there is a file or a row
    missing: tuple[str, ...]  # items without a file or a row
    encoder: ChosenEncoder
    num_kept: int  # distinct vectors that were kept from before
    notes: tuple[str, ...]


def vector_cache() -> VectorCache:
    """The user's: in the cache folder (FEDMM_CACHE), as large as FEDMM_PREPARED_GB says."""
    return VectorCache(cache_folder() / "encoded", PreparedStore.of_user().limit)


def rows_of_images(config: DataConfig, item_ids: Sequence[str] | None, watch: Watch) -> MadeRows:
    """What ``data.image_encoder`` makes of ``data.images``; ``item_ids`` None takes all that are there.

    Raises DataError where nothing can be found or read, ConfigError where the encoder cannot be loaded.
    """
    assert config.images is not None
    found = find_pictures(config.images.expanduser(), item_ids, item_column=config.item_column)
    ids = tuple(sorted({*found.paths, *found.faults})) if item_ids is None else tuple(item_ids)
    chosen = ChosenEncoder(config.image_encoder, "images")

    def read(item: str) -> Read:
        path = found.paths.get(item)
        return lambda: _refused(found.faults.get(item, "")) if path is None else picture_bytes(path)

    encoded = encode_all(
        [read(item) for item in ids], open_picture, lambda one: one.width * one.height, chosen, vector_cache(), watch
    )
    known = found.paths.keys() | found.faults.keys()
    missing = tuple(item for item in ids if item not in known)
    faults = {
        ids[row]: reason if ids[row] in found.faults else f"{found.paths[ids[row]].name}: {reason}"
        for row, reason in encoded.faults.items()
        if ids[row] in known
    }
    if not encoded.present.any():
        raise DataError(
            f"{config.images}: none of {len(faults)} pictures can be read ({next(iter(faults.values()))}).",
            "Give JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF files.",
        )
    notes = [*found.notes, *_fault_notes("pictures", faults), *encoded.notes]
    return MadeRows(ids, encoded.vectors, encoded.present, faults, missing, chosen, encoded.num_kept, tuple(notes))


def rows_of_texts(config: DataConfig, item_ids: Sequence[str] | None, watch: Watch) -> MadeRows:
    """What ``data.text_encoder`` makes of ``data.texts``; ``item_ids`` None takes all that are there.

    Raises DataError and ConfigError as ``rows_of_images``.
    """
    assert config.texts is not None
    found = read_item_texts(
        config.texts.expanduser(), config.text_columns, item_column=config.item_column, encoding=config.encoding
    )
    ids = tuple(found.texts) if item_ids is None else tuple(item_ids)
    chosen = ChosenEncoder(config.text_encoder, "texts")
    notes = list(found.notes)
    if item_ids is not None:
        _check_known(config.texts, found.texts, ids, notes)

    def read(item: str) -> Read:
        text = found.texts.get(item, "")
        return text.encode if text else lambda: _refused("no text")

    encoded = encode_all([read(item) for item in ids], bytes.decode, len, chosen, vector_cache(), watch)
    faults = {ids[row]: reason for row, reason in encoded.faults.items() if ids[row] in found.texts}
    if not encoded.present.any():
        raise DataError(f"{config.texts}: all {len(ids)} texts are empty.", "Fill its columns.")
    notes += [*_fault_notes("texts", faults), *encoded.notes]
    missing = tuple(item for item in ids if item not in found.texts)
    return MadeRows(ids, encoded.vectors, encoded.present, faults, missing, chosen, encoded.num_kept, tuple(notes))


MAKERS = {"visual": rows_of_images, "semantic": rows_of_texts}


def require_raw(config: DataConfig, item_ids: StrArray) -> None:
    """Looks at ``data.images`` and ``data.texts`` as a whole before the first of them is encoded, which may take hours:
    files that cannot be read, ids that none of ``item_ids`` [V] has, encoders that are not installed.

    Raises DataError and ConfigError as ``rows_of_images``.
    """
    ids = item_ids[1:].tolist()
    if config.images is not None:
        find_pictures(config.images.expanduser(), ids, item_column=config.item_column)
        ChosenEncoder(config.image_encoder, "images").require()
    if config.texts is not None:
        columns, own = config.text_columns, {"item_column": config.item_column, "encoding": config.encoding}
        _check_known(config.texts, read_item_texts(config.texts.expanduser(), columns, **own).texts, tuple(ids), [])
        ChosenEncoder(config.text_encoder, "texts").require()


def made_features(
    modality: str, config: DataConfig, item_ids: StrArray, tell: Tell | None, like: ItemFeatures | None
) -> tuple[ItemFeatures, list[str]]:
    """The features of ``item_ids`` [V] ("" first, for padding) of one modality, ``data.feature_dims`` principal
    components of what the encoder makes, and notes on them. ``like`` are those of a run that goes on: its components
    are kept, so that what a model learned of them stays true.

    Raises DataError and ConfigError as ``rows_of_images``.
    """
    rows = MAKERS[modality](config, item_ids[1:].tolist(), lines_of(tell))
    dims = TRAINING_DIMS if config.feature_dims is None else config.feature_dims
    if like is not None and like.reduction is not None and len(like.reduction.mean) != rows.values.shape[1]:
        raise DataError(
            f"The {modality} encoder gives {rows.values.shape[1]} numbers, that of the run {len(like.reduction.mean)}.",
            f"Go on with the encoder of the run, not {rows.encoder.setting}.",
        )
    reduction = like.reduction if like is not None else components(rows, dims)
    own = rows.values[rows.present] if reduction is None else reduction.project(rows.values[rows.present])
    values = np.zeros((len(item_ids), own.shape[1]), np.float64)
    present = np.concatenate([[False], rows.present])
    values[present] = own
    source = config.images if modality == "visual" else config.texts
    features = replace(standardised(values, present, Path(str(source))), reduction=reduction)
    return features, [f"{modality} features: {told(rows, reduction)}", *rows.notes]


def components(rows: MadeRows, dims: int) -> Components | None:
    """The ``dims`` leading ones, or as many as there can be; None where ``dims`` is 0, for all."""
    own = rows.values[rows.present]
    return fit_components(own, min(dims, *own.shape)) if dims else None


def told(rows: MadeRows, reduction: Components | None) -> str:
    """Coverage, size, variance kept, encoder and its licence, in one line."""
    count, total = int(rows.present.sum()), len(rows.ids)
    size = f"{rows.values.shape[1]} dimensions"
    if reduction is not None:
        size = f"{len(reduction.axes)} of {size} keep {reduction.kept:.1%} of the variance"
    what = "pictures" if rows.encoder.reads == "images" else "texts"
    return (
        f"{count} of {total} items ({count / total:.1%}), {size}, made of {what} by {rows.encoder.setting} "
        f"(weights: {rows.encoder.licence})"
    )


def lines_of(tell: Tell | None) -> Watch:
    """A watcher that tells in lines, the first at once, others every TOLD_EVERY seconds."""
    last: list[float] = []

    def watch(advance: Advance) -> None:
        now = time.perf_counter()
        if tell is None or (last and now - last[0] < TOLD_EVERY and advance.done):
            return
        last[:] = [now]
        left = f", about {in_time(advance.seconds_left)} left" if advance.done else ""
        tell(f"{advance.what}: {advance.done:,} of {advance.total:,}{left}")

    return watch


def _refused(reason: str) -> bytes:
    raise UnreadableError(reason)


def _fault_notes(what: str, faults: dict[str, str]) -> list[str]:
    """How many there are, and the first few."""
    if not faults:
        return []
    shown = "; ".join(f"{item} ({reason})" for item, reason in list(faults.items())[:3])
    more = "; ..." if len(faults) > 3 else ""
    return [f"{what}: {len(faults)} cannot be used, their items are taken to have none: {shown}{more}"]


def _check_known(path: Path, texts: dict[str, str], ids: tuple[str, ...], notes: list[str]) -> None:
    known = set(ids)
    strangers = [item for item in texts if item not in known]
    if len(strangers) == len(texts):
        raise DataError(
            f"{path}: none of its {len(texts)} rows is that of an item of the data (ids there: "
            f"{', '.join(map(repr, strangers[:3]))}; ids in the data: {', '.join(map(repr, ids[:3]))}).",
            "Use the same item ids in both files.",
        )
    if strangers:
        notes.append(f"texts: ignored {len(strangers)} rows of items that are not in the data")
