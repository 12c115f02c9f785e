"""A SuperLink and SuperNodes of Flower on this machine, over TLS with keys, and the bundled data in three parts."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedmm.config.load import load_config
from fedmm.data.datasets import load_dataset
from fedmm.deployment.keys import make_node_keys, make_server_keys

APP = Path(__file__).parents[2] / "examples" / "flower"
SILOS = ("a", "b", "c")


def write_parts(folder: Path) -> None:
    """The bundled films in one file a silo: users in their order, a third each."""
    found = load_dataset(load_config().data, None).interactions
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(SILOS):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["user", "item", "timestamp"])
            first, last = (found.num_users * own // len(SILOS) for own in (place, place + 1))
            for user in range(first, last):
                start, end = found.histories.offsets[user], found.histories.offsets[user + 1]
                for at in range(start, end):
                    item = found.item_ids[found.histories.values[at]]
                    rows.writerow([found.user_ids[user], item, int(found.timestamps[at])])


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    taken = [socket.socket() for _ in range(number)]
    for own in taken:
        own.bind(("127.0.0.1", 0))
    ports = [int(own.getsockname()[1]) for own in taken]
    for own in taken:
        own.close()
    return ports


@dataclass(eq=False)
class Links:
    """Processes of Flower in one folder; leaving the ``with`` statement ends all of them. ``secure``: TLS, keys of
    Flower for each SuperNode, and fedmm's own for server and silos."""

    folder: Path
    secure: bool = True
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    node_config: Mapping[str, str] = field(default_factory=dict)  # of every silo, beside its name, data and folder

    def __post_init__(self) -> None:
        self.port, *ports = free_ports(1 + len(SILOS))
        self.ports = dict(zip(SILOS, ports, strict=True))
        home = self.folder / "flwr"
        self.environment = {
            **os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1",
            "FEDMM_CACHE": str(self.folder / "cache"), "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        home.mkdir(parents=True)
        secret = f'root-certificates = "{self.keys / "server.pem"}"' if self.secure else "insecure = true"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n{secret}\n'
        )
        if self.secure:
            make_server_keys(self.keys, "127.0.0.1")
            for name in SILOS:
                make_node_keys(self.keys, name)
                (self.keys / "nodes" / f"{name}.pub").write_bytes((self.keys / f"{name}.pub").read_bytes())
                self._flower_keys(name)

    @property
    def keys(self) -> Path:
        """The folder of all keys."""
        return self.folder / "keys"

    def _flower_keys(self, name: str) -> None:
        private = ec.generate_private_key(ec.SECP384R1())
        path = self.keys / f"{name}.flower"
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (self.keys / f"{name}.flower.pub").write_bytes(public)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *about: object) -> None:
        for name in [*self.running][::-1]:
            self.end(name, signal.SIGTERM)

    def start(self, name: str, *words: str) -> None:
        """Starts a process with a log of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def end(self, name: str, number: int) -> None:
        """Ends a process and what it started. SIGKILL leaves it no time for anything."""
        process = self.running.pop(name)
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def superlink(self) -> None:
        """Starts the SuperLink and makes the SuperNodes' keys known to it."""
        pem = str(self.keys / "server.pem")
        safe = ("--ssl-certfile", pem, "--ssl-keyfile", str(self.keys / "server.key"), "--ssl-ca-certfile", pem)
        own = (*safe, "--enable-supernode-auth") if self.secure else ("--insecure",)
        self.start("superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), *own,
                   "--disable-runtime-dependency-installation")  # fmt: skip
        self._wait_for_port(self.port)
        for name in SILOS if self.secure else ():
            self.flwr("supernode", "register", str(self.keys / f"{name}.flower.pub"))

    def _wait_for_port(self, port: int) -> None:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"nobody listens on {port}")

    def supernode(self, name: str) -> None:
        """Starts a silo's SuperNode."""
        given = {"name": name, "data": self.folder / f"{name}.csv", "folder": self.folder / f"{name}.silo"}
        given |= self.node_config
        given |= {"keys": self.keys} if self.secure else {}
        own = ("--insecure",)
        if self.secure:
            private = str(self.keys / f"{name}.flower")
            own = ("--root-certificates", str(self.keys / "server.pem"), "--auth-supernode-private-key", private)  # type: ignore[assignment]
        self.start(
            f"node-{name}", "flower-supernode", *own, "--superlink", f"127.0.0.1:{self.port}", "--port",
            str(self.ports[name]), "--node-config", " ".join(f'{key}="{value}"' for key, value in given.items()),
        )  # fmt: skip

    def flwr(self, *words: str) -> str:
        """Runs a command of ``flwr`` and gives its output."""
        done = subprocess.run(
            ["flwr", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, app: Path, settings: Mapping[str, str | int | float]) -> str:
        """Starts an app and gives the run's number."""
        if self.secure and app == APP:
            settings = {**settings, "keys": str(self.keys)}
        words = " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        found = self.flwr("run", str(app), "--run-config", words, "--format", "json")
        told = json.loads(found[found.index("{") :])
        assert "run-id" in told, told
        return str(told["run-id"])

    def state(self, run: str) -> str:
        """How a run stands, such as "finished:completed"."""
        found = self.flwr("list", "--run-id", run, "--format", "json")
        return str(json.loads(found[found.index("{") :])["runs"][0]["status"])

    def wait(self, run: str, seconds: float) -> None:
        """Waits for a run's end. Raises AssertionError where it did not end well."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state = self.state(run)
            if state.startswith("finished"):
                assert state == "finished:completed", state + (self.folder / "superlink.log").read_text()[-3000:]
                return
            time.sleep(2.0)
        raise AssertionError(f"run {run} has not ended")
