"""Checkpoints: a folder of ``state.safetensors`` (tensors) and ``state.json`` (everything else), written atomically.

A checkpoint ``NAME`` is written as ``.NAME.new`` and renamed. Where ``NAME`` exists already it is first set aside
as ``.NAME.old``, because no portable call swaps two folders. So at every instant a complete checkpoint exists under
one of the three names; readers try all three, and the next save puts things in order. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode

from fedmm.errors import CheckpointError
from fedmm.utils.files import storage_error, sync_folder, write_synced

FORMAT = 1
TENSORS_FILE = "state.safetensors"
META_FILE = "state.json"
BEST = "best"
FOLDER = "checkpoints"  # of a run folder
_ROUND = re.compile(r"round-(\d{5,})")
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old|gone)")


def round_name(number: int) -> str:
    """``round-00012``."""
    return f"round-{number:05d}"


def save_checkpoint(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> Path:
    """Writes the checkpoint ``folder/name``, replacing an older one of that name, and returns its path.

    Tensors come back bit for bit and in this order, on the CPU, contiguous and each with memory of its own.
    ``meta`` must be JSON: tuples come back as lists and keys as strings.
    Raises StorageError (disk full, no permission); the older checkpoint is then untouched.
    """
    final, new, old = (folder / form for form in (name, f".{name}.new", f".{name}.old"))
    content = encode(_independent(tensors))
    state = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "tensors": list(tensors),
        "meta": dict(meta),
    }
    text = json.dumps(state, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        new.mkdir()
        write_synced(new / TENSORS_FILE, content)
        write_synced(new / META_FILE, text.encode())  # last: without it a checkpoint is not one
        sync_folder(new)
        if final.exists():
            final.rename(old)
        new.rename(final)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            if not final.exists() and old.exists():
                old.rename(final)
        if final.exists() or not old.exists():
            shutil.rmtree(new, ignore_errors=True)
        raise storage_error(final, error) from error
    shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(
    path: Path, which: Literal["best", "last"] = "best", warn: Callable[[str], None] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the meta of a checkpoint.

    ``path`` is a checkpoint, a folder of checkpoints or a run folder. In the last two ``which`` chooses: ``best`` is
    the checkpoint of that name, or the newest round where there is none; ``last`` is the newest round that is whole.
    ``warn`` hears of newer rounds that were damaged and passed over.
    Raises CheckpointError where there is none, or it is damaged or from a newer fedmm.
    """
    return _read(_find(path, which, warn))


def newest_checkpoint(folder: Path, warn: Callable[[str], None] | None = None) -> Path | None:
    """The newest whole ``round-*`` in ``folder``; ``warn`` hears of newer ones that are damaged."""
    for number in sorted(_rounds(folder), reverse=True):
        path = _existing(folder / round_name(number))
        try:
            _read(path)
        except CheckpointError as error:
            if warn is not None:
                warn(f"{error.message} The round before it is used instead.")
            continue
        return path
    return None


def prune_checkpoints(folder: Path, keep_last: int = 2) -> None:
    """Removes all but the newest ``keep_last`` rounds, and what a crash left half-done; ``best`` and other names stay.

    Raises StorageError.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last {keep_last} would remove every round")
    try:
        _tidy(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    for number in sorted(_rounds(folder))[:-keep_last]:
        path = _existing(folder / round_name(number))
        gone = folder / f".{round_name(number)}.gone"
        try:
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)  # so that no half-removed folder looks like a damaged checkpoint
            shutil.rmtree(gone)
        except OSError as error:
            raise storage_error(path, error) from error


def ensure_writable(folder: Path) -> None:
    """Creates ``folder`` and writes, syncs and removes a small file there. Raises StorageError."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(probe, bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


def _independent(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, contiguous, no two on one storage: what the format can hold."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        storage = flat.untyped_storage().data_ptr()
        result[name] = flat.clone() if storage in seen else flat
        seen.add(storage)
    return result


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    again = "Give another checkpoint of the run (its last two rounds and the best are kept), or train again."
    try:
        state = json.loads((path / META_FILE).read_bytes())
        if not isinstance(state, dict) or not isinstance(state.get("format"), int):
            raise ValueError(f"{META_FILE} has no format number")
        if state["format"] > FORMAT:
            raise CheckpointError(
                f"{path} was written by a newer fedmm (checkpoint format {state['format']}, this one reads {FORMAT}).",
                "Upgrade fedmm.",
            )
        absent = {"sha256", "tensors", "meta"} - state.keys()
        if absent or not isinstance(state["meta"], dict):
            raise ValueError(f"{META_FILE} lacks {', '.join(sorted(absent)) or 'its meta table'}")
        content = (path / TENSORS_FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != state["sha256"]:
            raise ValueError(f"{TENSORS_FILE} ({len(content)} bytes) does not have the checksum noted in {META_FILE}")
        tensors = decode(content)
        return {name: tensors[name] for name in state["tensors"]}, state["meta"]
    except FileNotFoundError as error:
        missing = Path(error.filename).name if path.is_dir() else "the folder"
        raise CheckpointError(f"{path} is not a whole checkpoint: {missing} is missing.", again) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.", again) from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.", again) from error


def _find(path: Path, which: Literal["best", "last"], warn: Callable[[str], None] | None) -> Path:
    found = _existing(path)
    give = "Give the folder of a run, or one of its checkpoints."
    if not found.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.", give)
    if not found.is_dir():
        raise CheckpointError(f"{path} is a file, not a checkpoint folder.", give)
    if (found / META_FILE).exists() or (found / TENSORS_FILE).exists():
        return found
    for folder in (found / FOLDER, found):
        best = _existing(folder / BEST)
        if which == "best" and best.exists():
            return best
        newest = newest_checkpoint(folder, warn)
        if newest is not None:
            return newest
    raise CheckpointError(f"{path} holds no whole checkpoint.", give)


def _rounds(folder: Path) -> set[int]:
    """Numbers of the rounds that have a folder under any of a checkpoint's three names."""
    if not folder.is_dir():
        return set()
    names = set()
    for entry in folder.iterdir():
        leftover = _LEFTOVER.fullmatch(entry.name)
        if leftover is None:
            names.add(entry.name)
        elif leftover["kind"] != "gone" and _complete(entry):
            names.add(leftover["name"])
    return {int(match[1]) for match in map(_ROUND.fullmatch, names) if match}


def _existing(path: Path) -> Path:
    """``path``, or where a crash left it: the newer of its two stand-ins that is whole."""
    if not path.exists():
        for kind in ("new", "old"):
            stand_in = path.with_name(f".{path.name}.{kind}")
            if _complete(stand_in):
                return stand_in
    return path


def _complete(path: Path) -> bool:
    try:
        _read(path)
    except CheckpointError:
        return False
    return True


def _tidy(folder: Path) -> None:
    """Finishes or undoes what a crash left half-done. Raises OSError."""
    for entry in sorted(folder.iterdir()):
        leftover = _LEFTOVER.fullmatch(entry.name)
        if leftover is None or not entry.is_dir():
            continue
        final = folder / leftover["name"]
        if leftover["kind"] != "gone" and not final.exists():
            stand_in = _existing(final)
            if stand_in != final:
                stand_in.rename(final)
        if entry.exists() and {part.name for part in entry.iterdir()} <= {TENSORS_FILE, META_FILE}:
            shutil.rmtree(entry)
