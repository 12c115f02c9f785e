"""What the documents tell a reader to type runs: shell lines and Python, page by page, in the order of the page.

Long trainings are cut short by the substitutions of ``SHORT`` and ``SHORT_PYTHON`` alone; ``LEFT_OUT`` says which lines
are not run and why. The README and the notebook run with every change, the
tutorials are slow: ``nox -s documents``.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmm.config.parts import KINDS
from fedmm.utils.registry import own_parts
from fedmm_cli.app import main

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "examples" / "first_steps.ipynb"
SLOW = (
    *(f"docs/tutorial/{name}.md" for name in ("quickstart", "own-data", "own-part", "study-and-table")),
    *(f"docs/tutorial/{name}.md" for name in ("private-run", "deploy", "federation")),
    *(f"docs/howto/{name}.md" for name in ("recommend", "export", "serve", "private-run", "federation")),
)
SHORT = {  # what a line of the shell gets behind it, by its first two words
    "fedmm train": "--rounds 1 --client-fraction 0.05 --hidden-dim 8 --no-tracking --eval full",
    "fedmm sweep": "--set federation.rounds=1 --set model.hidden_dim=8",
}
FEW = "--min-user-interactions 200"  # the most active users of the bundled data: user 42 is one
SHORT_PYTHON = {
    "rounds=10": "rounds=1, client_fraction=0.05, hidden_dim=8, protocols=['full'], tracking__enabled=False",
    'load_dataset("movielens-small")': 'load_dataset("movielens-small", min_user_interactions=200)',
}
LEFT_OUT = {
    "pip": "the environment is there already",
    "pytest": "this is it",
    "mkdocs": "nox -s docs builds the site",
    "nox": "sessions install environments of their own",
    "fedmm ui": "serves until it is stopped; tests/cli/test_ui.py has it",
    "fedmm --install-completion": "changes the reader's shell",
}
FENCE = re.compile(r"^```(\w+)\n((?:.*\n)*?)```$|^((?: {4}\S.*\n)(?: {4}.*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of a page: "bash", "python" or "toml", and its text."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """In the order of the page; what is indented by four is for the shell where its first word says so."""
    found = []
    for language, fenced, indented in FENCE.findall(page.read_text(encoding="utf-8")):
        if fenced:
            found.append(Block(language, fenced))
        elif indented.split()[0] in ("fedmm", "pip", "nox", "python"):
            found.append(Block("bash", re.sub("^ {4}", "", indented, flags=re.MULTILINE)))
    return found


def lines_of(text: str) -> list[str]:
    """Single commands; continued lines are joined, comments are gone."""
    bare = [re.sub(r"(^|\s)#.*", "", line) for line in text.replace("\\\n", " ").splitlines()]
    return [part.strip() for line in bare for part in line.split("&&") if part.strip()]


def write_inputs(folder: Path) -> None:
    """The files that pages speak of: interactions, events without a header, features of pictures and texts."""
    generator = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}", 4, 1000 + at) for user in range(30)
            for at, item in enumerate(generator.permutation(20)[:8])]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    frame.to_csv(folder / "ratings.csv", index=False)
    frame.to_csv(folder / "events.txt", index=False, header=False)
    ids = np.array([f"i{item}" for item in range(20)])
    features = generator.normal(size=(20, 6)).astype(np.float32)
    np.savez(folder / "posters.npz", item_id=ids, features=features)
    texts = {"item_id": ids, **{f"f{at}": features[:, at] for at in range(6)}}
    pd.DataFrame(texts).to_parquet(folder / "plots.parquet")


def example_files() -> list[Path]:
    """The scripts of own parts that the tutorials show."""
    return sorted((ROOT / "docs" / "examples").glob("*.py"))


def forget_own_parts() -> None:
    """As in a new process: what a page registers in one block is not there in the next."""
    for kind in KINDS.values():
        for store in kind.stores:
            own_parts(store).clear()


class Served:
    """The server that a page starts behind its shell (``fedmm serve RUN &``), on a port that is free."""

    process: subprocess.Popen[str] | None = None
    address = ""

    def start(self, words: list[str]) -> None:
        command = [sys.executable, "-m", "fedmm_cli", *words[1:], "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip().rstrip("/")
        assert self.address.startswith("http"), "it ended before it served"

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=60)
            self.process = None

    def ask(self, words: list[str]) -> None:
        """``curl`` itself, of this server."""
        there = [word.replace("localhost:8000", self.address) for word in words]
        answer = subprocess.run([*there, "--fail"], capture_output=True, text=True, check=True).stdout
        assert "error" not in json.loads(answer)


class Apart:
    """What a page starts of a federation behind its shell, each in a process, on a port that is free."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def run(self, words: list[str]) -> None:
        """Beside the page where the line ends so, else in it."""
        where = {"lead": ["--port", str(self.port)], "join": ["--server", f"127.0.0.1:{self.port}"]}
        beside = words[-1] == "&"
        typed = [*words[1 : -1 if beside else None], *where.get(words[2], [])]
        if beside:
            self.processes.append(subprocess.Popen([sys.executable, "-m", "fedmm_cli", *typed]))
            return
        assert main(typed) == 0, words
        while self.processes:
            assert self.processes.pop().wait(timeout=120) == 0

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def run_line(line: str, served: Served, apart: Apart) -> None:
    """One line of the shell, by the function that the console script calls; what goes on beside it, in a process."""
    words = shlex.split(line)
    if words[:2] == ["fedmm", "federation"]:
        return apart.run(words)
    if words[:2] == ["fedmm", "serve"]:
        assert words.pop() == "&", "a server in front of the shell ends the page"
        return served.start(words)
    if words[0] == "curl":
        return served.ask(words)
    if words == ["kill", "%1"]:
        return served.stop()
    if words[0] == "python" and words[1].startswith("out/"):
        subprocess.run([sys.executable, *words[1:]], check=True)
        return None
    run_fedmm(line)
    return None


def run_fedmm(line: str) -> None:
    """A line that ends with its command."""
    if any(line == prefix or line.startswith(f"{prefix} ") for prefix in LEFT_OUT):
        return
    words = shlex.split(line)
    assert words[0] == "fedmm", f"a reader's command that no test knows: {line}"
    extra = SHORT.get(" ".join(words[:2]), "")
    if words[1] == "train" and "--data" not in words:
        extra += f" {FEW}"
    assert main([*words[1:], *shlex.split(extra)]) == 0, line


def run_python(text: str, names: dict[str, Any]) -> None:
    """Python of a page or a notebook, shortened."""
    for long, short in SHORT_PYTHON.items():
        text = text.replace(long, short)
    exec(compile(text, "documents", "exec"), names)


def run_page(page: Path, folder: Path) -> tuple[int, int]:
    """Every block; returns how many lines of the shell and blocks of Python there were."""
    names: dict[str, Any] = {"__name__": "documents"}
    shell = python = 0
    served, apart = Served(), Apart()
    try:
        for block in blocks_of(page):
            forget_own_parts()
            if block.language == "python":
                text = block.text.replace("http://localhost:8000", served.address) if served.address else block.text
                run_python(text, names)
                python += 1
            elif block.language == "toml" and "[study]" in block.text:
                name = re.search(r'^name = "(\w+)"', block.text, re.MULTILINE)
                assert name is not None
                (folder / f"{name[1]}.toml").write_text(block.text, encoding="utf-8")
            elif block.language == "bash":
                for line in lines_of(block.text):
                    run_line(line, served, apart)
                    shell += 1
    finally:
        served.stop()
        apart.stop()
    return shell, python


@pytest.fixture
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder with the reader's files; parts that a page registers are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_inputs(tmp_path)
    for path in example_files():
        shutil.copy(path, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FEDMM_PARTS", "")
    yield
    forget_own_parts()
    for path in example_files():
        sys.modules.pop(path.stem, None)


@pytest.mark.usefixtures("_reader")
def test_the_readme_runs(tmp_path: Path) -> None:
    shell, python = run_page(ROOT / "README.md", tmp_path)
    assert shell >= 4
    assert python >= 1
    assert list(tmp_path.glob("runs/*/result.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("_reader")
@pytest.mark.parametrize("name", SLOW)
def test_the_tutorials_run(name: str, tmp_path: Path) -> None:
    shell, _ = run_page(ROOT / name, tmp_path)
    assert shell >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("_reader")
def test_the_notebook_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells), "a notebook is kept without outputs"
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            run_python("".join(cell["source"]), names)
    told = capsys.readouterr().out
    assert "movielens-small 71 users" in told
    assert "full/ndcg_at_10: " in told
    assert {path.parent.name for path in tmp_path.glob("runs/*/result.json")} == {"first_steps", "half_mean"}


def test_the_tutorial_shows_the_scripts_as_they_are() -> None:
    shown = [block.text for block in blocks_of(ROOT / "docs/tutorial/own-part.md") if block.language == "python"]
    assert [path.name for path in example_files() if path.read_text(encoding="utf-8") not in shown] == []


def test_the_substitutions_are_used() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", *SLOW)]
    texts.append(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(any(long in text for text in texts) for long in (*SHORT, *SHORT_PYTHON))
