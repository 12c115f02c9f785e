"""The old document's claims beside what was measured, as a table.

A claim names a range of a figure. It held where the measured figure lies in the range, and did not where the 95%
interval lies wholly outside; otherwise the two cannot be told apart. That is the rule of ``fedmm compare --expect``. A
claim of a direction, a range that is open at one end, asks more: it held where the whole interval lies in the range.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from scipy import stats

from fedmm.utils.statistics import holm

from .pairs import SAMPLED
from .tables import ALPHA, HR, NDCG, UNIFORM, UNMEASURED, Interval, Results, markdown, under

SMALL, LARGE = "claims", "claims_large"
OLD_BEST = 0.3849
OPEN = math.inf
ZERO_GATE = 0.01  # a tenth of where the gate starts
GATES = {0.0: "residual, gate 0", 0.01: "residual, gate .01", 0.05: "residual, gate .05", 0.2: "residual, gate .2",
         0.5: "residual, gate .5"}  # fmt: skip
BIASES = ("competitive", "competitive, bias 1", "competitive, bias 2", "competitive, bias 4")
HEAD = ("claim", "figure", "measured", "verdict")
Measure = Callable[[Results], Interval | None]


@dataclass(frozen=True)
class Claim:
    """``shown`` says how the figure is printed: a value, a share, a difference."""

    words: str
    what: str
    measure: Measure
    low: float
    high: float
    shown: str = "value"


def value(variant: str, study: str = SMALL) -> Measure:
    """HR@10 on 100 negatives."""
    return lambda found: found.interval(study, variant, "", UNIFORM)


def gain(variant: str, opponent: str, study: str = SMALL, base: str = SMALL) -> Measure:
    """The paired difference to another variant as a share of that one's mean."""

    def measured(found: Results) -> Interval | None:
        test = found.interval(study, variant, opponent, UNIFORM)
        level = found.interval(base, opponent, "", UNIFORM)
        return None if test is None or level is None else _share(test, level.value)

    return measured


def above_old_best(variant: str) -> Measure:
    """The gain over the old document's best number, which is taken as exact."""

    def measured(found: Results) -> Interval | None:
        own = found.interval(SMALL, variant, "", UNIFORM)
        if own is None:
            return None
        return _share(Interval(own.value - OLD_BEST, own.low - OLD_BEST, own.high - OLD_BEST), OLD_BEST)

    return measured


def spread_ratio(found: Results) -> Interval | None:
    """Spread of HR@10 over seeds and initial values, residual over competitive; the interval is that of an F test."""
    columns = [
        [value for name in names for value in found.column(SMALL, name, f"test/{UNIFORM}")]
        for names in (("residual", *GATES.values()), BIASES)
    ]
    if min(map(len, columns)) < 2 or not all(map(statistics.pstdev, columns)):
        return None
    ratio = statistics.stdev(columns[0]) / statistics.stdev(columns[1])
    low, high = (stats.f.ppf(q, len(columns[0]) - 1, len(columns[1]) - 1) ** 0.5 for q in (0.975, 0.025))
    return Interval(ratio, ratio / low, ratio / high)


def change_difference(found: Results) -> Interval | None:
    """Standard deviation of round-to-round changes of validation NDCG@10, residual minus competitive; Welch's t."""
    columns = [found.column(SMALL, name, "change_sd") for name in ("residual", "competitive")]
    if min(map(len, columns)) < 2:
        return None
    test = stats.ttest_ind(*columns, equal_var=False)
    low, high = test.confidence_interval()
    return Interval(statistics.fmean(columns[0]) - statistics.fmean(columns[1]), float(low), float(high))


def noise_gate(found: Results) -> Interval | None:
    """Size of the gate at the best round under noise; Student's t over seeds."""
    gates = [abs(gate) for gate in found.column(SMALL, "residual, noise", "gate")]
    if len(gates) < 2:
        return None
    half = stats.t.ppf(0.975, len(gates) - 1) * statistics.stdev(gates) / len(gates) ** 0.5
    mean = statistics.fmean(gates)
    return Interval(mean, mean - half, mean + half)


def noise_against_backbone(found: Results) -> Interval | None:
    """Full NDCG@10, paired."""
    return found.interval(SMALL, "residual, noise", "backbone", NDCG)


def full_against_sampled(found: Results) -> Interval | None:
    """HR@10 of the full ranking minus that on 100 negatives, of the same runs, as a share of the latter."""
    test, level = found.interval(SMALL, "residual", SAMPLED, HR), found.interval(SMALL, "residual", "", UNIFORM)
    return None if test is None or level is None else _share(test, level.value)


CLAIMS = (
    Claim("(a) competitive fusion, .3606", "HR@10", value("competitive"), 0.3506, 0.3706),
    Claim(
        "(a) router bias (strategy 1) adds 5%", "gain", gain("competitive, bias 2", "competitive"), 0.04, 0.06, "share"
    ),
    Claim(
        "(a) partial aggregation (strategy 2) adds 5.3%",
        "gain",
        gain("competitive, partial", "competitive"),
        0.043,
        0.063,
        "share",
    ),
    Claim("(a) both add 6.7%", "gain", gain("competitive, both", "competitive"), 0.057, 0.077, "share"),
    Claim("(b) residual at gate .1 reaches .40 to .42", "HR@10", value("residual"), 0.40, 0.42),
    Claim("(b) 4 to 9% over the old best, .3849", "gain", above_old_best("residual"), 0.04, 0.09, "share"),
    Claim("(c) residual + partial aggregation, .42 to .45", "HR@10", value("residual, partial"), 0.42, 0.45),
    Claim("(c) 9 to 17% over the old best", "gain", above_old_best("residual, partial"), 0.09, 0.17, "share"),
    Claim("(d) residual beats competitive by 2 to 5%", "gain", gain("residual", "competitive"), 0.02, 0.05, "share"),
    Claim("(d) it is less sensitive to initialisation", "spread over inits and seeds, ratio", spread_ratio, -OPEN, 1.0),
    Claim(
        "(d) it converges more smoothly",
        "round-to-round changes, difference",
        change_difference,
        -OPEN,
        0.0,
        "difference",
    ),
    Claim(
        "(e) with noisy features the gate goes to zero",
        f"size of the gate, at most {ZERO_GATE:g}",
        noise_gate,
        -OPEN,
        ZERO_GATE,
    ),
    Claim(
        "(e) and the model falls back to SASRec",
        "NDCG@10 minus the backbone, above -.005",
        noise_against_backbone,
        -0.005,
        OPEN,
        "difference",
    ),
    Claim(
        "(g) full evaluation adds 10 to 15% to HR@10",
        "gain (impossible: it is the harder test)",
        full_against_sampled,
        0.10,
        0.15,
        "share",
    ),
    Claim(
        "(h) 512 wide, 3 blocks, 50 rounds add 5 to 10%", "gain", gain("large", "residual", LARGE), 0.05, 0.10, "share"
    ),
    Claim("(i) all combined reaches .60 and more", "HR@10", value("all combined", LARGE), 0.60, OPEN),
)


def claims_table(found: Results) -> str:
    """Every claim, what was measured with its interval, and the verdict."""
    rows = [_row(claim, found) for claim in CLAIMS]
    place = next(index for index, claim in enumerate(CLAIMS) if claim.words.startswith("(g)"))
    rows.insert(place, gates_row(found))
    setup = found.setup(*((SMALL, variant) for variant in found.variants(SMALL)))
    if not setup:
        return markdown(HEAD, rows, UNMEASURED)
    note = (
        f"{setup}, test, HR@10 on 100 uniform negatives unless said otherwise, the old settings, means over seeds "
        f"{found.seeds(SMALL, 'residual')}; intervals are 95% over users and seeds. A claim held where the measured "
        "figure lies in its range, did not hold where the whole interval lies outside, and cannot be told apart "
        "otherwise; where a claim is of a direction, the whole interval must agree for it to have held."
    )
    return under(f"fedmm sweep --study {SMALL}    # the last two rows: --study {LARGE}", markdown(HEAD, rows, note))


def verdict(measured: Interval, low: float, high: float) -> str:
    """The rule of this module's docstring; where a claim did not hold, on which side the measurement is."""
    if measured.high < low:
        return "did not hold: below"
    if measured.low > high:
        return "did not hold: above"
    inside = low <= measured.low and measured.high <= high
    if inside or (math.isfinite(low) and math.isfinite(high) and low <= measured.value <= high):
        return "held"
    return "cannot be told apart"


def gates_row(found: Results) -> tuple[str, str, str, str]:
    """Claim (f): among six initial gates .1 is about the best. It did not hold where 0, .01 or .5 beats .1, and held
    where .05, .1 or .2 has the highest mean and .1 beats both ends, by paired tests at .05 after Holm's correction."""
    words = "(f) the best gating_init is about .1"
    levels = {0.1: found.mean(SMALL, "residual", f"test/{UNIFORM}")}
    levels |= {gate: found.mean(SMALL, name, f"test/{UNIFORM}") for gate, name in GATES.items()}
    tests = {gate: found.interval(SMALL, name, "residual", UNIFORM) for gate, name in GATES.items()}
    known = {gate: level for gate, level in levels.items() if level is not None}
    if len(known) < len(levels) or any(test is None for test in tests.values()):
        return words, "HR@10 by gate", "", "not measured"
    adjusted = holm([test.p or 0.0 for test in tests.values() if test is not None])
    sure = {
        gate: test.value if p < ALPHA else 0.0 for (gate, test), p in zip(tests.items(), adjusted, strict=True) if test
    }
    best = max(known, key=lambda gate: known[gate])
    shown = ", ".join(f"{gate:g}: {known[gate]:.4f}" for gate in sorted(known))
    if any(sure[gate] > 0 for gate in (0.0, 0.01, 0.5)):
        return words, "HR@10 by gate", shown, "did not hold"
    held = best in (0.05, 0.1, 0.2) and sure[0.0] < 0 and sure[0.5] < 0
    return words, "HR@10 by gate", shown, "held" if held else "cannot be told apart"


def _row(claim: Claim, found: Results) -> tuple[str, str, str, str]:
    measured = claim.measure(found)
    if measured is None:
        return claim.words, claim.what, "", "not measured"
    if claim.shown == "share":
        shown = f"{measured.value:+.1%} [{measured.low:+.1%}, {measured.high:+.1%}]"
    else:
        shown = measured.signed if claim.shown == "difference" else str(measured)
    return claim.words, claim.what, shown, verdict(measured, claim.low, claim.high)


def _share(difference: Interval, base: float) -> Interval:
    return Interval(difference.value / base, difference.low / base, difference.high / base)
