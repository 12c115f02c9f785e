"""Compressed files: gzip, bzip2, zstandard, xz, and a zip archive with one file in it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
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
    inner = path
    for _ in range(MOST_LAYERS):
        kind = next((kind for begin, kind in _KINDS.items() if content.startswith(begin)), None)
        if kind is None:
            break
        if kind == "zip" and path.suffix.lower() in (".xlsx", ".xlsm", ".ods"):
            raise DataError(f"{path} is a workbook, no table of text.", "Save the sheet as CSV.")
        try:
            if kind == "zip":
                content, inner = _unzip(content, inner)
                continue
            content = _unpack(content, kind)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError, RuntimeError) as error:
            # RuntimeError: encrypted
            raise DataError(f"{path} is a damaged {kind} file ({error}).", "Pack or fetch it again.") from None
        inner = inner.with_suffix("") if inner.suffix.lower() in _ENDINGS else inner
    return content, inner


def is_packed(content: bytes) -> bool:
    """Whether the first bytes are those of a compressed file."""
    return content.startswith(tuple(_KINDS))


MOST_LAYERS = 4  # of packing
_KINDS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
_ENDINGS = (".gz", ".bz2", ".zst", ".xz", ".zip")


def _unpack(content: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.decompress(content)
    if kind == "bzip2":
        return bz2.decompress(content)
    if kind == "xz":
        return lzma.decompress(content)
    import pyarrow as pa

    with pa.input_stream(pa.BufferReader(content), compression="zstd") as stream:
        return bytes(stream.read())


def _unzip(content: bytes, path: Path) -> tuple[bytes, Path]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir() and "__MACOSX" not in entry.filename]
        if any(entry.filename.startswith("xl/") for entry in files):
            raise DataError(f"{path} is an Excel workbook, no table of text.", "Save the sheet as CSV.")
        if len(files) != 1:
            shown = ", ".join(entry.filename for entry in files[:4]) or "nothing"
            raise DataError(f"{path} holds {len(files)} files ({shown}).", "Unpack it and give one of them.")
        if files[0].file_size > LARGEST:
            raise DataError(f"{path} would unpack to {files[0].file_size:,} bytes.", "Unpack it yourself.")
        return archive.read(files[0]), path.with_name(Path(files[0].filename).name)
