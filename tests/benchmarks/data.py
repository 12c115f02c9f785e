"""Loading and filtering of generated interactions: seconds of each stage, of the second load from what was kept of the
first, and peak memory.

    python tests/benchmarks/data.py [--rows 10000000] [--format csv|parquet] [--json FILE]

The file is written to a temporary folder first, outside what is timed. Ids are whole numbers, long-tailed on both
sides, and both minima are 5, so the k-core takes several rounds.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
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
from fedmm.utils.seeding import numpy_stream

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


LOAD = """
import json, sys, time
from pathlib import Path
from fedmm.config import DataConfig
from fedmm.data.prepared import prepare_file
from fedmm.data.readers import read_interactions
from data import peak_bytes
path = Path(sys.argv[1])
config = DataConfig(path=path, min_user_interactions=5, min_item_interactions=5)
begin, begin_processor = time.perf_counter(), time.process_time()
prepare_file(path, lambda: read_interactions(path, config), config)
seconds, processor = time.perf_counter() - begin, time.process_time() - begin_processor
print(json.dumps({"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak_bytes()}))
"""


def peak_bytes() -> int:
    """Of this process alone: what ``getrusage`` tells of a started process begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def measure_second_load(path: Path, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of a process that finds the prepared data; another process kept them before."""
    search = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "FEDMM_CACHE": str(folder / "cache"), "FEDMM_PREPARED_GB": "10", "PYTHONPATH": search}
    command = [sys.executable, "-c", LOAD, str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    ended = subprocess.run(command, env=environment, check=True, capture_output=True)
    return dict(json.loads(ended.stdout))


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
        peak = peak_bytes()
        again = measure_second_load(path, Path(folder))
    seconds = dict(zip(("read", "prepare", "digest"), np.diff(marks).tolist(), strict=True))
    print(f"numpy {np.__version__}, pyarrow {pa.__version__}, {platform.machine()}")
    print(
        f"{arguments.rows} rows of {arguments.format} -> {interactions.num_users} users, "
        f"{interactions.num_items} items, {len(interactions.histories.values)} interactions"
    )
    print("\n".join(notes))
    for stage, value in seconds.items():
        print(f"{stage:<8}{value:8.2f} s")
    print(f"total   {sum(seconds.values()):8.2f} s, peak {peak / 1e6:.0f} MB, the file's generation included")
    print(
        f"again   {again['seconds']:8.2f} s ({again['processor_seconds']:.2f} s processor), "
        f"peak {again['peak_bytes'] / 1e6:.0f} MB, in a process that finds what another kept"
    )
    if arguments.json:
        report = {
            "rows": arguments.rows,
            "format": arguments.format,
            "seconds": seconds,
            "again": again,
            "peak_bytes": peak,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "machine": platform.machine(),
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
