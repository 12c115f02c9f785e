"""Compressed files: gzip, bzip2, zstandard, and a zip archive with one file in it."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from pathlib import Path

from fedmm.errors import DataError

LARGEST = 1 << 35  # bytes: what unpacks to more is no file of interactions


def unpack(content: bytes, path: Path) -> tuple[bytes, Path]:
    """The content that is packed in ``content``, told by its first bytes, and the path without the packing's ending;
    both as they are where nothing is packed.

    Raises DataError for what is damaged, and for an archive with several files.
    """
    kind = next((kind for begin, kind in _KINDS.items() if content.startswith(begin)), None)
    if kind is None:
        return content, path
    try:
        if kind == "zip":
            return _unzip(content, path)
        found = _unpack(content, kind)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, ValueError) as error:
        raise DataError(f"{path} is a damaged {kind} file ({error}).", "Pack or fetch it again.") from None
    return found, path.with_suffix("") if path.suffix.lower() in _ENDINGS else path


def is_packed(content: bytes) -> bool:
    """Whether the first bytes are those of a compressed file."""
    return content.startswith(tuple(_KINDS))


_KINDS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstandard", b"PK\x03\x04": "zip"}
_ENDINGS = (".gz", ".bz2", ".zst", ".zip")


def _unpack(content: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.decompress(content)
    if kind == "bzip2":
        return bz2.decompress(content)
    import pyarrow as pa

    with pa.input_stream(pa.BufferReader(content), compression="zstd") as stream:
        return bytes(stream.read())


def _unzip(content: bytes, path: Path) -> tuple[bytes, Path]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir() and "__MACOSX" not in entry.filename]
        if len(files) != 1:
            shown = ", ".join(entry.filename for entry in files[:4]) or "nothing"
            raise DataError(f"{path} holds {len(files)} files ({shown}).", "Unpack it and give one of them.")
        if files[0].file_size > LARGEST:
            raise DataError(f"{path} would unpack to {files[0].file_size:,} bytes.", "Unpack it yourself.")
        return archive.read(files[0]), path.with_name(Path(files[0].filename).name)
