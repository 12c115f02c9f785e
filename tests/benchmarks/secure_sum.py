"""What a masked sum costs a client, and the server that opens it with some of them missing.

    python tests/benchmarks/secure_sum.py [--clients 60] [--numbers 160000] [--absent 6] [--runs 5]

A client of 20 neighbours agrees on a key with each (X25519, HKDF) and adds one stream of AES a neighbour and one of its
own. Milliseconds of processor time, the median and range of the runs, with keys made anew. The opened sum must equal
the plain one bit for bit, and a sum of too few clients must not be opened.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from machine import describe, headline

from fedmm.privacy.secure_sum import SecureSum, SecureSumError


def measure(num_clients: int, numbers: int, absent: int, occasion: int) -> tuple[float, float]:
    """Milliseconds a client to mask, and a client to open."""
    clients = tuple(range(num_clients))
    session = SecureSum(clients, 0, occasion, bits=16)
    stream = np.random.Generator(np.random.PCG64(occasion))
    vectors = [stream.integers(0, 1 << 10, numbers, dtype=np.uint32) for _ in clients]
    began = time.process_time()
    masked = {client: session.mask(client, vectors[client]) for client in clients}
    sent = time.process_time()
    there = clients[absent:]
    opened = session.open({client: masked[client] for client in there})
    done = time.process_time()
    plain = np.sum([vectors[client] for client in there], axis=0, dtype=np.uint32) & np.uint32(session.modulus_mask)
    if not np.array_equal(opened, plain):
        raise SystemExit("the opened sum is not the plain one")
    try:
        session.open({client: masked[client] for client in clients[: num_clients // 3]})
    except SecureSumError as error:
        print(f"a third of the clients: {error}")
    else:
        raise SystemExit("a sum of too few clients was opened")
    return 1e3 * (sent - began) / num_clients, 1e3 * (done - sent) / num_clients


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--numbers", type=int, default=160_000)
    parser.add_argument("--absent", type=int, default=6)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    print(f"{headline(describe())}; {given.clients} clients, {given.numbers} numbers, {given.absent} absent")
    found = [measure(given.clients, given.numbers, given.absent, 1 + run) for run in range(given.runs)]
    for name, values in zip(("to mask", "to open"), zip(*found, strict=True), strict=True):
        print(f"{name:<8} {statistics.median(values):6.2f} ms a client ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
