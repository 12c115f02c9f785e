"""Claims about what is held out: it is apart, it is not looked at, and changing it changes nothing."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm.config import DataConfig, ExperimentConfig, FederationConfig
from fedmm.data.negatives import evaluation_negatives
from fedmm.data.splits import make_split, training_popularity
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Dataset, FloatArray, IntArray, Queries, Ragged, Split
from fedmm.engines import vectorized
from fedmm.errors import DataError
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.experiment import Experiment
from fedmm.federation.aggregation import sum_updates
from fedmm.federation.local_training import LocalTraining
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, largest_gap, none_of, within, worst
from fedmm.verification.subject import Subject

CANARY_ROUNDS = {"quick": 50, "full": 100}
CANARY_CLIENTS = 90


def both_splits(subject: Subject) -> list[Split]:
    """The configured split, and the other kind over the same data where it can be made."""
    found = [subject.split]
    for kind in ("leave_one_out", "temporal"):
        if kind != subject.config.data.split:
            try:
                found.append(make_split(subject.dataset, subject.config.data.model_copy(update={"split": kind})))
            except DataError:
                continue
    return found


def shared_pairs(subject: Subject) -> Finding:
    """(user, item) pairs that are in two of: training, validation targets, test targets."""
    count, splits = 0, both_splits(subject)
    for split in splits:
        train = pairs(np.arange(len(split.train)), split.train, split.num_items)
        targets = [own.users * (split.num_items + 1) + own.targets for own in (split.validation, split.test)]
        for left, right in ((train, targets[0]), (train, targets[1]), (targets[0], targets[1])):
            count += len(np.intersect1d(left, right))
    return none_of(count, " and ".join(split.name for split in splits))


def pairs(users: IntArray, rows: Ragged, num_items: int) -> IntArray:
    """One number for each (user, item)."""
    return np.asarray(users[rows.row_of_value] * (num_items + 1) + rows.values)


def held_out_in_training(subject: Subject) -> Finding:
    """Held-out (user, item) pairs among the inputs and targets of that client's training windows."""
    count = 0
    for split in both_splits(subject):
        recommender = Recommender.build(subject.config.model, split.num_items, {})
        windows = LocalTraining.build(recommender, subject.config.federation, split.train, 0).windows
        for queries in (split.validation, split.test):
            for user, target in zip(queries.users, queries.targets, strict=True):
                own = range(windows.first[user], windows.first[user + 1])
                count += any(
                    target in windows.items[windows.start[w] : windows.start[w] + windows.length[w] + 1] for w in own
                )
    return none_of(count, "windows with the item that follows them, both splits")


def future(subject: Subject) -> Finding:
    """Leave-one-out: training items later than a user's own targets. Temporal: any training or history event later
    than any target of that split."""
    count, splits = 0, both_splits(subject)
    when = EventTimes(subject.dataset)
    for split in splits:
        train_times = when(np.arange(len(split.train)), split.train)
        for queries in (split.validation, split.test):
            asked = when(queries.users, Ragged(queries.targets, np.arange(len(queries) + 1)))
            known = when(queries.users, queries.histories)
            count += int((known > asked[queries.histories.row_of_value]).sum())
            if split.name == "temporal":
                count += int((train_times > asked.min()).sum())
            else:
                latest = np.full(len(split.train), -np.inf)
                np.maximum.at(latest, split.train.row_of_value, train_times)
                count += int((latest[queries.users] > asked).sum())
    return none_of(count, " and ".join(split.name for split in splits))


class EventTimes:
    """The timestamp of every (user, item) of a dataset."""

    def __init__(self, dataset: Dataset) -> None:
        histories = dataset.interactions.histories
        self._num_items = dataset.interactions.num_items
        keys = pairs(np.arange(len(histories)), histories, self._num_items)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._times = dataset.interactions.timestamps[self._order]

    def __call__(self, users: IntArray, rows: Ragged) -> FloatArray:
        """[n]: when each value of ``rows`` was met by the row's user."""
        return self._times[np.searchsorted(self._keys, pairs(users, rows, self._num_items))]


def what_leaves(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """Everything that leaves clients, or that the server makes of it, in the spectral round and the first round."""
    experiment = Experiment.prepare(config)
    state, local = experiment.initial_state(), experiment.federation.local
    cohort = experiment.federation.clients
    blocks = list(vectorized.train_cohort(local, state.server.params, cohort, 1))
    found = {f"start/{name}": value for name, value in state.server.params.items()}
    for block in blocks:
        for name, value in block.deltas.items():
            found[f"delta/{name}/{block.clients[0]}"] = value
        found[f"weights/{block.clients[0]}"] = block.weights
        found[f"losses/{block.clients[0]}"] = block.losses
    found["heat"] = sum_updates(iter(blocks), local.train, experiment.split.num_items).holders
    counts = sum_transition_counts(experiment.split.train, experiment.split.num_items)
    found["transition counts"] = torch.from_numpy(counts.toarray())
    found["popularity"] = torch.from_numpy(training_popularity(experiment.split))
    scores = [scorer(np.arange(3), experiment.split.train) for scorer in list(experiment.baselines().values())[:2]]
    found |= {f"baseline/{place}": score for place, score in enumerate(scores)}
    return found


def held_out_changes_nothing(subject: Subject) -> Finding:
    """Two datasets that differ in held-out items alone, each through the whole way from a file: 0.0 only where every
    bit that leaves a client agrees."""
    rows = [row for row in subject.dataset.interactions.histories if 4 <= len(row) <= 40][:60]
    if len(rows) < 2:
        return at_most(float("inf"), 0.0, "fewer than two users have between 4 and 40 items")
    # One client has met everything, so that the catalogue does not depend on what the others hold out.
    everything = np.unique(np.concatenate(rows))
    rows = [*rows, everything]
    changed = [*exchange_held_out(rows[:-1], everything), everything]
    touched = sum(not np.array_equal(left, right) for left, right in zip(rows, changed, strict=True))
    with tempfile.TemporaryDirectory(prefix="fedmm-verify-") as name:
        found = []
        for label, own in (("as it is", rows), ("changed", changed)):
            path = Path(name) / f"{label}.csv"
            write_histories(own, path)
            found.append(what_leaves(_small_run(subject.config, path)))
    left, right = found
    gaps = [(name, largest_gap(value, right.get(name, torch.zeros(0)))) for name, value in left.items()]
    value, label = worst(gaps)
    detail = f"{touched} of {len(rows)} users with other held-out items; {len(left)} tensors compared; largest: {label}"
    return at_most(value, 0.0, detail)


def _small_run(config: ExperimentConfig, path: Path) -> ExperimentConfig:
    changed = config.model_dump()
    changed["data"] = DataConfig(path=path, min_user_interactions=1, visual_features="none", text_features="none")
    changed["model"] |= {"hidden_dim": 8, "num_heads": 2, "num_blocks": 1, "fusion": "backbone", "scoring": "dot"}
    changed["model"] |= {"personal_gate": False, "alignment_weight": 0.0}  # of experts, which have no features here
    changed["model"]["memory"] |= {"num_prototypes": 0}
    changed["federation"] |= {"num_negatives": 20, "local_steps": 2, "local_epochs": None, "cohort_size": None}
    changed["federation"] |= {"warmup_rounds": 0, "spectral_start": True}
    changed["evaluation"] |= {"protocols": ("full",), "cutoffs": (10,), "selection_metric": "full/ndcg_at_10"}
    return ExperimentConfig.model_validate(changed)


def exchange_held_out(rows: Sequence[IntArray], items: IntArray) -> list[IntArray]:
    """The same histories but for their last two items, which become others of ``items``."""
    stream = numpy_stream(0, "verify held out")
    return [np.append(row[:-2], stream.choice(np.setdiff1d(items, row), 2, replace=False)) for row in rows]


def write_histories(rows: Sequence[IntArray], path: Path) -> None:
    """A CSV file whose timestamps are the places in the history, so that there are no ties to break."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "timestamp"])
        for user, row in enumerate(rows):
            writer.writerows((f"u{user:04d}", f"i{item:05d}", place) for place, item in enumerate(row))


def leak_canary(subject: Subject) -> Finding:
    """A per-client counter that learns nothing: score = minus the times an item was drawn as a training negative for
    this client. Were held-out items spared by the draw, it would find them: HR@10 1.000 after 100 rounds."""
    split = subject.split
    config = FederationConfig(num_negatives=100, local_steps=1)
    short = {"dropout": 0.0, "max_length": 10}  # few rows a window: what is drawn knows nothing of its length
    recommender = Recommender.build(subject.config.model.model_copy(update=short), split.num_items, {})
    local = LocalTraining.build(recommender, config, split.train, subject.config.runtime.seed)
    queries = split.test
    chosen = np.flatnonzero(np.isin(queries.users, local.windows.trainable))
    chosen = chosen if subject.full else chosen[:CANARY_CLIENTS]
    drawn = np.zeros((len(chosen), split.num_items + 1))
    rounds = CANARY_ROUNDS["full" if subject.full else "quick"]
    for number in range(1, rounds + 1):
        for begin in range(0, len(chosen), CANARY_CLIENTS):
            own = np.arange(begin, min(begin + CANARY_CLIENTS, len(chosen)))
            candidates = local.steps(queries.users[chosen[own]], number).step(0, len(own)).batch.candidates
            if candidates is None:
                return at_most(float("inf"), 0.0, "no candidates were drawn")
            np.add.at(drawn, (own[:, None], candidates.numpy()), 1)
    negatives = evaluation_negatives(queries, split, "uniform100", 0)[chosen]
    target = np.take_along_axis(drawn, queries.targets[chosen][:, None], 1)
    others = np.take_along_axis(drawn, negatives.astype(np.int64), 1)
    counts = RankCounts((others < target).sum(1), (others == target).sum(1), np.full(len(chosen), 101))
    hit_rate = float(per_query(counts, (10,))["hr_at_10"].mean())
    chance = 10 / (negatives.shape[1] + 1)
    margin = 4 * (chance * (1 - chance) / len(chosen)) ** 0.5
    detail = f"HR@10 of 100 negatives, {len(chosen)} clients, {rounds} rounds; chance {chance:.3f}"
    return within(hit_rate, chance - margin, chance + margin, detail)


def candidate_faults(subject: Subject) -> Finding:
    """Evaluation negatives that repeat, are the target, are padding or belong to the user."""
    count, rows = 0, 0
    for queries in (subject.split.validation, subject.split.test):
        for protocol in ("uniform100", "popularity100"):
            drawn = evaluation_negatives(queries, subject.split, protocol, subject.config.evaluation.negatives_seed)
            count += sum(_faults_of(row, queries, q) for q, row in enumerate(drawn))
            rows += len(drawn)
    return none_of(count, f"{rows} candidate sets, two protocols, validation and test")


def _faults_of(row: NDArray[np.int32], queries: Queries, q: int) -> int:
    own = {int(queries.targets[q]), *queries.excluded[q].tolist(), *queries.histories[q].tolist()}
    drawn: list[int] = row.tolist()
    return len(drawn) - len(set(drawn)) + sum(item in own or item == 0 for item in drawn)


def training_candidates(subject: Subject) -> Finding:
    """Rows whose training candidates hold an item met before, or whose target is not a candidate: brute force."""
    from fedmm.models.losses.softmax import masked_logits
    from fedmm.models.scores import Scores

    if not subject.config.federation.exclude_seen or subject.config.data.repeats == "keep":
        return none_of(0, "federation.exclude_seen is off or repeats are kept: earlier items are candidates by choice")
    split, count, rows = subject.split, 0, 0
    recommender = Recommender.build(subject.config.model.model_copy(update={"dropout": 0.0}), split.num_items, {})
    local = LocalTraining.build(recommender, FederationConfig(num_negatives=0), split.train, 0)
    clients = numpy_stream(0, "verify clients").choice(local.windows.trainable, min(6, len(local.windows.trainable)))
    for client in clients:
        step = local.steps(np.array([client]), 1).step(0, 1)
        history, targets = split.train[client], step.questions.targets[0]
        dense = torch.zeros(1, len(targets), split.num_items + 1)
        kept = torch.isfinite(masked_logits(Scores((), dense), step.questions))[0].numpy()
        for row, target in enumerate(targets.tolist()):
            place = history.tolist().index(target)
            allowed = np.ones(split.num_items + 1, dtype=bool)
            allowed[0] = False
            allowed[history[:place]] = False
            count += not np.array_equal(kept[row], allowed)
            rows += 1
    return none_of(count, f"{rows} rows of {len(clients)} clients, every candidate compared")


CHECKS: Sequence[Check] = tuple(
    Check("honesty", name, measure)
    for name, measure in (
        ("splits share no (user, item) pair", shared_pairs),
        ("no held-out item enters its client's training", held_out_in_training),
        ("no future: none of a user's own, none at all in the temporal split", future),
        ("changing held-out items changes nothing that leaves a client", held_out_changes_nothing),
        ("leak canary: counting training negatives stays at chance", leak_canary),
        ("training candidates: what a client met before, and nothing else, is left out", training_candidates),
        ("evaluation candidates: no duplicates, none of the user's items", candidate_faults),
    )
)
