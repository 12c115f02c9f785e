"""The trials of a study in Optuna's storage: queued ahead, claimed by workers, and given back when a worker is lost.

Every trial is queued before anything runs, TPE's with no values yet. So the budget is the queue: however many workers
ask, each trial is claimed once. A trial whose worker is lost is marked failed, and its successor (``continues``) is
queued with the same values; it goes on from the checkpoint in the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from fedmm.errors import ConfigError
from fedmm.study import Study, dump_study
from fedmm.study.definition import small_seeds
from fedmm.study.records import RunRecord, State, TrialRecord
from fedmm.tuning.liveness import Silences, WorkerId, is_lost
from fedmm.tuning.optuna_internals import fail, fixed_values, live_trial, start
from fedmm.tuning.sampling import ORIGIN, SeededSampler, begun_as, make_pruner
from fedmm.utils.seeding import derive

DIGEST, DEFINITION, PARENT_RUN = "digest", "definition", "parent_run_id"
WORKER, REASON, RUNS, CONTINUES, REPEATS = "worker", "reason", "runs", "continues", "repeats"
CONFIRMATION = ":confirmation"  # after a study's name: its winner and its default on fresh seeds
SEEDS = "seeds"
SEEDS_BELOW = "seeds_below"  # a study's own: its seeds are smaller; studies of before have none, and 63-bit seeds
READABLE = 1_000_000
MOST_LOSSES = 3  # a trial whose workers die this often kills them
UNCLAIMED_SECONDS = 60.0  # a claim takes milliseconds
LOST, INTERRUPTED, DUPLICATE = "its worker died", "interrupted", "duplicate"
STATES: Mapping[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def open_trials(study: Study, storage: BaseStorage, *, confirmation: bool = False) -> optuna.Study:
    """The study's trials, made if there are none yet.

    Raises ConfigError where the name is taken by a study of another definition.
    """
    name = study.name + CONFIRMATION * confirmation
    pruner = optuna.pruners.NopPruner() if confirmation else make_pruner(study)
    directions = ("maximize",) if confirmation else study.directions
    trials = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=list(directions),
        sampler=SeededSampler(study),
        pruner=pruner,
        load_if_exists=True,
    )
    stored = trials.user_attrs.get(DIGEST)
    if stored is None:
        trials.set_user_attr(SEEDS_BELOW, READABLE)
        trials.set_user_attr(DEFINITION, dump_study(study))
        trials.set_user_attr(DIGEST, study.digest)  # last: where it is, everything is
    elif stored != study.digest:
        raise ConfigError(
            f"There is another study called {study.name} (digest {stored}, this one has {study.digest}).",
            "Give this one another name with --name, or go on with that one by --resume.",
        )
    return trials


def study_names(storage: BaseStorage) -> list[str]:
    """The studies that the storage holds, their confirmations left out."""
    return [name for name in optuna.get_all_study_names(storage) if not name.endswith(CONFIRMATION)]


def stored_definition(storage: BaseStorage, name: str) -> str | None:
    """The TOML text of a study that the storage holds; None where it holds none of that name."""
    if name not in optuna.get_all_study_names(storage):
        return None
    text = optuna.load_study(study_name=name, storage=storage).user_attrs.get(DEFINITION)
    return None if text is None else str(text)


def fill_queue(trials: optuna.Study, study: Study) -> int:
    """Queues what the budget lacks: the points of the grid, or the default values and then free trials.

    Returns how many were queued. One process at a time may call it.
    """
    everything = trials.get_trials(deepcopy=False)
    mine = [t for t in everything if fixed_values(t) is not None and CONTINUES not in t.user_attrs]
    if study.plan.sampler == "grid":
        there = {_key(fixed_values(trial) or {}) for trial in mine}
        wanted = [point for point in study.grid() if _key(point) not in there]
    else:
        free: dict[str, Any] = {}
        wanted = [study.default_values() if not mine and not place else free for place in range(_lacking(mine, study))]
    for values in wanted:
        trials.enqueue_trial(values)
    return len(wanted)


def queue_confirmation(
    trials: optuna.Study, study: Study, configurations: Iterable[Mapping[str, Any]], num: int
) -> None:
    """Queues each configuration once for every one of ``num`` fresh seeds, unless that has been done."""
    there = {(_key(fixed_values(t) or {}), tuple(t.user_attrs[SEEDS])) for t in trials.get_trials(deepcopy=False)}
    for seed in _fresh_seeds(study, num, trials.user_attrs.get(SEEDS_BELOW)):
        for values in configurations:  # all under the same seeds: their differences count
            if (_key(values), (seed,)) not in there:
                trials.enqueue_trial(dict(values), user_attrs={SEEDS: [seed]})


def _fresh_seeds(study: Study, num: int, below: int | None) -> list[int]:
    """Seeds that no trial has: small ones are as large as ``below`` or larger, where those of trials are smaller."""
    drawn = [derive(study.plan.seed, "confirmation", index) for index in range(num)]
    return drawn if below is None else [below + seed for seed in small_seeds(drawn, below)]


def claim(trials: optuna.Study, worker: WorkerId) -> Trial | None:
    """The next trial in the queue, now this worker's; None where the queue is empty.

    Not Optuna's ``ask``, which makes a trial of its own where the queue is empty, and takes one that was given back
    last: that one comes first here, so that a study that was stopped goes on as if it had not been.
    """
    while waiting := trials.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        for trial in sorted(waiting, key=begun_as):
            if not start(trials, trial, {WORKER: worker.to_json()}):
                continue
            if not _is_duplicate(trials, trial):
                return live_trial(trials, trial)
            end_trial(trials, trial.number, DUPLICATE)
    return None


def give_back(trials: optuna.Study, number: int, reason: str) -> bool:
    """Marks a running trial failed and queues its successor; whoever marks it is the one to queue. False where another
    process was faster."""
    trial = trials.get_trials(deepcopy=False)[number]
    if _is_duplicate(trials, trial):  # its worker died before it saw that
        return end_trial(trials, number, DUPLICATE)
    if not end_trial(trials, number, reason):
        return False
    if reason != LOST or _losses(trials, trial) < MOST_LOSSES:
        _queue_successor(trials, trial)
    return True


def give_back_lost(trials: optuna.Study, silences: Silences) -> list[int]:
    """Gives back every running trial whose worker is gone; returns their numbers. To be called again and again with
    the same ``silences``."""
    running = trials.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    beats = trials.user_attrs if running else {}
    lost = []
    for trial in running:
        worker = WorkerId.from_json(trial.user_attrs.get(WORKER))
        if worker is None:
            gone = silences.seconds((trials.study_name, trial.number), None) > UNCLAIMED_SECONDS
        else:
            gone = is_lost(worker, silences.seconds(worker, beats.get(worker.heartbeat)))
        if gone and give_back(trials, trial.number, LOST):
            lost.append(trial.number)
    return lost


def mend_queue(trials: optuna.Study) -> None:
    """Queues the successors that a process which died did not come to queue. One process at a time may call it."""
    everything = trials.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in everything}
    for trial in everything:
        given_back = trial.state == TrialState.FAIL and trial.user_attrs.get(REASON) in (LOST, INTERRUPTED)
        if not given_back or trial.number in continued or fixed_values(trial) is None:
            continue
        if trial.user_attrs[REASON] == INTERRUPTED or _losses(trials, trial) < MOST_LOSSES:
            _queue_successor(trials, trial)


def retry_failed(trials: optuna.Study) -> int:
    """Queues every failed trial again, from its last checkpoint; returns how many."""
    failed = [record.number for record in read_trials(trials) if record.state == "failed" and not record.superseded]
    everything = trials.get_trials(deepcopy=False)
    for number in failed:
        _queue_successor(trials, everything[number])
    return len(failed)


def read_trials(trials: optuna.Study) -> list[TrialRecord]:
    """Every trial, in order. One that was queued twice is superseded too."""
    everything = trials.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in everything}
    return [_record(trial, trial.number in continued) for trial in everything]


def counting(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that count: each configuration that was tried, once."""
    return [record for record in records if not record.superseded]


def _record(trial: FrozenTrial, continued: bool) -> TrialRecord:
    attributes = trial.user_attrs
    reason = attributes.get(REASON)
    complete = trial.state == TrialState.COMPLETE
    duration = trial.duration
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        params=dict(trial.params) or fixed_values(trial) or {},
        values=tuple(trial.values) if complete else None,
        curve=dict(trial.intermediate_values),
        runs=tuple(RunRecord(**run) for run in attributes.get(RUNS, ())),
        seconds=None if duration is None else duration.total_seconds(),
        reason=reason,
        superseded=continued or reason == DUPLICATE,
        repeats=attributes.get(REPEATS),
    )


def find_equal(
    trials: optuna.Study, study: Study, number: int, values: Mapping[str, Any], seeds: Sequence[int]
) -> TrialRecord | None:
    """The first complete trial before ``number`` that was trained with these values under these seeds: training them
    again would give the same numbers. None where there is none."""
    trained = (record for record in read_trials(trials)[:number] if record.state == "complete")
    alike = (record for record in trained if [run.seed for run in record.runs] == list(seeds))
    found = (record for record in alike if record.repeats is None and study.settle(record.params) == values)
    return next(found, None)


def repeat(trial: Trial, earlier: TrialRecord) -> list[float]:
    """Gives ``trial`` all that ``earlier`` came to; returns the values of the objectives."""
    trial.set_user_attr(REPEATS, earlier.number)
    trial.set_user_attr(REASON, f"has the values and seeds of trial {earlier.number}, so it was not trained again")
    trial.set_user_attr(RUNS, [asdict(run) for run in earlier.runs])
    for number, value in earlier.curve.items():
        trial.report(value, number)
    return list(earlier.values or ())


def _lacking(mine: list[FrozenTrial], study: Study) -> int:
    return max(0, study.plan.trials - len(mine))


def end_trial(trials: optuna.Study, number: int, reason: str) -> bool:
    """Marks a trial failed; False where it had ended before."""
    return fail(trials, trials.get_trials(deepcopy=False)[number], {REASON: reason})


def _queue_successor(trials: optuna.Study, trial: FrozenTrial) -> None:
    attributes = {CONTINUES: trial.number, ORIGIN: begun_as(trial)}
    if SEEDS in trial.user_attrs:
        attributes[SEEDS] = trial.user_attrs[SEEDS]
    trials.enqueue_trial({**(fixed_values(trial) or {}), **trial.params}, user_attrs=attributes)


def _is_duplicate(trials: optuna.Study, trial: FrozenTrial) -> bool:
    """Whether an earlier trial continues the same one: two processes queued it at the same instant."""
    continues = trial.user_attrs.get(CONTINUES)
    if continues is None:
        return False
    everything = trials.get_trials(deepcopy=False)
    return any(other.user_attrs.get(CONTINUES) == continues for other in everything[: trial.number])


def _losses(trials: optuna.Study, trial: FrozenTrial) -> int:
    """How many workers this trial and those that it continues have lost."""
    everything = trials.get_trials(deepcopy=False)
    losses, at = 1, trial.user_attrs.get(CONTINUES)
    while at is not None:
        losses += everything[at].user_attrs.get(REASON) == LOST
        at = everything[at].user_attrs.get(CONTINUES)
    return losses


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
