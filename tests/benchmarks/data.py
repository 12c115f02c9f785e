"""Loading and filtering of generated interactions: seconds of each stage and peak memory.

    python tests/benchmarks/data.py [--rows 10000000] [--format csv|parquet] [--json FILE]

The file is written to a temporary folder first, outside what is timed. Ids are whole numbers, long-tailed on both
sides, and both minima are 5, so the k-core takes several rounds.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fedmm.config import DataConfig
from fedmm.data.preparation import interactions_digest, prepare
from fedmm.data.readers import read_interactions
from fedmm.seeding import numpy_stream

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in ru_maxrss


def write_generated(path: Path, num_rows: int) -> None:
    """Rows user_id, item_id, rating, timestamp in random order."""
    rng = numpy_stream(0, "benchmark")
    users = (num_rows // 60 * rng.random(num_rows) ** 1.5).astype(np.int64) + 1
    items = (max(num_rows // 200, 100) * rng.random(num_rows) ** 3).astype(np.int64) + 1
    table = pa.table(
        {
            "user_id": users,
            "item_id": items,
            "rating": rng.integers(1, 6, num_rows),
            "timestamp": rng.integers(1_000_000_000, 1_600_000_000, num_rows),
        }
    )
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"interactions.{arguments.format}"
        write_generated(path, arguments.rows)
        config = DataConfig(path=path, min_user_interactions=5, min_item_interactions=5)
        marks = [time.perf_counter()]
        raw = read_interactions(path, config)
        marks.append(time.perf_counter())
        interactions, notes = prepare(raw, config)
        marks.append(time.perf_counter())
        interactions_digest(interactions)
        marks.append(time.perf_counter())
    seconds = dict(zip(("read", "prepare", "digest"), np.diff(marks).tolist(), strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT
    print(f"numpy {np.__version__}, pyarrow {pa.__version__}, {platform.machine()}")
    print(
        f"{arguments.rows} rows of {arguments.format} -> {interactions.num_users} users, "
        f"{interactions.num_items} items, {len(interactions.histories.values)} interactions"
    )
    print("\n".join(notes))
    for stage, value in seconds.items():
        print(f"{stage:<8}{value:8.2f} s")
    print(f"total   {sum(seconds.values()):8.2f} s, peak {peak / 1e6:.0f} MB, the file's generation included")
    if arguments.json:
        report = {
            "rows": arguments.rows,
            "format": arguments.format,
            "seconds": seconds,
            "peak_bytes": peak,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "machine": platform.machine(),
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
