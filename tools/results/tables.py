"""The README's tables of results: which variant of which study each row shows. Every figure comes from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedmm.config import ExperimentConfig
from fedmm.evaluation.significance import holm

from .runs import BESIDE

ALPHA = 0.05
NDCG, HR, HR50, UNIFORM = "full/ndcg_at_10", "full/hr_at_10", "full/hr_at_50", "uniform100/hr_at_10"
WORDS = {NDCG: "full NDCG@10", HR: "full HR@10", HR50: "full HR@50", UNIFORM: "100 negatives HR@10"}
QUALITY, PARTS = "quality", "parts"
DATA = {"ml-100k": "ML-100K"}  # as people call it, where that is not its name
Bars = Mapping[str, tuple[float, float]]  # metric -> must, aim
BARS: Mapping[str, tuple[str, Bars]] = {  # variant of quality -> which model, its bars
    "bundled": ("residual", {UNIFORM: (0.65, 0.69), HR: (0.175, 0.195), NDCG: (0.092, 0.105)}),
    "residual": ("residual", {UNIFORM: (0.71, 0.73), HR: (0.185, 0.200), NDCG: (0.097, 0.105)}),
    "best": ("best", {UNIFORM: (0.735, 0.76), HR: (0.215, 0.230), NDCG: (0.115, 0.125)}),
    "5core": ("residual", {HR50: (0.37, 0.42)}),
    "5core, best": ("best", {HR50: (0.37, 0.42)}),
}
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
PARTS_ALONE = {"backbone": "its backbone alone"}
PARTS_ALONE |= {name: f"its {name} expert alone" for name in ("visual", "semantic", "transition")}
OPPONENTS = {"round_0": "round 0", "transition_counts": "transition counts", "backbone": "a backbone trained alone"}
FAIL_SAFE = -0.005  # NDCG@10 that the residual model may be below its backbone, by the lower end of the interval
PRICE = 0.97  # of the centralised model's NDCG@10
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
        return f"`{' '.join(['fedmm train', *data, '--seed N', *others])}`"

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


def headline_table(found: Results) -> str:
    """The frozen configurations on test, what stands beside them, and the bars."""
    head = ("data and model", "full ranking HR@10 / NDCG@10", "100 uniform negatives", "bars: must, aim", "command")
    rows = [row for variant in BARS if variant in found.variants(QUALITY) for row in _headline(found, variant)]
    note = (
        "Test, means over the seeds; in brackets the 95% interval of HR@10 (or of HR@50) over users and seeds. Parts "
        "alone are those of the trained model, round 0 is the model before any training."
    )
    return markdown(head, rows, note)


def _headline(found: Results, variant: str) -> Iterator[Sequence[str]]:
    model, bars = BARS[variant]
    title = f"{found.data((QUALITY, variant))}, {model}"
    full, uniform = _shares(found, variant, "test")
    full = f"**{full}**{_spread(found, variant, HR)}"
    if HR50 in bars:
        full += f"; HR@50 **{_at_50(found, variant, 'test')}**{_spread(found, variant, HR50)}"
    seeds = found.seeds(QUALITY, variant)
    command = found.command(QUALITY, variant)
    yield f"{title}, seeds {seeds}: **fedmm**", full, uniform, _bars(found, variant, bars), command
    for name in BESIDE:
        full, uniform = _shares(found, variant, f"test/{name}")
        if full:
            at_50 = _at_50(found, variant, f"test/{name}") if HR50 in bars else ""
            alone = PARTS_ALONE.get(name, name)
            yield alone.replace("_", " "), f"{full}; HR@50 {at_50}" if at_50 else full, uniform, "", "the same"
    for opponent, called in OPPONENTS.items():
        test = found.interval(QUALITY, variant, opponent, NDCG)
        if test is not None:
            words = f"{title} minus {called}, NDCG@10"
            yield words, f"{test.signed}, p = {test.p:.4f}", "", _verdict(test), "the same"


def _spread(found: Results, variant: str, metric: str) -> str:
    own = found.interval(QUALITY, variant, "", metric)
    return f" [{own.low:.3f}, {own.high:.3f}]" if own else ""


def _at_50(found: Results, variant: str, place: str) -> str:
    value = found.mean(QUALITY, variant, f"{place}/{HR50}")
    return "" if value is None else f"{value:.3f}"


def _shares(found: Results, variant: str, place: str) -> tuple[str, str]:
    texts = []
    for protocol in ("full", "uniform100"):
        values = [found.mean(QUALITY, variant, f"{place}/{protocol}/{name}_at_10") for name in ("hr", "ndcg")]
        texts.append("" if None in values else " / ".join(f"{value:.3f}" for value in values))
    return texts[0], texts[1]


def _bars(found: Results, variant: str, bars: Bars) -> str:
    cells = []
    for metric, (must, aim) in bars.items():
        value = found.mean(QUALITY, variant, f"test/{metric}")
        if value is not None:
            must_met, aim_met = ("met" if value >= bar else "not met" for bar in (must, aim))
            cells.append(f"{WORDS[metric]} {value:.4f}: {must:g} {must_met}, {aim:g} {aim_met}")
    return "; ".join(cells)


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
        words = ("does not", "cannot be told apart", "earns its keep")
        word = words[1] if adjusted[name] >= ALPHA else words[2 if difference.value > 0 else 0]
        costs = [_cost(found, name, against[name], column) for column in ("uplink_bytes", "seconds")]
        where = "default" if name in DEFAULTS else "option"
        part = TAKEN_OUT.get(name, name) + (f", against {against[name]}" if name in REFERENCES else "")
        shown = (part, where, difference.signed, f"{adjusted[name]:.4f}", word, *costs)
        rows.append((difference.value, shown))
    head = ("part", "is a", "adds to NDCG@10", "p (Holm)", "verdict", "uplink bytes", "training seconds")
    own = found.interval(PARTS, base, "", NDCG, "validation")
    setup = found.setup(*((PARTS, name) for name in (base, *measured)))
    note = (
        f"{setup}, validation, seeds {found.seeds(PARTS, base)}; the base, pooled experts, "
        "federated averaging and no average over rounds, has "
        f"{own}. What a part adds is the model "
        "with it minus the model without it, with a 95% interval over users and seeds; it earns its keep, or does not, "
        f"where the paired test says so at {ALPHA:g} after Holm's correction over the table. Bytes and seconds are "
        "means of the model with the part over those of the model without it, up to the end of training; seconds also "
        "depend on what else the machine did. The transition expert comes with the gate and rate of its best "
        "configuration; the default server is an Adam, too, at another rate than the option's."
    )
    return markdown(head, [row for _, row in sorted(rows, key=lambda row: -row[0])], note)


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
            shown = f"{_first_gate(found, study, variant):g}: {gate:.3f} ({extent(gates, '.3f')})"
            rows.append((study, features, test.signed, f"{test.p:.4f}", shown, held))
    head = (
        "study",
        "features",
        "minus the backbone, NDCG@10",
        "p",
        "first gate: gate at the best round",
        "fail-safe",
    )
    if not rows:
        return UNMEASURED
    note = (
        f"{found.setup(*places)}, test, paired over users and seeds. The fail-safe holds where the lower end of the "
        f"95% interval is above {FAIL_SAFE:g}. The gate's mean and range over the seeds."
    )
    return markdown(head, rows, note)


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
            share = "" if variant == central else f"{value / reference:.1%}"
            if share and variant.endswith("100 rounds"):
                share += f": {PRICE:.0%} {'met' if value / reference >= PRICE else 'not met'}"
            rows.append((model, *_priced(found, variant, central, share)))
    head = ("model", "training", "full HR@10 / NDCG@10", "100 uniform negatives", "NDCG@10 minus centralised")
    if not rows:
        return UNMEASURED
    note = (
        f"{found.data(*places)}, test, means over seeds {found.seeds(*places[0])}. The bar is {PRICE:.0%} of the "
        "centralised NDCG@10 at 100 rounds. Each run is measured at its best round by validation."
    )
    return markdown((*head, "share of it", "bytes", "command"), rows, note)


def _priced(found: Results, variant: str, central: str, share: str) -> Sequence[str]:
    full, uniform = _shares(found, variant, "test")
    test = found.interval(QUALITY, variant, central, NDCG)
    most = dict(part.split("=", 1) for part in found.settings(QUALITY, variant)).get("federation.rounds")
    rounds = most or str(ExperimentConfig().federation.rounds)
    label = f"centralised, {rounds} epochs" if variant == central else f"federated, {rounds} rounds"
    sent = sum(found.mean(QUALITY, variant, f"{way}link_bytes") or 0.0 for way in ("up", "down"))
    difference = test.signed if test else ""
    return label, full, uniform, difference, share, f"{sent / 1e6:.0f} MB", found.command(QUALITY, variant)


def _verdict(test: Interval) -> str:
    if test.p is None or test.p >= ALPHA:
        return "cannot be told apart"
    return "better" if test.value > 0 else "worse"
