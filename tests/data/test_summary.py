"""What a person is shown of data: first rows, histograms, ties, doubts; and the understood rows as Parquet."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.converting import write_parquet
from fedmm.data.datasets import load_dataset
from fedmm.data.periods import MOST, time_histogram
from fedmm.data.readers import sniffing
from fedmm.data.readers.first_rows import first_rows
from fedmm.data.summary import EDGES, histogram, summary_of
from fedmm.errors import ConfigError, DataError
from fedmm_cli.app import main
from worlds.page_checks import check_page

ROWS = [(f"u{n % 5}", f"i{n % 7}", n % 3 + 1, 1_000_000_000 + 60 * (n // 2)) for n in range(60)]
CSV = "user,item,rating,timestamp,seen_at\n" + "".join(f"{u},{i},{r},{t},{t}\n" for u, i, r, t in ROWS)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    return path


@given(values=st.lists(st.integers(1, 200_000), min_size=1))
def test_a_histogram_counts_everybody_once(values: list[int]) -> None:
    found = histogram(np.array(values))
    assert sum(number for _, number in found) == len(values)
    for label, number in found:
        low = int(label.rstrip("+").split("-")[0])
        ends = (*EDGES, 10**9)
        high = ends[EDGES.index(low) + 1]
        assert number == sum(low <= value < high for value in values)


@pytest.mark.parametrize("kind", ["large csv", "csv", "gzip", "json lines", "array", "parquet"])
def test_the_first_rows_are_those_of_the_file(
    kind: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own
    names = ("user", "item", "rating", "timestamp")
    objects = [dict(zip(names, row, strict=True)) for row in ROWS]
    if kind in ("large csv", "array"):
        monkeypatch.setattr("fedmm.data.readers.first_rows.SAMPLE_BYTES", 400)
    if kind == "gzip":
        path = tmp_path / "own.csv.gz"
        path.write_bytes(gzip.compress(CSV.encode()))
    if kind == "json lines":
        path = tmp_path / "own.jsonl"
        path.write_text("\n".join(map(json.dumps, objects)))
    if kind == "array":
        path = tmp_path / "own.json"
        path.write_text(json.dumps(objects, indent=1))
    if kind == "parquet":
        path = tmp_path / "own.parquet"
        assert write_parquet(DataConfig(path=own), path) == 60
    assert first_rows(path, DataConfig(path=path)) == objects[:5]
    assert len(CSV) < sniffing.SAMPLE_BYTES


def test_the_summary_says_what_is_there(own: Path) -> None:
    dataset = load_dataset(DataConfig(path=own, repeats="keep"))
    found = summary_of(dataset, dataset.notes)
    assert found["history_length"] == {"least": 12, "median": 12.0, "most": 12, "histogram": [["10-19", 5]]}
    assert found["time"]["first"] == "2001-09-09 01:46"
    assert found["time"]["tied"] == 0.0
    assert any("seen_at" in note for note in found["doubtful"])
    assert any("repeated" in note for note in found["dropped"])
    tied = load_dataset(DataConfig(path=own, repeats="keep", where="user == 'u1'"))
    assert summary_of(tied, ["no timestamps: the order"])["time"]["first"] is None


def test_the_command_and_its_page(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["data", "describe", "--data", str(own), "--html", str(page)]) == 0
    screen = capsys.readouterr().out
    for words in ("user (as read)", "u0", "2001-09-09 01:46", "history", "5-9", "defaults", "seen_at", "repeated"):
        assert words in screen
    check_page(page.read_text())
    assert main(["data", "describe", "--data", str(own), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["first_rows"][0] == {"user": "u0", "item": "i0", "rating": 1.0, "timestamp": 1e9}
    assert facts["chosen"]["federation.recipe"] in ("standard", "sparse")


def test_what_is_converted_reads_as_before(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made.parquet"
    assert main(["data", "convert", "--data", str(own), "--output", str(made)]) == 0
    assert "60 rows" in capsys.readouterr().out
    assert pq.read_table(made).column_names == ["user", "item", "rating", "timestamp"]
    assert load_dataset(DataConfig(path=made)).digest == load_dataset(DataConfig(path=own)).digest
    with pytest.raises(ConfigError, match=r"no \.parquet file"):
        write_parquet(DataConfig(path=own), tmp_path / "made.csv")
    assert main(["data", "convert", "--output", str(made)]) == 2
    own.write_text("user,item\n")
    with pytest.raises(DataError, match="no rows"):
        write_parquet(DataConfig(path=own), made)


STARTS = np.array([0.0, 3_600.0, 86_400.0, 40 * 86_400.0, 800 * 86_400.0, 20_000 * 86_400.0])


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
@given(begin=st.integers(10**8, 2 * 10**9), span=st.sampled_from(STARTS[1:].tolist()), shares=st.lists(st.floats(0, 1)))
def test_periods_hold_all_events_once_and_are_few(unit: float, begin: int, span: float, shares: list[float]) -> None:
    times = np.array([begin, begin + span, *(begin + span * share for share in shares)]) * unit
    found = time_histogram(times, unit)
    assert sum(number for _, number in found) == len(times)
    assert 1 < len(found) <= MOST or span == 3_600.0
    names = [name for name, _ in found]
    assert names == sorted(set(names))
    first = datetime.fromtimestamp(begin, UTC)
    assert names[0][:4] <= f"{first.year}" <= names[0].rpartition("-")[2] or names[0].startswith(f"{first:%Y}")


def test_times_that_are_no_dates_lie_in_groups_of_one_width() -> None:
    assert time_histogram(np.arange(100.0), None) == [(f"{9.9 * n:.6g}-{9.9 * (n + 1):.6g}", 10) for n in range(10)]
    assert time_histogram(np.array([3.0, 3.0]), None) == [("3", 2)]
    assert time_histogram(np.array([3.0, 1.0, 3.0]), None) == [("1", 1), ("2", 0), ("3", 2)]
    assert time_histogram(np.zeros(0), None) == []
