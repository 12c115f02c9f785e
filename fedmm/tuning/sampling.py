"""Which values a trial gets, and when it is not worth going on with: Optuna's samplers and pruners, made repeatable."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, Trial

from fedmm.study import Choices, Study
from fedmm.tuning.optuna_internals import HyperbandWith, study_with
from fedmm.utils.seeding import derive

STARTUP_TRIALS = 10  # random ones before TPE (Bergstra et al., NeurIPS 2011) has something to learn from
JUDGES = 5  # complete trials before the median rule says anything
SEED_LIMIT = 2**32
ORIGIN = "origin"  # trial attribute: the number under which a trial that was given back was begun


class SeededSampler(BaseSampler):
    """TPE, or uniform sampling, whose draws depend on the study's seed, the trial's number and the trials seen so far,
    and on nothing else: neither on how often the study was resumed nor on which process asks."""

    def __init__(self, study: Study) -> None:
        self._seed = study.plan.seed
        self._uniform = study.plan.sampler == "random"
        self._grouped = study.conditional and not study.plan.minimize
        self._latest: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        """The sampler of one trial; it draws several times, so it is kept until the next trial comes."""
        if self._latest is None or self._latest[0] != trial.number:
            self._latest = trial.number, self._make(derive(self._seed, "sampler", begun_as(trial)) % SEED_LIMIT)
        return self._latest[1]

    def _make(self, seed: int) -> BaseSampler:
        if self._uniform:
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # what is experimental in it, the groups, is pinned
            return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, group=self._grouped)

    def infer_relative_search_space(self, study: OptunaStudy, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the sampler behind it."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler behind it."""
        return self._of(trial).sample_relative(study_with(study, _renumbered), _renumbered(trial), search_space)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the sampler behind it."""
        return self._of(trial).sample_independent(
            study_with(study, _renumbered), _renumbered(trial), param_name, param_distribution
        )


def begun_as(trial: FrozenTrial) -> int:
    """The number under which the trial was begun; its own, unless it continues another."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def _renumbered(trial: FrozenTrial) -> FrozenTrial:
    """A trial that was given back as when it was begun: TPE gives old trials less weight, and an interruption must not
    make one younger; Hyperband has it in the bracket in which it was begun, and it competes once."""
    if ORIGIN not in trial.user_attrs:
        return trial
    twin = copy.copy(trial)
    twin.number = begun_as(trial)
    return twin


def make_pruner(study: Study) -> BasePruner:
    """The study's pruner. It judges no round up to the longest warm-up of the space: until then experts are silent,
    and a long warm-up looks bad. With two objectives there is no order to prune by."""
    if study.plan.pruner == "none" or study.plan.minimize:
        return NopPruner()
    warmup = study.largest_warmup()
    if study.plan.pruner == "median":
        return MedianPruner(n_startup_trials=JUDGES, n_warmup_steps=warmup + 1)
    # Li et al. (JMLR 2018) take 3 or 4. A long warm-up leaves few rounds to judge in, and 4 makes the most of them.
    return HyperbandWith(warmup + 1, study.largest_rounds(), 4, _renumbered)


def suggest(study: Study, trial: Trial) -> dict[str, Any]:
    """The trial's values, in the space's order; what was enqueued with it is kept, the rest is sampled."""
    values: dict[str, Any] = {}
    for parameter in study.space:
        if not parameter.active(values):
            continue
        domain = parameter.domain
        if isinstance(domain, Choices):
            values[parameter.name] = trial.suggest_categorical(parameter.name, domain.values)
        elif domain.integer:
            step = int(domain.step or 1)
            values[parameter.name] = trial.suggest_int(
                parameter.name, int(domain.low), int(domain.high), step=step, log=domain.log
            )
        else:
            values[parameter.name] = trial.suggest_float(
                parameter.name, float(domain.low), float(domain.high), step=domain.step, log=domain.log
            )
    return study.settle(values)
