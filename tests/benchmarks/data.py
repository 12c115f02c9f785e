"""Loading and filtering of generated interactions, as it is and as it was, in one run: seconds and peak memory of each,
the first load with what is kept of it, and a second load that finds it.

    python tests/benchmarks/data.py [--rows 10000000] [--format csv|parquet] [--repeat 3] [--json FILE]

Every measurement is a process of its own; the least of the repetitions is printed, wall and processor time. The file is
written to a temporary folder first, outside what is timed. Ids are whole numbers, long-tailed on both sides, and both
minima are 5, so the k-core takes several rounds. The file is in the machine's cache when it is read.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fedmm.utils.seeding import numpy_stream

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in ru_maxrss
STAGES = ("before", "now", "again")


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
from fedmm.data.prepared import prepare_file, Prepared, _about, _arrays, prepared_key
from fedmm.data.prepared_store import PreparedStore
from fedmm.data.preparation import interactions_digest
from fedmm.data.readers import read_interactions
from data import peak_bytes
path, stage = Path(sys.argv[1]), sys.argv[2]
config = DataConfig(path=path, min_user_interactions=5, min_item_interactions=5)
begin, begin_processor = time.perf_counter(), time.process_time()
if stage == "before":
    from worlds.former_reading import former_preparation, former_reading
    key = prepared_key(path, config)
    raw = former_reading(path, config)
    made = former_preparation(raw, config)
    made = Prepared(made, raw.item_ids, (), interactions_digest(made))
    prepared_key(path, config)  # once more, as it was asked whether the file had changed
    PreparedStore.of_user().keep(key, _arrays(made), _about(made, path))
else:
    made = prepare_file(path, lambda: read_interactions(path, config), config)
seconds, processor = time.perf_counter() - begin, time.process_time() - begin_processor
own = made.interactions
told = {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak_bytes(), "digest": made.digest}
told |= {"users": own.num_users, "items": own.num_items, "interactions": len(own.histories.values)}
print(json.dumps(told))
"""


def peak_bytes() -> int:
    """Of this process alone: what ``getrusage`` tells of a started process begins with its parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(found.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def measure(path: Path, stage: str, cache: Path) -> dict[str, float]:
    """One load in a process of its own."""
    here = Path(__file__).parent
    search = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "FEDMM_CACHE": str(cache), "FEDMM_PREPARED_GB": "10", "PYTHONPATH": search}
    command = [sys.executable, "-c", LOAD, str(path), stage]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True)
    return dict(json.loads(ended.stdout))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    stages = STAGES if arguments.format == "csv" else STAGES[1:]
    found: dict[str, list[dict[str, float]]] = {stage: [] for stage in stages}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"interactions.{arguments.format}"
        write_generated(path, arguments.rows)
        for repeat in range(arguments.repeat):
            for stage in stages:
                cache = Path(folder) / f"{'before' if stage == 'before' else 'now'}{repeat}"
                found[stage].append(measure(path, stage, cache))
        size = path.stat().st_size
    best = {stage: min(runs, key=lambda run: run["seconds"]) for stage, runs in found.items()}
    one = best["now"]
    print(f"numpy {np.__version__}, pyarrow {pa.__version__}, {platform.machine()}, {os.cpu_count()} processors")
    print(
        f"{arguments.rows} rows of {arguments.format} ({size / 1e6:.0f} MB) -> {one['users']} users, "
        f"{one['items']} items, {one['interactions']} interactions"
    )
    for stage, run in best.items():
        least = min(other["processor_seconds"] for other in found[stage])
        print(f"{stage:<8}{run['seconds']:8.2f} s ({least:.2f} s processor), peak {run['peak_bytes'] / 1e6:.0f} MB")
    digests = {run["digest"] for runs in found.values() for run in runs}
    print(f"the same interactions: {'yes' if len(digests) == 1 else 'NO'}")
    if arguments.json:
        versions = {"numpy": np.__version__, "pyarrow": pa.__version__, "machine": platform.machine()}
        report = {"rows": arguments.rows, "format": arguments.format, "runs": found, **versions}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
