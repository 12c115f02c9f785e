"""What masks between silos cost a round, against the same whole numbers in the open.

    python tests/benchmarks/masked_silos.py [--silos 1000] [--width 4] [--rounds 3]

Silos of one user each in one process, all of them in every round, each with 20 neighbours where there are more than 20.
Processor time of a round of server and silos together, the median and range, and bytes a silo. Both must learn the
same, bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import describe, headline

sys.path.insert(0, str(Path(__file__).parents[1]))
from fedmm.deployment.lead import Lead
from worlds.silo_world import lead_of, silos_of, write_world

CHAIN = ("clip", "rotate", "round")
SETTINGS = {
    "spectral_start": False, "protocols": ("full",), "fusion": "backbone", "local_steps": 1, "max_length": 4,
    "client_fraction": 1.0, "evaluation__every": 100,
}  # fmt: skip


def measure(folder: Path, names: list[str], rounds: int, width: int, chain: tuple[str, ...]) -> Lead:
    """Leads some rounds and prints what they cost."""
    settings = {**SETTINGS, "rounds": rounds, "hidden_dim": width, "update_transforms": chain}
    lead = lead_of(folder, silos_of(folder, names, **settings), **settings)
    lead.begin()
    seconds, line = [], lead.conversation
    sent, received = line.sent_bytes, line.received_bytes
    for _ in range(rounds):
        began = time.process_time()
        lead._train()
        seconds.append(time.process_time() - began)
    down = (line.sent_bytes - sent) / rounds / len(names)
    up = (line.received_bytes - received) / rounds / len(names)
    each = [1e3 * own / len(names) for own in seconds]
    took = f"{statistics.median(each):6.2f} ms a silo ({min(each):.2f} to {max(each):.2f})"
    print(f"{chain[-1]:<6} {took}; {down:,.0f} bytes to a silo, {up:,.0f} from it")
    return lead


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silos", type=int, default=1000)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"s{number:05d}" for number in range(given.silos)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_world(folder, dict.fromkeys(names, 1))
        plain = measure(folder, names, given.rounds, given.width, CHAIN)
        masked = measure(folder, names, given.rounds, given.width, (*CHAIN, "mask"))
        if any(not torch.equal(masked.state.server.params[n], value) for n, value in plain.state.server.params.items()):
            raise SystemExit("masked silos learn something else")
        chain = masked._chain(1, len(names))
        words = 0 if chain is None else chain.num_words
        print(f"{headline(describe())}; {given.silos} silos, {words:,} numbers, {given.rounds} rounds")


if __name__ == "__main__":
    main()
