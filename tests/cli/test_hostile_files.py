"""Malformed and hostile pictures and tables by the command line: each is masked and listed, refused or read, with no
traceback, and nothing outside the target is written (the whole tree is compared before and after)."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmm.config.registering import OwnEncoder
from fedmm.testing import registered
from worlds.encoder_world import corners, encoded, letters, mean_colour, tree

GOOD = encoded(corners())
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
EVENTS = "user,item,timestamp\n" + "".join(f"u{n % 7},i{n % 11},{1000 + n}\n" for n in range(77))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def slip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("../../evil.csv", "item_id,title\na,evil\n")
    return target.getvalue()


PICTURES = {  # file name -> content and a word of the reason that is listed
    "one.jpg": (encoded(NOISE, "JPEG")[:900], "damaged"),
    "two.jpg": (encoded(NOISE, "JPEG")[:20], "picture"),
    "three.webp": (encoded(NOISE, "WEBP")[:100], ""),
    "four.gif": (encoded(corners(), "GIF")[:30], ""),
    "five.tif": (encoded(corners(), "TIFF")[:60], ""),
    "text.png": (b"this is no picture", "no picture of a known kind"),
    "page.jpg": (b"<!doctype html><script>alert(1)</script>", "no picture of a known kind"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture of a known kind"),
    "archive.png": (slip(), "no picture of a known kind"),
    "empty.png": (b"", "empty"),
    "zeros.bmp": (bytes(400), "no picture of a known kind"),
    "bomb.png": (png(60_000, 60_000), "pixels"),
    "bomb2.png": (png(20_000, 5_000, bytes(600_000)), "pixels"),
    "wide.png": (png(2**31 - 1, 1), "pixels"),
    "nothing.png": (png(0, 5), ""),
    "half.png": (png(40, 40, bytes(100)), "damaged"),
    "crc.png": (GOOD[:40] + b"\0\0" + GOOD[42:], ""),
    "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", "no picture of a known kind"),
    "pickle.png": (b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix", "no picture of a known kind"),
}
TABLES = {  # of texts; name -> content; all are read or refused
    "formula.csv": "item_id,title\ni1,=HYPERLINK(\"http://x\"; \"y\")\ni2,@SUM(A1)\ni3,+1+cmd|' /C calc'!A0\n",
    "two columns of one name.csv": "item_id,title,title\ni1,a,b\ni2,c,d\n",
    "two ids.csv": "item_id,title\ni1,a\ni1,b\ni2,c\n",
    "ragged.csv": "item_id,title\ni1,a\ni2\ni3,b,c,d\n",
    "open quote.csv": 'item_id,title\ni1,"a\ni2,b\n',
    "numbers.csv": "item_id,price\ni1,3\ni2,4\n",
    "no id.csv": "name,title\nx,a\ny,b\n",
    "header.csv": "item_id,title\n",
    "nothing.csv": "",
    "zeros.csv": b"item_id,title\ni1,a\0b\n",
    "other signs.csv": "item_id,title\ni1,caf\xe9\n".encode("latin-1"),
    "slip.zip": slip(),
    "deep.json": "[" * 100_000,
    "list.json": "[1, 2, 3]",
    "markup.csv": "item_id,title\ni1,<script>alert(1)</script>\ni2,{{7*7}}\n",
    "long.csv": f"item_id,title\ni1,{'word ' * 50_000}\ni2,b\n",
}  # fmt: skip
PATHS = {  # of pictures; what the second column says of item i1
    "up": "../secret.png",
    "up within": "pictures/../../secret.png",
    "absolute": "/etc/hostname",
    "address": "http://example.org/a.png",
    "file address": "file:///etc/hostname",
    "nothing": "nowhere.png",
    "folder": "pictures",
    "zero": "a\0b.png",
    "link": "pictures/link.png",
    "long": "x" * 5000,
    "formula": "=cmd|' /C calc'!A0",
    "device": "/dev/zero",
}
ROWS = {  # of events, for fedmm data convert
    "two times.csv": "user,item,timestamp\nu,i,1500000000\nu,j,2017-07-14T02:40:00Z\n",
    "two columns.csv": "user,item,item\nu,i,j\n",
    "formula.csv": "user,item,timestamp\n=1+1,@x,3\n=1+1,y,4\n=1+1,z,5\n",
    "slip.zip": slip(),
}


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """secret.png and events.csv outside, an empty folder ``out``; nothing is kept, encoders cost nothing."""
    monkeypatch.setenv("FEDMM_PREPARED_GB", "0")
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(corners().rotate(90)))
    (tmp_path / "events.csv").write_text(EVENTS)
    with (
        registered("image_encoder", "one_colour", OwnEncoder(mean_colour, "mine")),
        registered("text_encoder", "one_letter", OwnEncoder(letters, "mine")),
    ):
        yield tmp_path


def features(run, *arguments: str):
    own = ("--set", "data.image_encoder=one_colour", "--set", "data.text_encoder=one_letter")
    return run("data", "features", *arguments, *own, "--output", "out/f.npz", "--quiet", "--json")


def outside(folder: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in tree(folder).items() if not name.startswith("out/")}


def checked(ended, before: dict[str, bytes | None], folder: Path) -> dict[str, object]:
    assert outside(folder) == before
    assert "Traceback" not in ended.stderr
    found = json.loads(ended.stdout)
    assert ended.code == (2 if found.get("status") == "failed" else 0)
    if ended.code:
        assert found["error"]["message"]
        assert found["error"]["remedy"]
        assert not list((folder / "out").iterdir()), "a refusal left something behind"
    return found


def test_pictures_that_are_none_are_masked_and_listed(run, yard: Path) -> None:
    for name, (content, _) in PICTURES.items():
        (yard / "in" / name).write_bytes(content)
    for number in range(3):
        (yard / "in" / f"good{number}.png").write_bytes(encoded(corners().rotate(90 * number)))
    (yard / "in" / "folder.png").mkdir()
    (yard / "in" / "link.png").symlink_to("../secret.png")
    (yard / "in" / "loop.png").symlink_to("loop.png")
    (yard / "in" / "dead.png").symlink_to("nowhere.png")
    (yard / "in" / "device.png").symlink_to("/dev/zero")
    os.mkfifo(yard / "in" / "pipe.png")
    before = outside(yard)
    found = checked(features(run, "--images", "in"), before, yard)
    listed = [json.loads(line) for line in (yard / "out" / "f.npz.missing.jsonl").read_text().splitlines()]
    told = " ".join(map(str, listed))
    for name, (_, words) in PICTURES.items():
        (own,) = (entry for entry in listed if entry["item"] == Path(name).stem)
        assert words in str(own)
    for name in ("folder.png", "link.png", "loop.png", "dead.png", "device.png", "pipe.png"):
        assert name in told
    assert len(np.load(yard / "out" / "f.npz")["item_id"]) == len(found["missing"]) + 3


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_texts(name: str, run, yard: Path) -> None:
    content = TABLES[name]
    (yard / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = outside(yard)
    checked(features(run, "--texts", f"in/{name}"), before, yard)


@pytest.mark.parametrize("kind", PATHS)
def test_paths_in_a_table_of_pictures(kind: str, run, yard: Path) -> None:
    """Whatever is outside the table's folder is not opened; the other items are read."""
    (yard / "in" / "pictures").mkdir()
    for number in range(2, 5):
        (yard / "in" / "pictures" / f"{number}.png").write_bytes(encoded(corners().rotate(90 * number)))
    (yard / "in" / "pictures" / "link.png").symlink_to(yard / "secret.png")
    rows = [("i1", PATHS[kind]), *((f"i{n}", f"pictures/{n}.png") for n in range(2, 5))]
    lines = "".join(json.dumps({"item_id": item, "path": path}) + "\n" for item, path in rows)
    (yard / "in" / "t.jsonl").write_text(lines)
    before = outside(yard)
    found = checked(features(run, "--images", "in/t.jsonl"), before, yard)
    assert "i1" in json.dumps(found["missing"])
    kept = np.load(yard / "out" / "f.npz")
    assert dict(zip(kept["item_id"].tolist(), kept["visual_present"].tolist(), strict=True))["i1"] is False


@pytest.mark.parametrize("name", ROWS)
def test_tables_of_events(name: str, run, yard: Path) -> None:
    content = ROWS[name]
    (yard / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = outside(yard)
    checked(run("data", "convert", "--data", f"in/{name}", "--output", "out/f.parquet", "--json"), before, yard)
