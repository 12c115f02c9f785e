"""What the spectral start costs by a sketch of the counts, as the catalogue grows: one fresh process a point.

    python tests/benchmarks/sketch.py [--clients 10000] [--size 128] [--json FILE]
    python tests/benchmarks/sketch.py --point 100000

Generated clients (about 30 items a history) over a long-tailed catalogue. Seconds of one client's share, of the sum
over all clients and of the item table from it, D = 64; peak memory of the process; bytes of one client's messages
beside those of exact counts.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

from generated import generate_histories
from machine import describe, headline, peak_bytes

from fedmm.federation.ledger import counts_message_bytes, degrees_message_bytes, sketch_message_bytes
from fedmm.federation.spectral_sketch import (
    ColumnHash,
    client_degrees,
    client_sketch,
    sketched_item_table,
    sum_sketches,
)

CATALOGUES = (1_000, 10_000, 100_000)
MEAN_LENGTH, HIDDEN_DIM = 30, 64


def measure(num_clients: int, num_items: int, size: int) -> dict[str, float]:
    """Seconds, bytes and peak memory of one sketched spectral start."""
    train = generate_histories(num_clients, num_items, MEAN_LENGTH, 0)
    column_hash = ColumnHash.draw(num_items, size, 0)
    marks = [time.perf_counter()]
    client_sketch(train[0], client_degrees(train[0], num_items), column_hash)  # its own degrees do for the time
    marks.append(time.perf_counter())
    sketch = sum_sketches(train, num_items, column_hash)
    marks.append(time.perf_counter())
    sketched_item_table(sketch, HIDDEN_DIM, 0)
    marks.append(time.perf_counter())
    one, total, table = (after - before for before, after in itertools.pairwise(marks))
    return {
        "clients": num_clients,
        "items": num_items,
        "size": size,
        "seconds_of_a_client": one,
        "seconds_of_the_sum": total,
        "seconds_of_the_table": table,
        "peak_gigabytes": peak_bytes() / 1e9,
        "megabytes_of_a_client": (degrees_message_bytes(num_items) + sketch_message_bytes(num_items, size)) / 1e6,
        "megabytes_of_exact_counts": counts_message_bytes(num_items) / 1e6,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--point", type=int, metavar="ITEMS")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(arguments.clients, arguments.point, arguments.size)))
        return
    machine = describe()
    print(headline(machine))
    points = []
    for items in CATALOGUES:
        own = ["--clients", str(arguments.clients), "--size", str(arguments.size), "--point", str(items)]
        done = subprocess.run([sys.executable, __file__, *own], check=True, capture_output=True, text=True)
        points.append(json.loads(done.stdout))
        print(json.dumps({key: round(value, 3) for key, value in points[-1].items()}), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "points": points}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
