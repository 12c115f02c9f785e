"""Pictures that a user has of items: files of one folder, called by item id."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedmm.errors import ConfigError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MOST_BYTES = 2_000_000  # of one file that is read
MOST_INLINE = 300_000  # of one file that becomes a part of a page
BEGINNINGS = {
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}


class Picture(NamedTuple):
    """One file: what it is, by its first bytes, and its content."""

    media_type: str
    content: bytes

    @property
    def uri(self) -> str:
        """The whole picture as an address."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a folder, as it was when it was read; folders in it are not looked into.

    An item's picture is a file named by its id and an ending of ``ENDINGS``. Ids are looked up among the names that the
    folder has and never made into paths, and a link that leads out of the folder is no picture.
    """

    folder: Path
    files: Mapping[str, Path]  # by item id

    @classmethod
    def of(cls, folder: Path) -> Pictures:
        """Reads the names. Raises ConfigError where ``folder`` is none, or holds no picture.

        >>> Pictures.of(Path("no such folder"))
        Traceback (most recent call last):
        fedmm.errors.ConfigError: --pictures no such folder is no folder.
        """
        try:
            found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        except OSError:
            raise ConfigError(
                f"--pictures {folder} is no folder.", "Give a folder of files named by item id."
            ) from None
        home = folder.resolve()
        files = {path.stem: path for path in found if path.resolve().parent == home and path.is_file()}
        if not files:
            endings = ", ".join(ENDINGS)
            raise ConfigError(
                f"--pictures {folder} holds no picture.", f"Name files by item id, with one of {endings}."
            )
        return cls(folder, files)

    def path(self, item_id: str) -> Path | None:
        """The file of an item; None where there is none."""
        return self.files.get(item_id)

    def read(self, item_id: str, most_bytes: int = MOST_BYTES) -> Picture | None:
        """The picture of an item; None where there is none, it is larger than ``most_bytes``, gone or no picture."""
        path = self.files.get(item_id)
        try:
            if path is None or path.stat().st_size > most_bytes:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        kinds = (kind for kind, heads in BEGINNINGS.items() if content.startswith(heads))
        kind = next(kinds, None)
        if kind is None or (kind == "image/webp" and content[8:12] != b"WEBP"):
            return None
        return Picture(kind, content)
