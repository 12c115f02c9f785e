"""Tables of results in the documents: parts, fail-safe and price. Every figure comes from the rows of the CSV files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedmm.config import ExperimentConfig
from fedmm.utils.statistics import holm

ALPHA = 0.05
NDCG, HR, HR50, UNIFORM = "full/ndcg_at_10", "full/hr_at_10", "full/hr_at_50", "uniform100/hr_at_10"
QUALITY, PARTS = "quality", "parts"
DATA = {"ml-100k": "ML-100K"}  # as people call it, where that is not its name
FROZEN = {  # variant of quality -> its model
    "bundled": "residual",
    "residual": "residual",
    "best": "best",
    "5core": "residual",
    "5core, best": "best",
}
MODELS = {"residual": "the default", "best": "with the transition expert"}
# What a variant of parts takes out of the defaults; other variants put something in.
TAKEN_OUT = {
    "backbone": "two pooled experts",
    "no load balance": "load balance",
    "no dropout": "dropout",
    "no spectral start": "spectral start",
    "plain mean": "heat normalisation",
    "seen candidates": "leaving out what a client met",
}
# The last three stand in the defaults, not in the base.
DEFAULTS = {*TAKEN_OUT, "neighbor experts", "server adam, .02", "moving average, .9"}
# What a variant of parts is measured against where that is not the base: the other one's change is in it too.
REFERENCES = {
    "256 negatives, log-Q": "256 negatives",
    "gBCE, 256 negatives": "256 negatives",
    "BPR, 256 negatives": "256 negatives",
    "memory, 16 prototypes": "memory experts",
}
PARTS_ALONE = {"backbone": "the backbone alone"}
PARTS_ALONE |= {name: f"the {name} expert alone" for name in ("visual", "semantic", "transition")}
FAIL_SAFE = -0.005  # NDCG@10 that the residual model may be below its backbone, by the lower end of the interval
PRICED = (  # a model: the variants of quality that train it centrally and federated
    ("residual", "centralized", ("100 rounds", "residual")),
    ("best", "best, centralized", ("best, 100 rounds", "best")),
)
UNMEASURED = "Not measured yet."


@dataclass(frozen=True)
class Interval:
    """A mean or a difference with its 95% interval over users and seeds."""

    value: float
    low: float
    high: float
    p: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def signed(self) -> str:
        """For a difference."""
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def flipped(self) -> Interval:
        """The difference the other way round."""
        return Interval(-self.value, -self.high, -self.low, self.p, self.seeds)


@dataclass(frozen=True)
class Results:
    """All rows of all results files, as read."""

    runs: Sequence[Mapping[str, str]]
    pairs: Sequence[Mapping[str, str]]
    groups: Sequence[Mapping[str, str]] = ()

    def variants(self, study: str) -> list[str]:
        """In the order of the file."""
        return list(dict.fromkeys(row["variant"] for row in self.runs if row["study"] == study))

    def rows(self, study: str, variant: str) -> list[Mapping[str, str]]:
        """One a seed."""
        return [row for row in self.runs if (row["study"], row["variant"]) == (study, variant)]

    def column(self, study: str, variant: str, column: str) -> list[float]:
        """The values of the variant's runs, those that have one."""
        return [float(row[column]) for row in self.rows(study, variant) if row.get(column)]

    def mean(self, study: str, variant: str, column: str) -> float | None:
        """Over the variant's runs; None where none has it."""
        values = self.column(study, variant, column)
        return statistics.fmean(values) if values else None

    def interval(self, study: str, variant: str, opponent: str, metric: str, split: str = "test") -> Interval | None:
        """A paired test; with the opponent "" the variant's own mean. None where it was not measured."""
        wanted = (study, variant, opponent, split, metric)
        for row in self.pairs:
            if (row["study"], row["variant"], row["opponent"], row["split"], row["metric"]) == wanted:
                value, low, high = (float(row[key]) for key in ("difference", "low", "high"))
                return Interval(value, low, high, float(row["p"]) if row.get("p") else None, int(row["seeds"]))
        return None

    def settings(self, study: str, variant: str) -> list[str]:
        """``key=value`` for each that differs from the defaults."""
        return [part for part in self.rows(study, variant)[0].get("settings", "").split(" ") if part]

    def command(self, study: str, variant: str) -> str:
        """What trains the variant, with its seeds."""
        options = self.settings(study, variant)
        data = [f"--dataset {part.partition('=')[2]}" for part in options if part.startswith("data.name=")]
        others = [f"--set {part}" for part in options if not part.startswith("data.name=")]
        return " ".join(["fedmm train", *data, "--seed N", *others])

    def seeds(self, study: str, variant: str) -> str:
        """``11, 12, 13``."""
        return ", ".join(row["seed"] for row in self.rows(study, variant))

    def data(self, *places: tuple[str, str]) -> str:
        """What the variants (study, name) were trained on: ``ML-100K``."""
        names = [row["data"] for place in places for row in self.rows(*place)]
        return " and ".join(DATA.get(name, name) for name in dict.fromkeys(names))

    def setup(self, *places: tuple[str, str]) -> str:
        """Data and rounds of the variants: ``ML-100K, 30 rounds``."""
        rounds = [value for place in places for value in self.column(*place, "rounds")]
        told = f"{extent(rounds, '.0f')} rounds" if rounds else ""
        return ", ".join(part for part in (self.data(*places), told) if part)


def extent(values: Sequence[int] | Sequence[float], form: str) -> str:
    """``0.1 to 0.3``, or one figure where all are printed alike."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], *notes: str) -> str:
    """A table, then paragraphs."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join(["\n".join(lines), *notes])


def under(command: str, table: str) -> str:
    """A table below the one command that makes it."""
    return f"    {command}\n\n{table}"


def shares(found: Results, study: str, variant: str, place: str, metrics: Sequence[str]) -> list[str] | None:
    """The means of ``metrics`` ("full/hr_at_10") at ``place`` ("test", "test/round_0"); None where one is missing."""
    values = [found.mean(study, variant, f"{place}/{metric}") for metric in metrics]
    return None if None in values else [f"{value:.3f}" for value in values]


def parts_table(found: Results) -> str:
    """What each part adds to full NDCG@10 on validation, and to bytes and seconds."""
    variants = found.variants(PARTS)
    if not variants:
        return UNMEASURED
    base, others = variants[0], variants[1:]
    against = {name: REFERENCES.get(name, base) for name in others}
    tests = {name: found.interval(PARTS, name, against[name], NDCG, "validation") for name in others}
    measured = {name: test for name, test in tests.items() if test is not None}
    adjusted = dict(zip(measured, holm([test.p or 0.0 for test in measured.values()]), strict=True))
    rows = []
    for name, test in measured.items():
        difference = test.flipped if name in TAKEN_OUT else test
        words = ("lowers it", "cannot be told apart", "raises it")
        word = words[1] if adjusted[name] >= ALPHA else words[2 if difference.value > 0 else 0]
        costs = [_cost(found, name, against[name], column) for column in ("uplink_bytes", "seconds")]
        where = "yes" if name in DEFAULTS else "no"
        part = TAKEN_OUT.get(name, name) + (f", against {against[name]}" if name in REFERENCES else "")
        shown = (part, where, difference.signed, f"{adjusted[name]:.4f}", word, *costs)
        rows.append((difference.value, shown))
    head = ("part", "by default", "adds to NDCG@10", "p (Holm)", "verdict", "bytes sent up", "training time")
    own = found.interval(PARTS, base, "", NDCG, "validation")
    setup = found.setup(*((PARTS, name) for name in (base, *measured)))
    note = (
        f"{setup}, validation, seeds {found.seeds(PARTS, base)}. The base has pooled experts, federated averaging and "
        f"no average over rounds; its NDCG@10 is {own}. Each row is the model with the part minus the model without "
        f"it, with a 95% interval over users and seeds. A part raises or lowers NDCG@10 where the paired test says so "
        f"at {ALPHA:g} after Holm's correction over the table. Bytes and time are ratios of means, with the part over "
        "without it; time also depends on what else the machine did. The transition expert has the gate and rate of "
        'its best configuration. The default server is an Adam, too, at another rate than the row "server adam".'
    )
    table = markdown(head, [row for _, row in sorted(rows, key=lambda row: -row[0])], note)
    return under(f"fedmm sweep --study {PARTS}", table)


def _cost(found: Results, name: str, base: str, column: str) -> str:
    """With the part over without it, one of which is the base."""
    own, other = found.mean(PARTS, name, column), found.mean(PARTS, base, column)
    if not own or not other:
        return ""
    return f"{other / own if name in TAKEN_OUT else own / other:.2f}x"


def failsafe_table(found: Results) -> str:
    """The residual model under real and corrupted features against the backbone, and what its gate did."""
    rows, places = [], []
    for study in (QUALITY, "replication", "claims"):
        for variant in found.variants(study):
            kind = variant.rpartition(", ")[2]
            if kind not in ("residual", "noise", "shuffle"):
                continue
            test = found.interval(study, variant, "backbone", NDCG)
            gate = found.mean(study, variant, "gate")
            if test is None or gate is None:
                continue
            places.append((study, variant))
            gates = found.column(study, variant, "gate")
            held = "holds" if test.low > FAIL_SAFE else "does not hold" if test.high < FAIL_SAFE else "not shown"
            features = {"residual": "real", "noise": "noise", "shuffle": "shuffled across items"}[kind]
            shown = f"{gate:.3f} ({extent(gates, '.3f')})"
            first = f"{_first_gate(found, study, variant):g}"
            rows.append((study, features, test.signed, f"{test.p:.4f}", first, shown, held))
    head = ("study", "features", "NDCG@10 minus backbone", "p", "first gate", "gate at the best round", "fail-safe")
    if not rows:
        return UNMEASURED
    note = (
        f"{found.setup(*places)}, test, paired over users and seeds. The fail-safe holds where the lower end of the "
        f"95% interval is above {FAIL_SAFE:g}. The gate is the mean over the seeds, with its range."
    )
    studies = ", ".join(dict.fromkeys(study for study, _ in places))
    return under(f"fedmm sweep --study {QUALITY}    # the rows' studies: {studies}", markdown(head, rows, note))


def _first_gate(found: Results, study: str, variant: str) -> float:
    """Where the gate of the variant started."""
    own = dict(part.split("=", 1) for part in found.settings(study, variant))
    return float(own.get("model.gating_init", ExperimentConfig().model.gating_init))


def price_table(found: Results) -> str:
    """Federated against centralised, model by model."""
    rows, places = [], []
    for model, central, federated in PRICED:
        reference = found.mean(QUALITY, central, f"test/{NDCG}")
        for variant in (central, *federated) if reference else ():
            value = found.mean(QUALITY, variant, f"test/{NDCG}")
            if value is None:
                continue
            places.append((QUALITY, variant))
            share = "100%" if variant == central else f"{value / reference:.1%}"
            rows.append((MODELS[model], *_priced(found, variant, central, share)))
    head = ("model", "training", "HR@10", "NDCG@10", "minus centralised", "share", "sent")
    if not rows:
        return UNMEASURED
    note = (
        f"{found.data(*places)}, test, full ranking, means over seeds {found.seeds(*places[0])}. Each run is measured "
        "at its best round by validation. The difference of NDCG@10 has its 95% interval over users and seeds; sent "
        "are the messages of all clients, both ways."
    )
    return under(f"fedmm sweep --study {QUALITY}", markdown(head, rows, note))


def _priced(found: Results, variant: str, central: str, share: str) -> Sequence[str]:
    full = shares(found, QUALITY, variant, "test", (HR, NDCG)) or ["", ""]
    test = found.interval(QUALITY, variant, central, NDCG)
    most = dict(part.split("=", 1) for part in found.settings(QUALITY, variant)).get("federation.rounds")
    rounds = most or str(ExperimentConfig().federation.rounds)
    label = f"centralised, {rounds} epochs" if variant == central else f"federated, {rounds} rounds"
    sent = sum(found.mean(QUALITY, variant, f"{way}link_bytes") or 0.0 for way in ("up", "down"))
    return label, *full, test.signed if test else "", share, f"{sent / 1e9:.1f} GB"


def verdict_of(test: Interval) -> str:
    """Better, worse, or cannot be told apart, at ``ALPHA``."""
    if test.p is None or test.p >= ALPHA:
        return "cannot be told apart"
    return "better" if test.value > 0 else "worse"
