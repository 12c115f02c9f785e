"""Interactions in shapes that are no table of rows, signs of another width, ids that only look alike: named for what
they are, read, or told of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmm.config import DataConfig
from fedmm.data.doubts import doubts_of
from fedmm.data.readers import read_interactions
from fedmm.data.readers.kinds import wide_encoding
from fedmm.errors import DataError

EVENTS = [(f"u{a}", f"i{(3 * a + 7 * b) % 13}", 1_500_000_000 + 100 * b + a) for a in range(6) for b in range(5)]


def rows(form: Callable[[str, str, int], str], head: str = "") -> str:
    return head + "".join(form(*event) + "\n" for event in EVENTS)


BASE = rows(lambda u, i, t: f"{u},{i},{t}", "user,item,timestamp\n")
BOX, NAMES = "+------+------+------+\n", "| user | item | time |\n"
TABLE = "create table events (u text, i text, t integer);\n"
ARFF = "% made by Weka\n@relation x\n@attribute user string\n@data\n"
MATRIX = "%%MatrixMarket matrix coordinate real general\n6 13 30\n"

REFUSED = {  # name -> content, what the error says, what the remedy says
    "a dump.sql": (rows(lambda u, i, t: f"INSERT INTO e VALUES ('{u}','{i}',{t});"), "an SQL dump", "--sql"),
    "a dump of tables.sql": (f"-- dumped\n\n{TABLE}", "an SQL dump", "--sql"),
    "a list.yaml": (rows(lambda u, i, t: f"- user: {u}\n  item: {i}\n  timestamp: {t}"), "is YAML", "CSV"),
    "a document.yaml": ("---\n- user: u\n  item: i\n", "is YAML", "CSV"),
    "a matrix.mtx": (MATRIX + "1 1 1\n", "a MatrixMarket file", "row as user"),
    "Weka.arff": (rows(lambda u, i, t: f"{u},{i}", ARFF), "an ARFF file", "@data"),
    "MySQL.txt": (rows(lambda u, i, t: f"| {u} | {i} | {t} |", BOX + NAMES + BOX) + BOX, "drawn by", "CSV"),
    "PostgreSQL.txt": (
        rows(lambda u, i, t: f" {u} | {i} | {t}", " user | item | time \n------+------+------\n"),
        "drawn by a database's", "--csv",
    ),
    "Netflix.txt": ("1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n885013,4,2005-10-19\n", "Netflix", "one line"),
    "access.log": (
        rows(lambda u, i, t: f'127.0.0.1 - {u} [06/Apr/2012:07:03:00 +0200] "GET /{i} HTTP/1.1" 200 12'),
        "a web server's log", "as CSV",
    ),
    "vectors.txt": ("1 1:0.5 3:1.0\n0 2:0.5 7:1e-3\n", "LIBSVM", "CSV"),
    "pairs.txt": (rows(lambda u, i, t: f"user={u} item={i} timestamp={t}"), "name=value", "CSV"),
    "events within.jsonl": (
        rows(lambda u, i, t: json.dumps({"event": {"user": u, "item": i, "timestamp": t}})),
        r"lies within its 'event' \(user, item, timestamp\)", "jq -c .event",
    ),
    "features.json": (
        json.dumps({"type": "F", "features": [{"type": "f", "properties": {"user": "u", "item": "i"}}] * 2}),
        "lies within its 'properties'", "flat object",
    ),
    "truth.jsonl": (rows(lambda u, i, t: json.dumps({"user_id": True, "item": i})), "'user_id' is true or", "another"),
    "a field twice.jsonl": (rows(lambda u, i, t: f'{{"user": "{u}", "item": 1, "item": 2}}'), "'item' twice", "one"),
    "a table of a page.csv": ("<table><tr><td>user</td></tr></table>", "a web page", "fetch"),
    "UTF-16 without a mark.csv": (BASE.encode("utf-16-le"), "is utf-16-le text", "data.encoding=utf-16-le"),
    "UTF-16 turned.csv": (BASE.encode("utf-16-be"), "is utf-16-be text", "data.encoding=utf-16-be"),
    "UTF-32 without a mark.csv": (BASE.encode("utf-32-le"), "is utf-32-le text", "data.encoding=utf-32-le"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_shape_is_named_and_has_its_remedy(name: str, tmp_path: Path) -> None:
    content, words, remedy = REFUSED[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words) as caught:
        read_interactions(tmp_path / name, DataConfig())
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-32-be", "utf-16-le"])
def test_signs_of_any_width_are_read_once_they_are_told(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(BASE.encode(encoding))
    config = DataConfig() if encoding in ("utf-16", "utf-32") else DataConfig(encoding=encoding)
    raw = read_interactions(tmp_path / "own.csv", config)
    assert (len(raw), raw.user_ids.tolist()) == (30, [f"u{n}" for n in range(6)])


def test_zero_bytes_alone_are_no_wide_text() -> None:
    assert wide_encoding(b"a,b\n1,2\n\0\0\0\0") is None
    assert wide_encoding(bytes(64)) is None
    assert wide_encoding(b"") is None


ALIKE = {
    "composed and not": (lambda n, u: ("e\u0301" if n % 2 else "\u00e9") + u, "Unicode NFC and NFD"),
    "single quotes": (lambda n, u: f"'{u}'", "read with its quotes ('u0')"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_ids_that_only_look_alike_are_told(name: str, tmp_path: Path) -> None:
    form, words = ALIKE[name]
    text = "".join(f"{form(n, u)},{i},{t}\n" for n, (u, i, t) in enumerate(EVENTS))
    (tmp_path / "own.csv").write_text("user,item,timestamp\n" + text, encoding="utf-8")
    notes = doubts_of(read_interactions(tmp_path / "own.csv", DataConfig()))
    assert any(words in note for note in notes), notes


def test_marks_of_direction_around_an_id_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(BASE.replace("u1,", "\u202eu1\u200f,", 2), encoding="utf-8")
    assert read_interactions(tmp_path / "own.csv", DataConfig()).user_ids.tolist() == [f"u{n}" for n in range(6)]


@pytest.mark.parametrize("form", ["end to end", "over lines", "commas", "one a line"])
def test_objects_however_they_stand_are_rows(form: str, tmp_path: Path) -> None:
    objects = [json.dumps({"user": u, "item": i, "timestamp": t}, indent=1 if form == "over lines" else None)
               for u, i, t in EVENTS]  # fmt: skip
    (tmp_path / "own.json").write_text(
        "\n" * (form != "one a line") + {"end to end": "", "commas": ",\n"}.get(form, "\n").join(objects)
    )
    raw = read_interactions(tmp_path / "own.json", DataConfig())
    assert raw.timestamps is not None
    assert list(zip(raw.user_ids[raw.users], raw.item_ids[raw.items], raw.timestamps, strict=True)) == EVENTS
    assert ("end to end" in raw.notes[0]) == (form != "one a line")


def test_objects_that_break_off_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text('{"user": 1,\n"item": 2}\n{"user": 1')
    with pytest.raises(DataError, match="not JSON"):
        read_interactions(tmp_path / "own.json", DataConfig())


def test_ratings_that_are_moments_beside_times_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(rows(lambda u, i, t: f"{u},{i},{t},{t % 5 + 1}", "user,item,rating,timestamp\n"))
    raw = read_interactions(tmp_path / "own.csv", DataConfig())
    with pytest.raises(DataError, match=r"ratings are moments \(such as 1500000000\)"):
        doubts_of(raw)
    assert not doubts_of(replace(raw, timestamps=raw.ratings))
    assert not doubts_of(replace(raw, ratings=raw.timestamps))
    assert not doubts_of(replace(raw, ratings=np.full(len(raw), np.nan)))


def test_times_too_large_to_be_told_apart_are_told(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(rows(lambda u, i, t: f"{u},{i},{10**20 + t}", "user,item,timestamp\n"))
    (note,) = doubts_of(read_interactions(tmp_path / "own.csv", DataConfig()))
    assert "no moments in any unit" in note
