"""Which lines each check and each test runs: gathered once, unchanged code, by coverage in forks of their own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .forks import path_of
from .sites import Mutant

T = TypeVar("T")
Lines = dict[str, list[int]]  # module -> lines


@dataclass(eq=False)
class Reach:
    """Who runs which line, and how long each takes."""

    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)  # module -> line -> names
    seconds: dict[str, float] = field(default_factory=dict)  # processor time

    def add(self, name: str, lines: Mapping[str, Iterable[int]], seconds: float) -> None:
        """One more."""
        self.seconds[name] = seconds
        for module, numbers in lines.items():
            own = self.lines.setdefault(module, {})
            for number in numbers:
                own.setdefault(number, set()).add(name)

    def of(self, mutant: Mutant) -> set[str]:
        """Whoever runs a line of the mutant's statement."""
        own, (first, last) = self.lines.get(mutant.module, {}), mutant.lines
        return set().union(*(own.get(number, ()) for number in range(first, last + 1)))


@dataclass(eq=False)
class Watch:
    """Lines run while somebody's name is up. Only the modules asked for are watched."""

    modules: Sequence[str]
    found: Any = None  # coverage.Coverage

    def begin(self) -> None:
        """Raises ModuleNotFoundError where coverage is missing: ``pip install coverage``."""
        import coverage

        files = [str(path_of(module)) for module in self.modules]
        self.found = coverage.Coverage(data_file=None, include=files, config_file=False)
        self.found.start()

    @contextmanager
    def of(self, name: str, then: str = "") -> Iterator[None]:
        """What runs meanwhile is ``name``'s, and ``then`` somebody else's once more."""
        self.found.switch_context(name)
        try:
            yield
        finally:
            self.found.switch_context(then)

    def end(self) -> dict[str, Lines]:
        """Name -> lines."""
        self.found.stop()
        with warnings.catch_warnings():  # some run nothing that is watched
            warnings.simplefilter("ignore")
            data = self.found.get_data()
        lines: dict[str, Lines] = {}
        for module in self.modules:
            for number, names in data.contexts_by_lineno(str(path_of(module))).items():
                for name in filter(None, names):
                    lines.setdefault(name, {}).setdefault(module, []).append(number)
        return lines


def apart(run: Callable[[], T]) -> T:
    """What ``run`` returns (plain values) in a fork, which leaves nothing behind in this process. Raises RuntimeError
    where the fork died."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        pid = os.fork()
        if not pid:
            try:
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                json.dump(run(), file)
                file.flush()
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"a survey ended with {status}")
        file.seek(0)
        answer: T = json.load(file)
        return answer


def timed(run: Callable[[], object]) -> float:
    """Processor seconds."""
    began = time.process_time()
    run()
    return time.process_time() - began


def loaded_by(run: Callable[[], T]) -> tuple[T, list[str]]:
    """What ``run`` returns, and the modules that it loaded, fedmm's left out."""
    before = set(sys.modules)
    answer = run()
    names = (name for name in set(sys.modules) - before if name.split(".")[0] not in ("fedmm", "fedmm_cli"))
    return answer, sorted(names)


def preload(names: Iterable[str]) -> None:
    """Loads modules before any fork needs them, so that no fork loads them once more (a second of processor time where
    one makes its first optimizer). What cannot be loaded by name alone is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(set(names) - set(sys.modules)):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


@dataclass(eq=False)
class Kept:
    """What surveys found, by what they looked at: nothing is looked at twice. One line an entry."""

    path: Path
    entries: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
            self.entries = {line["digest"]: line["found"] for line in lines}

    def get(self, texts: Iterable[bytes], find: Callable[[], T]) -> T:
        """What was found of the same texts, or what ``find`` finds now, in a fork."""
        digest = hashlib.sha256(b"\n".join(texts)).hexdigest()[:16]
        if digest not in self.entries:
            self.entries[digest] = apart(find)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"digest": digest, "found": self.entries[digest]}) + "\n")
        found: T = self.entries[digest]
        return found


def text_of(modules: Iterable[str]) -> bytes:
    """Of all of them, made short."""
    return hashlib.sha256(b"".join(path_of(module).read_bytes() for module in modules)).digest()
