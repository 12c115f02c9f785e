"""Pictures out of files that may be anything: upright RGB, or one line on why there is none."""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, would start programs
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MOST_PIXELS = 80_000_000  # 240 MB as RGB
MOST_BYTES = 256_000_000  # of a file


class UnreadableError(Exception):
    """What a file holds cannot be understood; the text is the reason, in a few words."""


def picture_bytes(path: Path) -> bytes:
    """The content of a picture's file. Raises UnreadableError for what is no ordinary file, empty or too large."""
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise UnreadableError("a folder")
        if not stat.S_ISREG(about.st_mode):
            raise UnreadableError("no ordinary file")
        if about.st_size > MOST_BYTES:
            raise UnreadableError(f"a file of {about.st_size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableError("not there") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UnreadableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not content:
        raise UnreadableError("an empty file")
    return content


def open_picture(content: bytes) -> Any:
    """The picture in a file's ``content``, as an RGB ``PIL.Image``: turned as its EXIF data say, the first of several
    frames, what is transparent on white, 16 bits brought to 8, CMYK and grey turned to RGB.

    Raises UnreadableError for what is none, is damaged or has more than ``MOST_PIXELS``.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; its limit of pixels is above ours
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MOST_PIXELS:
                    raise UnreadableError(f"{width:,} x {height:,} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
                opened.seek(0)
                opened.load()
                return _rgb(ImageOps.exif_transpose(opened))
        except UnreadableError:
            raise
        except UnidentifiedImageError:
            raise UnreadableError("no picture of a known kind") from None
        except Image.DecompressionBombError:
            raise UnreadableError(f"more than {MOST_PIXELS / 1e6:.0f} million pixels") from None
        except Exception as error:  # a damaged file can end a decoder in any way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:100].rstrip(".")
            raise UnreadableError(f"damaged ({reason})") from None


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Any) -> Any:
    """Grey of more than 8 bits: 16 are told by their type or a value above 255; floats within 0 to 1 are shares."""
    from PIL import Image

    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise UnreadableError("values that are no numbers")
    top = values.max()
    if picture.mode == "F":
        most = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    else:
        most = 65535.0 if picture.mode.startswith("I;") or top > 255 else 255.0
    return Image.fromarray(np.clip(np.rint(values * (255.0 / most)), 0, 255).astype(np.uint8))
