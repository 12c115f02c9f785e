"""The checks of ``fedmm verify`` as judges of a mutant: those that run its line, the likeliest first."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fedmm.config import ExperimentConfig
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import Check, Result, run_checks
from fedmm.verification.subject import Subject

from .forks import limited
from .reach import Kept, Lines, Reach, Watch, loaded_by, preload, text_of, timed
from .sites import Mutant


@dataclass(eq=False)
class Proved:
    """Who has caught mutants so far: in the same function, in the same module."""

    functions: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    modules: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, module: str, function: str, who: str) -> None:
        """One more."""
        self.functions.setdefault((module, function), Counter())[who] += 1
        self.modules.setdefault(module, Counter())[who] += 1

    def order(self, mutant: Mutant, names: Iterable[str], seconds: dict[str, float]) -> list[str]:
        """The likeliest for its time first."""
        near = self.functions.get((mutant.module, mutant.function), Counter())
        wide = self.modules.get(mutant.module, Counter())
        return sorted(names, key=lambda name: (seconds[name] + 0.02) / (0.02 + near[name] + 0.1 * wide[name]))


@dataclass(eq=False)
class Verify:
    """The quick checks, and which lines each of them runs."""

    modules: Sequence[str]
    kept: Kept
    subject: Subject = field(default_factory=lambda: Subject(ExperimentConfig()))
    budget: float = 1e9
    reach: Reach = field(default_factory=Reach)
    proved: Proved = field(default_factory=Proved)

    def survey(self, tell: Callable[[str], object]) -> None:
        """Runs every check once, unchanged, each in a fork: what one remembers hides nothing from the next. Raises
        RuntimeError where one does not hold."""
        for check in self.checks:
            home = getattr(check.measure, "__module__", "") or __name__
            texts = (check.name.encode(), text_of([*self.modules, home]), b"and what it loads")
            find = functools.partial(loaded_by, functools.partial(self._surveyed, check))
            (lines, seconds), names = self.kept.get(texts, find)
            self.reach.add(check.name, lines, seconds)
            preload(names)
        assert self.subject.split.num_items  # loaded before any fork
        tell(f"{len(self.checks)} checks, {sum(self.reach.seconds.values()):.0f} s watched")

    def _surveyed(self, check: Check) -> tuple[Lines, float]:
        watch = Watch(self.modules)
        results: list[Result] = []
        watch.begin()
        with watch.of(check.name):
            seconds = timed(lambda: results.extend(run_checks([check], Subject(ExperimentConfig()))))
        if not results[0].passed:
            raise ValueError(f"{check.name!r} does not hold without any mutant")
        return watch.end().get(check.name, {}), seconds

    @property
    def checks(self) -> list[Check]:
        """Quick ones."""
        return [check for check in CHECKS if check.level == "quick"]

    def of(self, mutant: Mutant) -> list[Check]:
        """The checks that run the mutant's statement, as many as ``budget`` seconds allow."""
        named, sum_ = {check.name: check for check in self.checks}, 0.0
        chosen: list[Check] = []
        for name in self.proved.order(mutant, self.reach.of(mutant), self.reach.seconds):
            sum_ += self.reach.seconds[name]
            if sum_ <= self.budget or not chosen:
                chosen.append(named[name])
        return chosen

    def judge(self, mutant: Mutant) -> Callable[[], str]:
        """Runs them until one fails."""

        def run() -> str:
            subject = Subject(ExperimentConfig())
            if not mutant.module.startswith("fedmm.data."):  # its data are as they were
                subject.__dict__.update({name: getattr(self.subject, name) for name in ("dataset", "split")})
            for check in self.of(mutant):
                limited(4.0 + 4.0 * self.reach.seconds[check.name])
                (result,) = run_checks([check], subject)
                if not result.passed:
                    return check.name
            limited(0.0)
            return ""

        return run

    def limit(self, mutant: Mutant) -> float:
        """Seconds after which a mutant is taken for stuck, though it uses no processor."""
        return 120.0 + 30.0 * sum(self.reach.seconds[check.name] for check in self.of(mutant))
