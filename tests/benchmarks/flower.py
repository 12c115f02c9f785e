"""What a round over Flower takes, against an app that echoes as many messages of the same size and imports torch.

    nox -s flower -- --benchmark

One SuperLink and three SuperNodes with TLS and keys, on this machine; both apps run on them in turn. An exchange is a
message to each silo and its answer; a round is two (training, validation). Seconds are medians over rounds; the bar is
1.3 of the echo plus the longest silo's own work of a round, measured in one process beforehand.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from fedmm.config.load import load_config
from fedmm.deployment.catalogue import catalogue_of
from fedmm.deployment.conversation import Conversation
from fedmm.deployment.lead import Lead
from fedmm.deployment.members import LeadOptions
from fedmm.deployment.silo import Silo
from fedmm.deployment.transport import InProcess
from worlds.flower_world import APP, SILOS, Links, write_parts

ROUNDS, EXCHANGES, TURNS = 5, 2, 2
SETTINGS = (
    f"federation.rounds={ROUNDS}", "federation.client_fraction=0.05", "model.hidden_dim=16", "model.num_blocks=1",
    "model.personal_gate=true", "evaluation.protocols=full", "runtime.engine=sequential", "runtime.threads=1",
    "runtime.device=cpu", "tracking.enabled=false",
)  # fmt: skip
ECHO = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
silo = ClientApp()


@silo.query()
def query(message, context):
    import torch
    return Message(message.content, reply_to=message)


@server.main()
def main(grid, context):
    given, seconds = context.run_config, []
    while len(nodes := list(grid.get_node_ids())) < given["silos"]:
        time.sleep(0.2)
    data = np.random.default_rng(0).integers(0, 256, given["bytes"], dtype=np.uint8)
    for number in range(given["exchanges"]):
        began = time.perf_counter()
        data[0] = number
        content = lambda: RecordDict({"echo": ArrayRecord({"bytes": Array(data)})})
        waiting = {letter for own in nodes for letter in grid.push_messages([Message(content(), own, "query")])}
        while waiting:
            found = list(grid.pull_messages(list(waiting)))
            waiting -= {own.metadata.reply_to_message_id for own in found}
            time.sleep(0 if found else 0.2)
        seconds.append(time.perf_counter() - began)
    Path(given["output"]).write_text(json.dumps(seconds))
"""
MANIFEST = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "echo-app"
version = "1.0.0"
license = "MIT"
dependencies = []
[tool.flwr.app]
publisher = "fedmm"
[tool.flwr.app.components]
serverapp = "echo_app.apps:server"
clientapp = "echo_app.apps:silo"
[tool.flwr.app.config]
silos = 3
exchanges = 1
bytes = 1
output = ""
"""


class Timed:
    """A silo that notes how long it works on each kind of request."""

    def __init__(self, silo: Silo) -> None:
        self.silo, self.seconds, self.sizes = silo, [], []

    def answer(self, request: bytes) -> bytes:
        """The silo's own answer."""
        began = time.perf_counter()
        found = self.silo.answer(request)
        self.seconds.append(time.perf_counter() - began)
        self.sizes.append(len(request))
        return found


def own_work(folder: Path) -> tuple[float, int]:
    """Seconds that the longest silo works in a round, and the bytes of its largest request to train."""
    config = load_config(assignments=SETTINGS)
    silos = {}
    for name in SILOS:
        own = load_config(assignments=("runtime.threads=1",), flags={"data.path": str(folder / f"{name}.csv")})
        silos[name] = Timed(Silo(name, own))
    transport = InProcess({name: own.answer for name, own in silos.items()})
    options = LeadOptions(len(SILOS), 1.0, wait=0.01)
    lead = Lead(config, catalogue_of(config), Conversation(transport), options)
    lead.begin()
    rounds = []
    for own in silos.values():
        own.seconds.clear()
        own.sizes.clear()
    for _ in lead.rounds():
        rounds.append(sum(max(times) for times in zip(*(own.seconds for own in silos.values()), strict=True)))
        for own in silos.values():
            own.seconds.clear()
    return statistics.median(rounds), max(max(own.sizes) for own in silos.values())


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept).resolve()
        write_parts(folder)
        local, size = own_work(folder)
        app = folder / "echo-app"
        (app / "echo_app").mkdir(parents=True)
        (app / "pyproject.toml").write_text(MANIFEST)
        (app / "echo_app" / "apps.py").write_text(ECHO)
        (app / "echo_app" / "__init__.py").write_text('"""Echoes."""\n')
        echoes, rounds = [], []
        with Links(folder) as links:
            links.superlink()
            for name in SILOS:
                links.supernode(name)
            for turn in range(TURNS):
                written = folder / f"echo-{turn}.json"
                exchanges = ROUNDS * EXCHANGES
                links.wait(links.run(app, {"exchanges": exchanges, "bytes": size, "output": str(written)}), 1200)
                found = json.loads(written.read_text())
                echoes += [sum(found[at : at + EXCHANGES]) for at in range(0, exchanges, EXCHANGES)]
                output = folder / f"federation-{turn}"
                given = {"silos": len(SILOS), "quorum": 1.0, "output": str(output), "set": shlex.join(SETTINGS)}
                links.wait(links.run(APP, given), 1200)
                lines = map(json.loads, (output / "events.jsonl").read_text().splitlines())
                rounds += [own["seconds"] for own in lines if own["event"] == "round"]
        echo, own = statistics.median(echoes), statistics.median(rounds)
        print(f"a request to train: {size:,} bytes; the longest silo works {local:.2f} s a round (in one process)")
        print(f"echo, {EXCHANGES} exchanges: {echo:.2f} s ({', '.join(f'{found:.1f}' for found in echoes)})")
        print(f"fedmm, a round: {own:.2f} s ({', '.join(f'{found:.1f}' for found in rounds)})")
        bar = 1.3 * echo + local
        print(f"the bar is {bar:.2f} s: {own / bar:.2f} of it; without own work {(own - local) / echo:.2f} of the echo")


if __name__ == "__main__":
    main()
