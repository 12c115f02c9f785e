"""Two sweeps that share a study through a PostgreSQL server of their own, as two machines would."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedmm.errors import FedmmError
from fedmm.study import load_study
from fedmm.tuning.storage import open_storage
from worlds.sweep_world import (
    assert_sound,
    command,
    finish,
    mlflow_runs,
    num_rounds,
    start,
    study_text,
    trials_of,
    wait_until,
    write_data,
)

PLACES = ("/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt")


def binary(name: str) -> str | None:
    """Debian keeps the server's programs off the path."""
    found = shutil.which(name)
    others = [path for place in PLACES for path in Path(place).glob(f"*/bin/{name}")]
    return found or (str(max(others)) if others else None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        binary("initdb") is None or binary("pg_ctl") is None or find_spec("psycopg2") is None,
        reason="needs PostgreSQL's server programs and psycopg2",
    ),
]


@dataclass(frozen=True)
class Server:
    """A cluster in a folder of its own."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://anna:secret@127.0.0.1:{self.port}/postgres"

    def control(self, *arguments: str) -> None:
        """``pg_ctl``."""
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self.folder / "log")
        run_as_nobody("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", *arguments)


def run_as_nobody(program: str, *arguments: str) -> None:
    """The server refuses to run as root."""
    found = binary(program)
    assert found is not None
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        person = pwd.getpwnam("nobody")
        options = {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": []}
    done = subprocess.run(
        [found, *arguments], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, **options
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def server() -> Iterator[Server]:
    """Running; gone afterwards, whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path is short, and nobody may enter here
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    found = Server(folder, port)
    try:
        run_as_nobody("initdb", "-D", str(folder / "data"), "-U", "anna", "-A", "trust", "-E", "UTF8", "--no-sync")
        found.control("start")
        yield found
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            found.control("stop", "-m", "immediate")
        shutil.rmtree(folder, ignore_errors=True)


def machines(tmp_path: Path, plan: str, rounds: int) -> tuple[Path, Path, Path]:
    """Two working folders, and the study's file in the first; the data is at the same path on both."""
    write_data(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    path = first / "tiny.toml"
    path.write_text(study_text(tmp_path, plan, rounds=rounds, tracking=True))
    return first, second, path


def test_two_machines_share_one_study_to_its_end(tmp_path: Path, server: Server) -> None:
    first, second, path = machines(tmp_path, "trials = 10", rounds=80)
    leader = start("--study", str(path), "--storage", server.url, "--json", folder=first)
    helper = start("--join", "--storage", server.url, "--name", "tiny", "--json", folder=second)
    led, helped = finish(leader), finish(helper)
    assert led.code == 0, led.stderr
    assert helped.code == 0, helped.stderr
    assert led.result["status"] == "finished"
    assert helped.result["status"] == "joined"
    assert helped.result["parent_run_id"] == led.result["parent_run_id"]
    assert led.result["trials"]["complete"] == 10
    study = load_study(path)
    records = trials_of(study, first, server.url)
    assert len(records) == len({str(sorted(record.params.items())) for record in records}) == 10
    folders = [{trial.name for trial in (each / "sweeps/tiny/trials").iterdir()} for each in (first, second)]
    assert all(folders), "both took part"
    assert not folders[0] & folders[1]
    assert folders[0] | folders[1] == {f"{number:04}" for number in range(10)}
    for folder in (first, second):
        assert_sound(study, folder / "sweeps/tiny", server.url)
        assert not [run for run in mlflow_runs(folder / "mlflow.db") if run.info.status == "RUNNING"]
    shown = led.stdout + led.stderr + helped.stdout + helped.stderr
    assert "secret" not in shown
    kept = [file for folder in (first, second) for file in (folder / "sweeps").rglob("*") if file.suffix != ".lock"]
    assert not [file for file in kept if file.is_file() and b"secret" in file.read_bytes()]


def test_a_server_that_goes_away_is_one_line_and_the_study_goes_on_later(tmp_path: Path, server: Server) -> None:
    first, _, path = machines(tmp_path, "trials = 3", rounds=150)
    study = load_study(path)
    leader = start("--study", str(path), "--storage", server.url, "--json", folder=first)
    wait_until(lambda: num_rounds(first / "sweeps/tiny") > 20, leader)
    server.control("stop", "-m", "immediate")
    with pytest.raises(FedmmError) as caught:
        open_storage(server.url, first)
    assert "secret" not in str(caught.value)
    ended = finish(leader)
    assert ended.code == 1, ended.stderr
    assert ended.result["error"]["code"] == "study_storage"
    assert "secret" not in ended.stdout + ended.stderr
    server.control("start")
    again = command("--resume", "--name", "tiny", "--storage", server.url, "--json", folder=first)
    assert again.code == 0, again.stderr
    assert again.result["trials"]["complete"] == 3
    assert_sound(study, first / "sweeps/tiny", server.url)
