"""The fast tests as judges of a mutant: collected once, those that run its line, the likeliest first."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .forks import limited
from .judges import Proved
from .reach import Kept, Lines, Reach, Watch, loaded_by, preload, text_of
from .sites import Mutant

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("browser", "verification", "tools")  # verify itself judges apart; tools' tests are about other code
OPTIONS = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]


def test_files() -> list[Path]:
    """The tests' files."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in paths if path.parent.name not in LEFT_OUT]


def with_tests(files: Iterable[Path], drive: Callable[[list[pytest.Item]], object]) -> None:
    """Collects the tests and hands them to ``drive`` inside pytest's session. Raises RuntimeError where they cannot be
    collected."""

    class Driver:
        """Runs nothing by itself. Examples that fail are not made smaller, nor remembered."""

        def pytest_collection(self) -> None:
            from hypothesis import Phase, settings  # pytest wants to be there first

            settings.register_profile("mutation", deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
            settings.load_profile("mutation")

        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            drive(session.items)
            return True

    code = pytest.main([*OPTIONS, *map(str, files)], plugins=[Driver()])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {code}")


@dataclass(eq=False)
class Tests:
    """Collected tests, and which lines each of them runs."""

    modules: Sequence[str]
    items: dict[str, pytest.Item]
    kept: Kept
    reach: Reach = field(default_factory=Reach)
    proved: Proved = field(default_factory=Proved)

    def survey(self, tell: Callable[[str], object]) -> None:
        """Runs every file's tests once, unchanged, in a fork; what the file of before knows is not run again."""
        text = text_of(self.modules)
        files: dict[Path, list[pytest.Item]] = {}
        for item in self.items.values():
            files.setdefault(item.path, []).append(item)
        for path, items in files.items():
            find = functools.partial(loaded_by, functools.partial(self._surveyed, items))
            found, names = self.kept.get((text, path.read_bytes(), b"and what it loads"), find)
            preload(names)
            tell(f"{path.relative_to(ROOT)}: {sum(seconds for _, _, seconds in found):.0f} s watched")
            for name, lines, seconds in found:
                self.reach.add(name, lines, seconds)

    def _surveyed(self, items: Sequence[pytest.Item]) -> list[tuple[str, Lines, float]]:
        """Name, lines, seconds. What a fixture of many tests runs is run by each of them."""
        watch = Watch(self.modules)
        fixtures = _Fixtures(watch)
        items[0].config.pluginmanager.register(fixtures)
        watch.begin()
        seconds, own = {}, {}
        for item, after in zip(items, [*items[1:], None], strict=True):
            began = time.process_time()
            fixtures.now = item.nodeid
            with watch.of(item.nodeid):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            seconds[item.nodeid] = time.process_time() - began
        lines = watch.end()
        for item in items:
            names = {item.nodeid, *(f"fixture {name}" for name in getattr(item, "fixturenames", ()))}
            gathered: dict[str, set[int]] = {}
            for name in names & set(lines):
                for module, numbers in lines[name].items():
                    gathered.setdefault(module, set()).update(numbers)
            own[item.nodeid] = {module: sorted(numbers) for module, numbers in gathered.items()}
        return [(name, own[name], seconds[name]) for name in own]

    def of(self, mutant: Mutant, budget: float) -> list[pytest.Item]:
        """The tests that run the mutant's statement, then their neighbours, who may have found it done already; as
        many as ``budget`` seconds allow."""
        direct = {name for name in self.reach.of(mutant) if name in self.items}
        homes = {self.items[name].path for name in direct}
        others = {name for name, item in self.items.items() if item.path in homes} - direct
        chosen, sum_ = [], 0.0
        for group in (direct, others):
            for name in self.proved.order(mutant, group, self.reach.seconds):
                sum_ += self.reach.seconds[name]
                if sum_ <= budget:
                    chosen.append(self.items[name])
        return chosen

    def judge(self, items: Sequence[pytest.Item]) -> Callable[[], str]:
        """Runs them until one fails. Tests that start processes of their own see no mutant."""

        def run() -> str:
            watcher = _Failures()
            for item, after in zip(items, [*items[1:], None], strict=True):
                item.config.pluginmanager.register(watcher) if item is items[0] else None
                limited(6.0 + 5.0 * self.reach.seconds[item.nodeid])
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if watcher.failed:
                    return watcher.failed
            limited(0.0)
            return ""

        return run


class _Failures:
    """Remembers the first test that failed."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class _Fixtures:
    """What fixtures of wider scope run stands under their own names."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.now = watch, ""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        """Around the making of a fixture."""
        if fixturedef.scope == "function":
            return (yield)
        before, self.now = self.now, f"fixture {fixturedef.argname}"
        try:
            with self.watch.of(self.now, before):
                return (yield)
        finally:
            self.now = before
