"""Claims about a whole run: what it reports is what its kept parameters are worth, everything computed by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from fedmm.runs.metrics import flat_metrics
from fedmm.utils.params import Params
from fedmm.verification import naive
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.counting import counted, followed, kernel, yardstick
from fedmm.verification.little_run import SETTINGS, LittleRun
from fedmm.verification.subject import Subject

SIZES = (3, 10)
PARTS = ("backbone", "visual", "semantic", "succession")
Score = Callable[[list[int], Sequence[int]], list[float]]  # known items, candidates -> their scores
Values = dict[str, list[float]]  # metric -> by query


def questions(run: LittleRun, split: str) -> list[tuple[int, list[int], int, set[int]]]:
    """User, known items, target and the user's other items: the last of those that are not cold on test, the last but
    one on validation, which test knows."""
    found = []
    for user, row in enumerate(run.rows):
        warm = [item for item in row if item not in run.cold]
        if len(warm) >= 3:
            at = len(warm) - (1 if split == "test" else 2)
            found.append((user, warm[:at], warm[at], set(warm) - {warm[at]}))
    return found


def _one(place: int) -> float:
    del place
    return 1.0


def measured(places: Sequence[tuple[int, int]]) -> Values:
    """Metrics of targets with so many candidates above and so many level: means over the places they may stand at."""
    found: Values = {}
    gains: Mapping[str, Callable[[int], float]] = {
        "hr": _one,
        "recall": _one,
        "ndcg": lambda place: 1 / math.log2(place + 2),
        "mrr": lambda place: 1 / (place + 1),
    }
    for k in SIZES:
        for name, gain in gains.items():
            found[f"{name}_at_{k}"] = [
                sum(gain(place) for place in range(better, better + tied + 1) if place < k) / (tied + 1)
                for better, tied in places
            ]
    return found


def ranked(run: LittleRun, score: Score, split: str, protocol: str) -> Values:
    """Each query's metrics under a protocol: all other items of the catalogue that are not cold, or the run's draws."""
    real = set(range(1, run.experiment.split.num_items + 1)) - run.cold
    places = []
    for q, (_, known, target, others) in enumerate(questions(run, split)):
        rivals = sorted(real - others - {target})
        if protocol != "full":
            rivals = run.experiment.negatives[split][protocol][q].tolist()
        own, *scores = score(known, [target, *rivals])
        near = [abs(x - own) <= 1e-9 * max(1.0, abs(own)) for x in scores]
        better = sum(x > own and not level for x, level in zip(scores, near, strict=True))
        places.append((better, sum(near)))
    return measured(places)


def model_score(run: LittleRun, params: Params, *, only: str | None = None) -> Score:
    """Scores by the oracle, from the last items of the history that fit; ``only``: the backbone or one expert alone."""
    recommender, length = run.experiment.recommender, run.experiment.recommender.config.max_length
    weight, softening = float(SETTINGS["model.succession"]), float(SETTINGS["model.succession_softening"])
    table = kernel(run.train, run.experiment.split.num_items, softening)

    formed: dict[tuple[int, ...], dict[int, float]] = {}  # known items -> candidate -> its score: each is formed once

    def score(known: list[int], candidates: Sequence[int]) -> list[float]:
        own = formed.setdefault(tuple(known), {})
        missing = [t for t in dict.fromkeys(candidates) if t not in own]
        own |= dict(zip(missing, form(known, missing), strict=True))
        return [own[t] for t in candidates]

    def form(known: list[int], candidates: Sequence[int]) -> list[float]:
        window = known[-length:]
        states = naive.naive_states(params, window, recommender.config)
        found = []
        for t in candidates:
            if only is None:
                value = naive._score(recommender, params, window, states, t) + followed(table, known, t, weight)
            elif only == "succession":
                value = torch.tensor(followed(table, known, t, weight))
            elif only.startswith("backbone"):
                value = naive._norm(states[-1], params, "backbone.norm") @ params["backbone.item_embedding"][t]
            else:
                value = naive._pooled_score(recommender, params, only, window, t)
                value = value + naive._neighbor_score(recommender, only, window, t)
            # While only the backbone trains, what has followed is added to it all the same.
            found.append(float(value) + (followed(table, known, t, weight) if only == "backbone and counts" else 0.0))
        return found

    return score


def scores_beside(run: LittleRun) -> dict[str, Score]:
    """The reference models that a report shows."""
    counts = counted(run.train, run.experiment.split.num_items)
    held = [sum(item in row for row in run.train) for item in range(run.experiment.split.num_items + 1)]
    start = run.experiment.initial_state().server.params
    parts = {name: model_score(run, run.best, only=name) for name in PARTS}
    return {
        "popularity": lambda _, candidates: [float(held[t]) for t in candidates],
        "transition_counts": lambda known, candidates: [yardstick(counts, known, t) for t in candidates],
        "round_0": model_score(run, start),
        **parts,
    }


def _gaps(label: str, told: Mapping[str, float], values: Values) -> list[tuple[str, float]]:
    return [(f"{label} {name}", abs(told[name] - statistics.fmean(own))) for name, own in values.items()]


def model_reported(subject: Subject) -> Finding:
    """Every metric of the model on both splits under all protocols, from the parameters of the checkpoint; how much of
    the catalogue its lists show; and how many were asked."""
    run = subject.little_run
    gaps = []
    score = model_score(run, run.best)
    for split in ("validation", "test"):
        told = run.result["metrics"][split]
        gaps.append(("protocols", 0.0 if set(told) == {"full", "uniform100", "popularity100"} else math.inf))
        for protocol in told:
            values = ranked(run, score, split, protocol)
            gaps += _gaps(f"{split} {protocol}", told[protocol], values)
            gaps.append((f"{split} users", float(abs(told[protocol]["num_users"] - len(questions(run, split))))))
            for name, own in values.items():
                low, high = told[protocol]["ci95"][name]
                inside = low - 1e-9 <= statistics.fmean(own) <= high + 1e-9
                narrow = max(own) - min(own) < 1e-9 or high - low < 2.2 * 1.96 * statistics.stdev(own) / len(own) ** 0.5
                gaps.append((f"{split} {protocol} {name}: interval", 0.0 if inside and narrow else math.inf))
        real = set(range(1, run.experiment.split.num_items + 1)) - run.cold
        for k in SIZES:
            shown: set[int] = set()
            for _, known, _, others in questions(run, split):
                # The target is among what may be shown.
                rivals = sorted(real - others)
                order = sorted(zip(score(known, rivals), rivals, strict=True), reverse=True)
                shown |= {item for _, item in order[:k]}
            found = told["full"][f"item_coverage_at_{k}"]
            gaps.append((f"{split} coverage at {k}", abs(found - len(shown) / len(real))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} numbers, both splits, three protocols; largest: {label}")


def beside_reported(subject: Subject) -> Finding:
    """Baselines, the start and each part of the model alone on both splits, and the model against them: differences
    user by user, with the sign of the model minus the other."""
    run = subject.little_run
    gaps = []
    model = {split: ranked(run, model_score(run, run.best), split, "full") for split in ("validation", "test")}
    for name, score in scores_beside(run).items():
        rows = {**run.result["baselines"], **run.result["parts"]}
        if name not in rows:
            return at_most(math.inf, 1e-9, f"{name} is missing")
        for split in ("validation", "test"):
            for protocol in ("full", "uniform100"):
                values = ranked(run, score, split, protocol)
                gaps += _gaps(f"{name} on {split}, {protocol}", rows[name][split][protocol], values)
            tests = run.result["paired"][split].get(name, {})
            for metric, told in tests.items():
                protocol, _, measure = metric.partition("/")
                if protocol == "full":
                    theirs = ranked(run, score, split, protocol)[measure]
                    own = [a - b for a, b in zip(model[split][measure], theirs, strict=True)]
                    gaps.append((f"model minus {name} on {split}", abs(told["difference"] - statistics.fmean(own))))
                    low, high = told["ci95"]
                    gaps.append((f"interval of it, {name}", 0.0 if low <= told["difference"] <= high else math.inf))
    tested = set(run.result["paired"]["test"])
    gaps.append((f"tested against {tested}", 0.0 if tested == set(scores_beside(run)) else 1.0))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} numbers; largest: {label}")


def round_reported(subject: Subject) -> Finding:
    """Which round was kept: the best of those validated, recomputed; its parameters are the checkpoint's, and what the
    rounds' file, the report and the result say of it is the same."""
    run = subject.little_run
    gaps = []
    validated = {}
    for state, report in zip(run.states, run.reports, strict=True):
        due = report.round % 2 == 0 or report.round == 5
        gaps.append((f"round {report.round} validated", 0.0 if (report.validation is not None) == due else math.inf))
        if report.validation is not None:
            backbone_only = report.round <= 1
            score = model_score(run, state.server.average, only="backbone and counts" if backbone_only else None)
            values = ranked(run, score, "validation", "full")
            validated[report.round] = statistics.fmean(values["ndcg_at_10"])
            gaps.append((f"round {report.round}", abs(report.validation["full/ndcg_at_10"] - validated[report.round])))
            logged = run.rounds[report.round - 1]
            gaps.append((f"round {report.round}, logged", abs(logged["val/full/ndcg_at_10"] - validated[report.round])))
    best = max(validated, key=lambda number: (validated[number], -number))
    kept = run.states[best - 1].server.average
    told = run.result["metrics"]["validation"]["full"]["ndcg_at_10"]
    weights = run.experiment.recommender.config.gating_init
    gate = run.result["model"]["gating_weight"]
    gaps += [
        ("best round", float(abs(run.result["best_round"] - best))),
        ("rounds", float(abs(run.result["rounds"] - 5))),
        ("parameters", max(float((run.best[name] - value).abs().max()) for name, value in kept.items())),
        ("value", abs(told - validated[best])),
        ("gate", abs(gate - float(kept["fusion.gate"])) if gate != weights else math.inf),
        ("parameters counted", abs(run.result["model"]["num_parameters"] - sum(map(torch.numel, kept.values())))),
        ("bytes up", abs(run.result["communication"]["uplink_bytes"] - run.states[-1].ledger.uplink_bytes)),
        ("bytes down", abs(run.result["communication"]["downlink_bytes"] - run.states[-1].ledger.downlink_bytes)),
        *_logged_gaps(run),
    ]  # fmt: skip
    gaps += _router_gaps(run, kept)
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"five rounds, three validated, best {best}; largest: {label}")


def _logged_gaps(run: LittleRun) -> list[tuple[str, float]]:
    """Each line of the rounds' file against the round's report and state."""
    gaps = []
    for logged, report, state in zip(run.rounds, run.reports, run.states, strict=True):
        for name, value in (
            ("train/loss", report.loss),
            ("model/load_balance_loss", report.load_balance_loss),
            ("federation/update_norm", report.update_norm),
            ("federation/num_clients", report.num_clients),
            ("federation/uplink_bytes", state.ledger.uplink_bytes),
            ("federation/downlink_bytes", state.ledger.downlink_bytes),
            ("model/gating_weight", float(state.server.average["fusion.gate"])),
        ):
            gaps.append((f"{name} of round {report.round}, logged", abs(logged[name] - value)))
    return gaps


def _router_gaps(run: LittleRun, params: Params) -> list[tuple[str, float]]:
    """The experts' mean weights over the items that have any modality."""
    recommender = run.experiment.recommender
    tables = recommender.tables.values()
    any_of = [t for t in range(1, recommender.num_items + 1) if any(table.present[t] for table in tables)]
    weights = [naive.naive_router_weights(recommender, params, t) for t in any_of]
    return [
        (f"weight of {name}", abs(run.result["model"][short] - statistics.fmean(own[name] for own in weights)))
        for name, short in (("visual", "w_vis"), ("semantic", "w_sem"))
    ]


def cold_reported(subject: Subject) -> Finding:
    """The cold items' section: the model and popularity among the cold items alone; and what stands in the file, in the
    result, under the names that are tracked and in an evaluation of the checkpoint is the same."""
    run = subject.little_run
    section = run.result["cold_items"]
    gaps = [("items", float(abs(section["num_items"] - len(run.cold))))]
    score = model_score(run, run.best)
    asked: dict[str, list[tuple[int, int]]] = {"model": [], "popularity": []}
    users = set()
    for user, row in enumerate(run.rows):
        warm = [item for item in row if item not in run.cold]
        kept = len(warm) - 2 if len(warm) >= 3 else len(warm)
        for at, item in enumerate(row):
            known = [other for other in row[:at] if other not in run.cold][:kept]
            if item in run.cold and known:
                users.add(user)
                rivals = sorted(run.cold - set(row))
                own, *others = score(known, [item, *rivals])
                asked["model"].append((sum(x > own for x in others), sum(x == own for x in others)))
                asked["popularity"].append((0, len(rivals)))
    gaps.append(("pairs", float(abs(section["num_queries"] - len(asked["model"])))))
    gaps.append(("users", float(abs(section["num_users"] - len(users)))))
    for name, places in asked.items():
        gaps += _gaps(f"cold {name}", section["rows"][name], measured(places))
    gaps += [(f"chance {name}", abs(section["chance"][name] - statistics.fmean(own)))
             for name, own in measured(asked["popularity"]).items()]  # fmt: skip
    same = all(run.written[key] == run.result[key] for key in ("metrics", "paired", "groups"))
    gaps.append(("the file's numbers", 0.0 if same else math.inf))
    full, again = run.result["metrics"]["test"]["full"], run.again["metrics"]["test"]
    gaps += [(f"{name}, evaluated again", abs(full[name] - again["full"][name])) for name in full if name != "ci95"]
    gaps.append(("protocols, evaluated again", 0.0 if list(again) == ["full"] else math.inf))
    gaps.append(
        ("groups, evaluated again", 0.0 if run.again["groups"]["test"] == run.result["groups"]["test"] else 1.0)
    )
    flat = flat_metrics(run.result)
    gaps += [
        (name, abs(flat[name] - value))
        for name, value in (
            ("test/full/ndcg_at_10", run.result["metrics"]["test"]["full"]["ndcg_at_10"]),
            ("best/full/ndcg_at_10", run.result["metrics"]["validation"]["full"]["ndcg_at_10"]),
            ("baseline/popularity/full/hr_at_3", run.result["baselines"]["popularity"]["test"]["full"]["hr_at_3"]),
            ("part/backbone/full/hr_at_3", run.result["parts"]["backbone"]["test"]["full"]["hr_at_3"]),
            ("cold/model/hr_at_3", section["rows"]["model"]["hr_at_3"]),
        )
    ]
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(run.cold)} cold items, {len(asked['model'])} pairs; largest: {label}")


CHECKS: Sequence[Check] = tuple(
    Check("honesty", name, measure)
    for name, measure in (
        ("a run reports what its kept parameters are worth", model_reported),
        ("a run reports what stands beside its model, and the gain", beside_reported),
        ("a run keeps and reports its best round", round_reported),
        ("a run reports cold items, files and tracked names alike", cold_reported),
    )
)
