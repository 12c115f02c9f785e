"""Every use of what Optuna does not promise to keep: private names, and attributes of its own making. Nothing else in
fedmm touches them, and ``tests/tuning/test_optuna_internals.py`` has a law for each, which fails where Optuna changes
one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, cast

from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import HyperbandPruner
from optuna.storages import BaseStorage
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

if TYPE_CHECKING:
    from collections.abc import Container

    from optuna.storages.journal import JournalFileOpenLock
    from optuna.study import Study

FIXED = "fixed_params"  # the system attribute in which enqueue_trial keeps what it fixes
NO_BRACKET = -1


def fixed_values(trial: FrozenTrial) -> dict[str, Any] | None:
    """The values that the trial was queued with; None for a trial that was never queued."""
    values = trial.system_attrs.get(FIXED)
    return None if values is None else dict(values)


def add_running(study: Study, attributes: Mapping[str, Any]) -> int:
    """Adds a running trial with its user attributes in one step; returns its number. ``add_trial`` returns none."""
    trial = create_trial(state=TrialState.RUNNING, user_attrs=dict(attributes))
    storage = _storage(study)
    return storage.get_trial(storage.create_new_trial(study._study_id, trial)).number


def start(study: Study, trial: FrozenTrial, attributes: Mapping[str, Any]) -> bool:
    """Sets a waiting trial running and notes attributes; False where another process was faster.

    Optuna's ``ask`` takes whichever trial waits, and makes one where none does.
    """
    try:
        if not _storage(study).set_trial_state_values(trial._trial_id, TrialState.RUNNING):
            return False
        _note(study, trial, attributes)
    except UpdateFinishedTrialError:
        return False
    return True


def fail(study: Study, trial: FrozenTrial, attributes: Mapping[str, Any]) -> bool:
    """Marks a trial failed and notes attributes; False where it had ended before. ``tell`` takes no foreign trial."""
    with suppress(UpdateFinishedTrialError):
        _note(study, trial, attributes)
        return bool(_storage(study).set_trial_state_values(trial._trial_id, TrialState.FAIL))
    return False


def live_trial(study: Study, trial: FrozenTrial) -> Trial:
    """A running trial, to draw values for and report to. What its sampler reads is read anew."""
    study._thread_local.cached_all_trials = None
    return Trial(study, trial._trial_id)


def journal_locked(lock: JournalFileOpenLock) -> AbstractContextManager[None]:
    """Holds a journal's lock as Optuna does."""
    return get_lock_file(lock)


class StudyWith:
    """A study whose trials are seen through ``view``, as samplers ask for them; the rest is the study's own."""

    def __init__(self, study: Study, view: Callable[[FrozenTrial], FrozenTrial]) -> None:
        self._study = study
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = self._study._get_trials(deepcopy, states, use_cache)
        return sorted(map(self._view, found), key=lambda trial: trial.number)


def study_with(study: Study, view: Callable[[FrozenTrial], FrozenTrial]) -> Study:
    """The study as a sampler takes it: each trial seen through ``view``, in the order of the numbers it has there."""
    return cast("Study", StudyWith(study, view))


class HyperbandWith(HyperbandPruner):
    """Hyperband whose brackets go by trials as seen through ``view``; failed trials are in no bracket."""

    def __init__(
        self, min_resource: int, max_resource: int, reduction_factor: int, view: Callable[[FrozenTrial], FrozenTrial]
    ) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._view = view

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if trial.state == TrialState.FAIL:
            return NO_BRACKET
        return super()._get_bracket_id(study, self._view(trial))


def _storage(study: Study) -> BaseStorage:
    return study._storage


def _note(study: Study, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        _storage(study).set_trial_user_attr(trial._trial_id, name, value)
