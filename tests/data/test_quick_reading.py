"""Large plain files are read in pieces by several threads, and everything else as a whole: the interactions are those
of the slow path, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, interactions_digest, prepare
from fedmm.data.readers import quick, read_interactions
from fedmm.errors import DataError
from worlds.former_reading import former_preparation, former_reading


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large, and has many pieces."""
    monkeypatch.setattr(quick, "SMALLEST", 0)
    monkeypatch.setattr(quick, "PIECE_BYTES", 64)


def rows_of(raw: RawInteractions) -> list[tuple[str, str, float]]:
    times = np.zeros(len(raw)) if raw.timestamps is None else raw.timestamps
    return list(zip(raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist(), times.tolist(), strict=True))


def quickly(path: Path, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> RawInteractions:
    """As ``read_interactions``, where that must not read the file as a whole."""
    with monkeypatch.context() as patch:
        patch.setattr("fedmm.data.readers._content", refuse)
        return read_interactions(path, config)


def refuse(path: Path) -> bytes:
    raise AssertionError(f"{path} was read as a whole")


EVENT = st.tuples(st.integers(0, 99_999_999), st.integers(0, 40), st.sampled_from(["1", "5", "2.5"]), st.integers(0, 9))
FORMS = {
    ",": "user,item,rating,timestamp\n",
    "\t": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
    ";": '"user";"item";"rating";"timestamp"\n',
    "|": "",
}
MORE = {"repeats": st.sampled_from(["first", "last", "keep"]), "tie_order": st.sampled_from(["hash", "file"])}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(EVENT, min_size=1, max_size=60),
    delimiter=st.sampled_from(list(FORMS)),
    end=st.booleans(),
    minima=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    more=st.fixed_dictionaries(MORE),
    rating=st.sampled_from([None, 2.0]),
)
def test_plain_files_come_to_what_the_slow_path_makes_of_them(
    events: list[tuple[int, int, str, int]],
    delimiter: str,
    end: bool,
    minima: tuple[int, int],
    more: dict[str, str],
    rating: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [
        delimiter.join(map(str, (1000 + user % 7, item, score, 10**9 + time))) for user, item, score, time in events
    ]
    path = tmp_path / "plain.csv"
    path.write_text(FORMS[delimiter] + "\n".join(lines) + "\n" * end)
    limits = {"min_user_interactions": minima[0], "min_item_interactions": minima[1], "min_rating": rating}
    config = DataConfig.model_validate({"path": path, **more, **limits})
    raw, slow = quickly(path, config, monkeypatch), former_reading(path, config)
    assert raw.user_ids.tolist() == slow.user_ids.tolist()
    assert raw.item_ids.tolist() == slow.item_ids.tolist()
    assert rows_of(raw) == rows_of(slow)
    try:
        found = prepare(raw, config)[0]
    except DataError:
        return
    assert interactions_digest(found) == interactions_digest(former_preparation(slow, config))


HEAD = "user,item,timestamp\n"
PLAIN = "".join(f"{n % 7},{n % 5},{1000 + n}\n" for n in range(40))
ODD = {
    "007,3,5\n": ("007", "3"),  # another id than 7
    "+7,3,5\n": ("+7", "3"),
    " 7,3,5\n": ("7", "3"),
    "-7,3,5\n": ("-7", "3"),
    "12345678901234567890,3,5\n": ("12345678901234567890", "3"),
    "2147483648,3,5\n": ("2147483648", "3"),
    "seven,3,5\n": ("seven", "3"),
    '"7",3,5\n': ("7", "3"),
    "7,3,5\r\n": ("7", "3"),
    "\n7,3,5\n": ("7", "3"),
    "sieben\u00e4,3,5\n": ("sieben\u00e4", "3"),
    "7,2000000000,5\n": ("7", "2000000000"),  # far from the others
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 40])
def test_what_is_not_plain_is_read_as_a_whole(odd: str, place: int, tmp_path: Path) -> None:
    lines = PLAIN.splitlines(keepends=True)
    path = tmp_path / "odd.csv"
    path.write_bytes((HEAD + "".join([*lines[:place], odd, *lines[place:]])).encode())
    raw = read_interactions(path, DataConfig(path=path))
    assert len(raw) == 41
    assert rows_of(raw)[place] == (*ODD[odd], 5.0)


@pytest.mark.parametrize("odd", ["7,3\n", "7,,5\n", "7,3,x\n", "7,3,inf\n", "7,3,5,9\n", "7\0,3,5\n", "7,3,\n"])
def test_what_is_wrong_is_told_with_its_line(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(HEAD + PLAIN + odd)
    with pytest.raises(DataError, match="line 42"):
        read_interactions(path, DataConfig(path=path))


NAMES = st.text("AB01_-.xyz~é", min_size=1, max_size=4) | st.sampled_from(
    ["0000031852", "1.0", "NA", "nan", "1E+5", "7"]
)
NAMED = st.tuples(NAMES, NAMES, st.integers(1, 5), st.integers(0, 9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(NAMED, min_size=1, max_size=60), delimiter=st.sampled_from([",", "\t", ";"]))
def test_texts_for_ids_are_those_of_the_slow_path(
    events: list[tuple[str, str, int, int]], delimiter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "named.txt"
    rows = [("user", "item", "rating", "timestamp"), *events]
    quote = '"' if delimiter != "\t" and len(events) % 2 else ""
    lines = (delimiter.join((f"{quote}{u}{quote}", f"{quote}{i}{quote}", str(r), str(t))) for u, i, r, t in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found: list[object] = []
    for smallest in (0, 1 << 60):
        with monkeypatch.context() as patch:
            patch.setattr(quick, "SMALLEST", smallest)
            try:
                raw = read_interactions(path, DataConfig(path=path))
                found.append((rows_of(raw), raw.user_ids.tolist(), raw.item_ids.tolist(), raw.notes))
            except DataError as error:
                found.append(str(error))
    assert found[0] == found[1]


def test_plain_texts_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's ids, whole numbers that texts follow, and numbers of more digits than 32 bits hold."""
    path = tmp_path / "named.csv"
    users = [f"A{n % 17:03d}XQ" for n in range(200)]
    items = [*(str(n) for n in range(150)), *("0000031852", "B00", "98765432109876543210") * 17][:200]
    path.write_text(HEAD + "".join(f"{u},{i},{n}\n" for n, (u, i) in enumerate(zip(users, items, strict=True))))
    raw = quickly(path, DataConfig(path=path), monkeypatch)
    assert raw.user_ids[raw.users].tolist() == users
    assert raw.item_ids[raw.items].tolist() == items
    assert raw.item_ids.tolist() == list(dict.fromkeys(items))


def test_files_end_to_end_are_not_plain(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    rows = "".join(f"u{n % 5},i{n % 7}\n" for n in range(40))
    path.write_text(("user,item\n" + rows) * 2)
    raw = read_interactions(path, DataConfig(path=path))
    assert len(raw) == 80
    assert "user" not in raw.user_ids.tolist()
