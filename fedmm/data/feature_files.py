"""Reading feature files: .npy, .npz, .pt (weights only), .safetensors and .parquet, never a pickle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config.names import missing_file_hint
from fedmm.data.preparation import StrArray
from fedmm.data.types import BoolArray, IntArray
from fedmm.errors import DataError

ID_KEYS = ("item_id", "movie_id", "item_ids", "movie_ids", "ids", "id", "items", "item", "itemid", "movieid", "asin")
MODALITY_KEYS = {
    "visual": ("visual", "visual_features", "image", "image_features", "images"),
    "semantic": ("semantic", "text", "semantic_features", "text_features", "textual"),
}
TITLE_KEYS = ("title", "titles", "name", "names")
PLAIN_KEYS = ("features", "embeddings", "embedding", "vectors", "values", "arr_0")


PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".xlsx")
HOW_MADE = (
    "Features are numbers that an encoder makes of pictures or texts: save an .npz of item_id [n] and features [n, F], "
    "as the guide 'Data and features' shows under 'Making features'."
)


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """A feature file as read: rows, and ids and a presence mask where it has them."""

    values: NDArray[np.floating]  # [n, F]
    ids: StrArray | None  # [n]
    present: BoolArray | None  # [n]

    def take(self, rows: IntArray) -> FeatureRows:
        """The rows chosen by index."""
        return replace(
            self,
            values=self.values[rows],
            ids=None if self.ids is None else self.ids[rows],
            present=None if self.present is None else self.present[rows],
        )


def read_feature_file(path: Path, modality: str) -> FeatureRows:
    """Read ``path`` by its extension; DataError for anything that is not a table of finite-width numbers."""
    return _rows(read_arrays(path, modality), path, modality)


def read_arrays(path: Path, modality: str) -> Mapping[str, Any]:
    """All that a file of features holds, by name. Raises DataError where it cannot be read."""
    read = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is {_content_of(path)}, not a file of {modality} features.", _remedy(path))
    if not path.is_file():
        raise DataError(f"There is no file {path} of {modality} features.", missing_file_hint(path))
    if read is None:
        raise DataError(
            f"{path}: {path.suffix or 'no extension'} is not a known kind of feature file.",
            HOW_MADE if path.suffix.lower() in (*PICTURES, *TABLES) else f"Known are {', '.join(READERS)}.",
        )
    try:
        return read(path)
    except PermissionError:
        raise DataError(f"{path} may not be read.", "Change its permissions.") from None
    except DataError:
        raise
    except Exception as error:  # every library has its own way to refuse a damaged file
        raise DataError(
            f"{path} is not a readable {path.suffix.lower()} file of numbers, or is damaged ({_reason(error)}).",
            "Write it again; pickled objects are never loaded, so save plain arrays or tensors.",
        ) from None


def _content_of(folder: Path) -> str:
    pictures = sum(path.suffix.lower() in PICTURES for path in folder.iterdir())
    return f"a folder of {pictures} pictures" if pictures else "a folder"


def _remedy(folder: Path) -> str:
    return HOW_MADE if "pictures" in _content_of(folder) else "Give the file's path."


def _reason(error: Exception) -> str:
    """The first line of a library's complaint; not its advice to unpickle the file all the same."""
    text = str(error).strip()
    if any(word in text for word in ("pickle", "Weights only")) or type(error).__name__ == "UnpicklingError":
        return "there are other things than plain numbers in it"
    return (text.splitlines() or [type(error).__name__])[0][:160].rstrip(".")


def describe(ids: StrArray) -> str:
    """The first few ids, for messages."""
    shown = ", ".join(repr(str(one)) for one in ids[:3])
    return shown + (", ..." if len(ids) > 3 else "")


def rows_of_modalities(arrays: Mapping[str, Any], modalities: Sequence[str], path: Path) -> dict[str, FeatureRows]:
    """The rows of each of ``modalities`` that is called by its name in ``arrays``; where none is and there is but one
    of them, whatever table there is."""
    names = {str(key).lower() for key in arrays}
    named = [modality for modality in modalities if names & set(MODALITY_KEYS.get(modality, (modality,)))]
    found = named or (list(modalities) if len(modalities) == 1 else [])
    if not found:
        raise DataError(f"{path} has no features called {' or '.join(modalities)}.", "Name the arrays so.")
    return {modality: _rows(arrays, path, modality) for modality in found}


def _rows(arrays: Mapping[str, Any], path: Path, modality: str) -> FeatureRows:
    lower = {str(key).lower(): key for key in arrays}
    id_key = next((lower[key] for key in ID_KEYS if key in lower), None)
    key = _feature_key(arrays, lower, id_key, path, modality)
    values = _numbers(arrays[key], path, modality)
    present = next((arrays[name] for name in (f"{key}_present", "present") if name in arrays), None)
    ids = None if id_key is None else _ids(arrays[id_key], len(values), path)
    return FeatureRows(values, ids, None if present is None else _mask(present, len(values), path))


def _feature_key(
    arrays: Mapping[str, Any], lower: Mapping[str, str], id_key: str | None, path: Path, modality: str
) -> str:
    for name in (*MODALITY_KEYS.get(modality, (modality,)), *PLAIN_KEYS):
        if name in lower:
            return lower[name]
    tables = [key for key in arrays if key != id_key and np.ndim(arrays[key]) == 2]
    if len(tables) == 1:
        return tables[0]
    others = [key for key in arrays if key != id_key and str(key).lower() not in TITLE_KEYS]
    if len(others) == 1:
        return others[0]
    held = ", ".join(map(str, list(arrays)[:8])) or "nothing"
    raise DataError(
        f"{path} holds {held}: it is not clear which are the {modality} features.",
        f"Call them {MODALITY_KEYS.get(modality, (modality,))[0]} or features.",
    )


def _numbers(values: Any, path: Path, modality: str) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: the {modality} features are of type {array.dtype}, not numbers.",
            "Save them as float32 or float16.",
        )
    if array.ndim != 2 or not array.size:
        raise DataError(
            f"{path}: the {modality} features have shape {array.shape}; needed is (items, dimensions), neither zero.",
            "Save one row of numbers an item.",
        )
    if array.dtype.kind == "f" and array.itemsize <= 8:
        return array
    with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, and is refused as such
        return array.astype(np.float64)


def _ids(values: Any, num_rows: int, path: Path) -> StrArray:
    array = np.asarray(values)
    if array.shape != (num_rows,):
        raise DataError(
            f"{path}: {num_rows} feature rows, but item ids of shape {array.shape}.", "Give one id a row of features."
        )
    if array.dtype.kind == "f" and np.all(np.isfinite(array)) and np.all(array == np.rint(array)):
        array = array.astype(np.int64)
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}: the item ids are bytes that are not UTF-8.", "Save them as strings.") from None
    if array.dtype.kind not in "iuU":
        raise DataError(f"{path}: the item ids are of type {array.dtype}.", "Save them as whole numbers or strings.")
    return np.char.strip(array.astype(str))


def _mask(values: Any, num_rows: int, path: Path) -> BoolArray:
    array = np.asarray(values)
    if array.shape != (num_rows,) or not (array.dtype.kind == "b" or np.isin(array, (0, 1)).all()):
        raise DataError(
            f"{path}: the presence mask has type {array.dtype} and shape {array.shape}; "
            f"needed are {num_rows} true or false values.",
            "Save one boolean a row of features.",
        )
    return array.astype(np.bool_)


def _read_npy(path: Path) -> dict[str, Any]:
    return {"features": np.load(path, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # NumPy leaves a damaged archive open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(f"{path} is a single array, not an npz archive.", "Rename it to .npy.")
        return {key: loaded[key] for key in loaded.files}


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    # Pickles are refused in one line. No catch_warnings: it would undo filters set meanwhile by other threads.
    warnings.filterwarnings("ignore", "Detected pickle protocol")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        return {"features": _plain(loaded)}
    arrays = {key: _plain(value) for key, value in loaded.items()}
    vectors = list(arrays.values())
    named = {str(key).lower() for key in arrays} & {*ID_KEYS, *PLAIN_KEYS, *sum(MODALITY_KEYS.values(), ())}
    if vectors and not named and all(np.ndim(one) == 1 and np.shape(one) == np.shape(vectors[0]) for one in vectors):
        return {"item_id": np.array([str(key) for key in arrays]), "features": np.stack(vectors)}  # one vector an id
    return {str(key): value for key, value in arrays.items()}


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {key: _plain(value) for key, value in load_file(path).items()}


def _plain(value: Any) -> Any:
    """A tensor as an array (NumPy has no bfloat16), a list as an array, anything else as it is."""
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _read_parquet(path: Path) -> dict[str, Any]:
    """Reads an id column and either one column of lists or several columns of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read()
    arrays: dict[str, Any] = {}
    numbers: list[str] = []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            present = np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False))
            lengths = set(pc.list_value_length(column.filter(pc.is_valid(column))).to_pylist())
            if len(lengths) != 1:
                message = f"{path}: the lists of column {name} have {len(lengths)} different lengths."
                raise DataError(message, "Give all the same length.")
            flat = pc.list_flatten(column.filter(pc.is_valid(column))).to_numpy(zero_copy_only=False)
            values = np.zeros((len(present), lengths.pop()), flat.dtype)
            values[present] = flat.reshape(int(present.sum()), values.shape[1])
            arrays[name] = values
            if not present.all():
                arrays[f"{name}_present"] = present
        elif name.lower() in ID_KEYS or name.lower().endswith("present"):
            if column.null_count:
                message = f"{path}: column {name} has {column.null_count} rows without a value."
                raise DataError(message, "Fill them in or remove those rows.")
            array = column.to_numpy(zero_copy_only=False)
            arrays[name] = array.astype(str) if array.dtype == object else array
        elif name.lower() in TITLE_KEYS:
            arrays[name] = np.array(column.fill_null("").to_pylist(), dtype=np.str_)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers.append(name)
    if not any(np.ndim(array) == 2 for array in arrays.values()) and numbers:
        arrays["features"] = np.stack([table.column(name).to_numpy() for name in numbers], axis=1)
    return arrays


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}
