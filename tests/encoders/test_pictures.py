"""Pictures out of files: the right reading of what is odd, a reason for what is none."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fedmm.encoders import pictures
from fedmm.encoders.pictures import UnreadableError, open_picture, picture_bytes
from worlds.encoder_world import corners, encoded

QUARTERS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """The colour in the middle of each quarter."""
    width, height = image.size
    return [image.getpixel((width * x // 4, height * y // 4)) for y in (1, 3) for x in (1, 3)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_kind_is_read_as_rgb(kind):
    found = open_picture(encoded(corners(side=32), kind))
    assert found.mode == "RGB"
    np.testing.assert_allclose(quarters(found), QUARTERS, atol=40)  # JPEG and WebP lose some


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture_upright(turn):
    """Pillow's transpositions are undone by what EXIF says of them."""
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[turn]  # fmt: skip
    stored = corners() if undo is None else corners().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = turn
    assert quarters(open_picture(encoded(stored, exif=exif))) == QUARTERS


def test_transparency_becomes_white_in_every_mode():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert quarters(open_picture(encoded(clear))) == [(255, 255, 255)] * 4
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert quarters(open_picture(encoded(half)))[0] == (127, 127, 127)
    assert quarters(open_picture(encoded(Image.new("LA", (4, 4), (0, 0)))))[0] == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert quarters(open_picture(encoded(palette, transparency=0)))[0] == (255, 255, 255)
    assert quarters(open_picture(encoded(palette)))[0] == (200, 0, 0)


def test_grey_black_and_white_and_cmyk():
    assert quarters(open_picture(encoded(Image.new("L", (4, 4), 100))))[0] == (100, 100, 100)
    assert quarters(open_picture(encoded(Image.new("1", (4, 4), 1))))[0] == (255, 255, 255)
    found = open_picture(encoded(corners("CMYK", 32), "JPEG"))
    np.testing.assert_allclose(quarters(found), QUARTERS, atol=40)


@pytest.mark.parametrize("value", [0, 257, 32896, 65535])
def test_sixteen_bits_are_brought_to_eight(value):
    deep = Image.fromarray(np.full((4, 4), value, np.uint16))
    for kind in ("PNG", "TIFF"):
        assert quarters(open_picture(encoded(deep, kind)))[0] == (round(value / 257),) * 3


@pytest.mark.parametrize(("value", "read"), [(0.0, 0), (0.5, 128), (1.0, 255), (200.0, 200), (65535.0, 255)])
def test_floats_are_shares_or_bytes_or_words(value, read):
    grey = Image.fromarray(np.full((4, 4), value, np.float32))
    assert quarters(open_picture(encoded(grey, "TIFF")))[0] == (read,) * 3


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(quarters(open_picture(moving))[0], (255, 0, 0), atol=6)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it has so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


JPEG = encoded(corners(side=64), "JPEG")
PNG = encoded(corners(side=64))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (JPEG[: len(JPEG) // 2], "damaged"),
        (PNG[: len(PNG) - 30], "damaged"),
        (PNG[:40] + b"\xff" * 20 + PNG[60:], "damaged|no picture of a known kind"),
        (b"these are words", "no picture of a known kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", "no picture of a known kind"),
        (b"\0" * 1000, "no picture of a known kind"),
        (b"\xff\xd8\xff", "no picture of a known kind|damaged"),
        (png_of_size(50_000, 50_000), "more than 80 million"),
        (png_of_size(9_500, 9_500), "9,500 x 9,500 pixels, more than 80 million"),
        (png_of_size(0, 5), "no picture|damaged"),
        (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "no numbers"),
    ],
)
def test_what_is_no_picture_has_a_reason(content, reason):
    with pytest.raises(UnreadableError, match=reason):
        open_picture(content)


def test_what_is_no_file_has_a_reason(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "ring.jpg").symlink_to(tmp_path / "ring.jpg")
    (tmp_path / "large.jpg").write_bytes(b"12345")
    for name, reason in {
        "empty.jpg": "an empty file", "folder.jpg": "a folder", "pipe.jpg": "no ordinary file",
        "ring.jpg": "cannot be read", "none.jpg": "not there", "a\0b.jpg": "cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(UnreadableError, match=reason):
            picture_bytes(tmp_path / name)
    monkeypatch.setattr(pictures, "MOST_BYTES", 4)
    with pytest.raises(UnreadableError, match="more than"):
        picture_bytes(tmp_path / "large.jpg")
