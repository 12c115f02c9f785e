"""Load test of ``fedmm serve``: python tests/benchmarks/serving.py [--run RUN] [--rate 200] [--seconds 15].

Requests leave at a fixed rate whatever the answers do, from a process of its own on the same machine; a latency counts
from when its request was due. Printed: percentiles, the processor time a request takes of the server (which, unlike
latencies, hardly feels who else is at work), the ratio to a bare FastAPI endpoint under the same load, what
10,000 malformed requests do to statuses and memory, and how soon a killed server answers again with the same list.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CONNECTIONS = 32
MOST_GROWTH = 16  # MB after 10,000 malformed requests: allocators round, leaks do not stop there
WARM = 200  # requests before those that count
BARE = """
import socket, sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.post("/recommend")
async def bare(body: dict) -> dict:
    return {"items": []}
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", access_log=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--malformed", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or train(Path(folder) / "run")
        from fedmm.runs.trained import TrainedModel

        model = TrainedModel.load(run)
        interactions = model.experiment.dataset.interactions
        bodies = [{"history": [str(one) for one in interactions.item_ids[row]][-50:]} for row in interactions.histories]
        found: dict[str, Any] = {"rate": options.rate, "seconds": options.seconds}
        with bare() as (process, port):
            found["bare"] = measure(process.pid, port, bodies, options)
        with fedmm(run) as (process, port, started):
            found["start_seconds"] = round(started, 2)
            found["fedmm"] = measure(process.pid, port, bodies, options)
            found["p99_ratio"] = round(found["fedmm"]["p99_ms"] / found["bare"]["p99_ms"], 2)
            first = answer(port, bodies[0])
            found["malformed"] = malformed(process.pid, port, options.malformed)
            process.send_signal(signal.SIGKILL)
        with fedmm(run) as (_, port, started):
            found["restart"] = {"seconds": round(started, 2), "same_list": answer(port, bodies[0]) == first}
    print(json.dumps(found, indent=1))
    failed = [status for status in found["malformed"]["statuses"] if status >= "500"]
    assert not failed, "a malformed request made the server fail"
    assert found["malformed"]["growth_mb"] <= MOST_GROWTH, "malformed requests stay in memory"
    assert found["restart"]["same_list"], "a restarted server gives another list"


def train(folder: Path) -> Path:
    command = [sys.executable, "-m", "fedmm_cli", "train", "--rounds", "3", "--no-tracking", "--quiet",
               "--output", str(folder)]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@contextmanager
def bare() -> Any:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        wait_for(port)
        yield process, port
    finally:
        process.kill()
        process.wait()


@contextmanager
def fedmm(run: Path) -> Any:
    """The process, its port, and how long it took from start to the first answer."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "fedmm_cli", "serve", str(run), "--port", "0", "--reload", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        answer(port, {"history": ["1"]})
        yield process, port, time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)


def request(content: bytes) -> bytes:
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> tuple[int, bytes]:
    writer.write(request(content))
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(head[9:12]), await reader.readexactly(size)


def answer(port: int, body: Any) -> Any:
    async def ask() -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = await exchange(reader, writer, json.dumps(body).encode())
        writer.close()
        return found

    return asyncio.run(ask())


def measure(pid: int, port: int, bodies: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    contents = [json.dumps(body).encode() for body in bodies]

    async def load() -> tuple[list[float], int]:
        free: asyncio.Queue[Any] = asyncio.Queue()
        for _ in range(CONNECTIONS):
            free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
        latencies, failures = [], 0

        async def one(due: float, content: bytes) -> None:
            nonlocal failures
            pair = await free.get()
            status, _ = await exchange(*pair, content)
            latencies.append(time.perf_counter() - due)
            failures += status != 200
            free.put_nowait(pair)

        for content in contents[:WARM]:
            await one(time.perf_counter(), content)
        latencies.clear()
        began, tasks = time.perf_counter(), []
        for number in range(int(options.rate * options.seconds)):
            due = began + number / options.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due, contents[number % len(contents)])))
        await asyncio.gather(*tasks)
        return latencies, failures

    before = processor_seconds(pid)
    latencies, failures = asyncio.run(load())
    spent = (processor_seconds(pid) - before) / (len(latencies) + WARM)
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99]) * 1000
    return {"requests": len(latencies), "failures": failures, "p50_ms": round(p50, 2), "p90_ms": round(p90, 2),
            "p99_ms": round(p99, 2), "max_ms": round(max(latencies) * 1000, 2),
            "processor_ms": round(spent * 1000, 3)}  # fmt: skip


def malformed(pid: int, port: int, number: int) -> dict[str, Any]:
    dice = random.Random(0)
    good = json.dumps({"history": ["1", "260"], "k": 3, "exclude": [], "keep_seen": True}).encode()

    def wrong() -> bytes:
        content = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            kind, place = dice.randrange(3), dice.randrange(len(content))
            if kind == 0:
                content[place] = dice.randrange(256)
            elif kind == 1:
                del content[place]
            else:
                content[place:place] = dice.randbytes(dice.randrange(1, 9))
        return bytes(content)

    async def send(count: int) -> dict[int, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        statuses: dict[int, int] = {}
        for _ in range(count):
            status, body = await exchange(reader, writer, wrong())
            assert b"Traceback" not in body
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()
        return statuses

    asyncio.run(send(1000))
    before = resident(pid)
    statuses = asyncio.run(send(number))
    return {"requests": number, "statuses": {str(key): statuses[key] for key in sorted(statuses)},
            "growth_mb": round((resident(pid) - before) / 2**20, 2)}  # fmt: skip


def processor_seconds(pid: int) -> float:
    """What a process has taken so far of all processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
