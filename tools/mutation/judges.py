"""Who may notice a mutant: the checks of ``fedmm verify``, and the fast tests that name its module."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedmm.config import ExperimentConfig
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import Check, run_checks
from fedmm.verification.subject import Subject

from .forks import functions_reached
from .sites import Mutant

ROOT = Path(__file__).parents[2]
MOST_TESTS = 10  # files run on one mutant, those that name its module and function first


@dataclass(eq=False)
class Verify:
    """The quick checks, and which functions each of them reaches."""

    modules: Sequence[str]
    subject: Subject = field(default_factory=lambda: Subject(ExperimentConfig()))
    reached: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # check -> functions
    seconds: dict[str, float] = field(default_factory=dict)
    caught: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # function -> checks that have caught in it

    def survey(self, tell: Callable[[str], object]) -> None:
        """Runs every check once, unchanged. Raises ValueError where one does not hold."""
        for check in self.checks:
            began = time.perf_counter()
            results: list[bool] = []

            def run(check: Check = check, results: list[bool] = results) -> None:
                results.extend(result.passed for result in run_checks([check], self.subject))

            self.reached[check.name] = functions_reached(run, self.modules)
            self.seconds[check.name] = time.perf_counter() - began
            if results != [True]:
                raise ValueError(f"{check.name!r} does not hold without any mutant")
        tell(f"{len(self.checks)} checks reach {len(set().union(*self.reached.values()))} functions")

    @property
    def checks(self) -> list[Check]:
        """Quick ones."""
        return [check for check in CHECKS if check.level == "quick"]

    def of(self, mutant: Mutant) -> list[Check]:
        """The checks that reach the mutant's function: those that caught others in it first, then the quickest."""
        place = (mutant.module, mutant.function)
        proved = self.caught.get(place, [])
        chosen = [check for check in self.checks if place in self.reached[check.name]]
        return sorted(chosen, key=lambda check: (check.name not in proved, self.seconds[check.name]))

    def judge(self, mutant: Mutant) -> Callable[[], str]:
        """Runs them until one fails."""

        def run() -> str:
            subject = Subject(ExperimentConfig())
            if not mutant.module.startswith("fedmm.data."):  # its data are as they were
                subject.__dict__.update({name: getattr(self.subject, name) for name in ("dataset", "split")})
            return next((result.name for result in run_checks(self.of(mutant), subject) if not result.passed), "")

        return run

    def limit(self, mutant: Mutant) -> float:
        """Seconds after which a mutant is taken for endless."""
        return 30.0 + 6.0 * sum(self.seconds[check.name] for check in self.of(mutant))


def tests_of(mutant: Mutant, sources: Mapping[Path, str]) -> list[str]:
    """Files of fast tests that name the mutant's module, those that name its function too first."""
    package, _, stem = mutant.module.rpartition(".")
    named = re.compile(rf"\b{re.escape(mutant.module)}\b|from {re.escape(package)} import [^\n]*\b{stem}\b")
    own = mutant.function.rpartition(".")[2]
    found = []
    for path, text in sources.items():
        mentions = len(re.findall(rf"\b{re.escape(own)}\b", text))
        if named.search(text) or mentions:
            found.append((not (named.search(text) and mentions), -mentions, str(path)))
    return [name for _, _, name in sorted(found)[:MOST_TESTS]]


def test_sources() -> dict[Path, str]:
    """The tests' files, benchmarks and the verification's own apart."""
    paths = (
        path for path in (ROOT / "tests").rglob("test_*.py") if path.parent.name not in ("browser", "verification")
    )
    return {path: path.read_text(encoding="utf-8") for path in sorted(paths)}


def run_tests(files: Sequence[str]) -> Callable[[], str]:
    """Runs them in this process until one fails; tests that start processes of their own see no mutant."""

    def run() -> str:
        import pytest

        class Watcher:
            failed = ""

            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.failed and not self.failed:
                    self.failed = report.nodeid

        watcher = Watcher()
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
        code = pytest.main([*options, *files], plugins=[watcher])
        return watcher.failed or ("" if code in (0, 5) else f"pytest ended with {code}")

    return run
