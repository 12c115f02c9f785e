"""What a comparison comes to, in sentences."""

from __future__ import annotations

from fedmm.comparison.types import Comparison, Group, Pair, Verdict
from fedmm.report.comparison_figures import baselines
from fedmm.utils.text import listed, metric_words, probability, share, signed

_OTHER_WAY: dict[Verdict, Verdict] = {
    "better": "worse",
    "worse": "better",
    "cannot be told apart": "cannot be told apart",
}


def headline(comparison: Comparison) -> list[str]:
    """The verdict first, on the metric that decides; then by how much, what other metrics say, and the baselines."""
    groups, metric = comparison.groups, comparison.metrics[0]
    if len(groups) < 2:
        return ["There is one group only: nothing to compare it with."]
    best = groups[0]
    against = {group.label: between(comparison, best.label, group.label, metric) for group in groups[1:]}
    sentences = [_verdict(best, against, metric)]
    nearest = against[groups[1].label]
    if nearest is not None:
        sentences.append(_numbers(nearest, _num_pairs(comparison)))
    sentences += [_elsewhere(comparison, other) for other in comparison.metrics[1:]]
    sentences.append(_beside(comparison, metric))
    return [sentence for sentence in sentences if sentence]


def between(comparison: Comparison, a: str, b: str, metric: str) -> Pair | None:
    """The pair of ``a`` and ``b`` on ``metric`` as ``a`` against ``b``, whichever way round it was tested."""
    for pair in comparison.pairs:
        if pair.metric == metric and (pair.a, pair.b) == (a, b):
            return pair
        if pair.metric == metric and (pair.b, pair.a) == (a, b):
            low, high = pair.ci95
            return Pair(
                a, b, metric, -pair.difference, (-high, -low), pair.p_value, pair.p_adjusted, -pair.effect_size,
                _OTHER_WAY[pair.verdict],
            )  # fmt: skip
    return None


def _verdict(best: Group, against: dict[str, Pair | None], metric: str) -> str:
    by_verdict: dict[Verdict, list[str]] = {}
    for label, pair in against.items():
        if pair is not None:
            by_verdict.setdefault(pair.verdict, []).append(label)
    beaten, alike = by_verdict.get("better", []), by_verdict.get("cannot be told apart", [])
    where = f"on {metric_words(metric)}"
    if beaten and not alike:
        return f"{best.label} is better than {listed(beaten)} {where}."
    if beaten:
        return f"{best.label} is better than {listed(beaten)} {where}; it cannot be told apart from {listed(alike)}."
    if alike:
        return f"No winner: {best.label} has the highest mean {where}, but cannot be told apart from {listed(alike)}."
    return f"{best.label} has the highest mean {where}; no pair was tested."


def _numbers(pair: Pair, num_pairs: int) -> str:
    low, high = pair.ci95
    corrected = f" after Holm's correction over {num_pairs} tests" if num_pairs > 1 else ""
    return (
        f"{pair.a} minus {pair.b}: {signed(pair.difference)}, 95% interval {signed(low)} to {signed(high)}, "
        f"p = {probability(pair.p_adjusted)}{corrected}."
    )


def _elsewhere(comparison: Comparison, metric: str) -> str:
    """Only where another metric has another winner."""
    measured = [group for group in comparison.groups if metric in group.means]
    top = max(measured, key=lambda group: group.means[metric], default=None)
    first = comparison.groups[0]
    if top is None or top is first:
        return ""
    pair = between(comparison, top.label, first.label, metric)
    verdict = {"better": "and is better", "worse": "and is worse"}.get(
        pair.verdict if pair else "", "though the two cannot be told apart"
    )
    return f"On {metric_words(metric)} {top.label} has a higher mean than {first.label}, {verdict}."


def _beside(comparison: Comparison, metric: str) -> str:
    found = baselines(comparison, metric)
    if not found:
        return ""
    best = comparison.groups[0]
    above = [f"{name} ({share(value)})" for name, value in found.items() if value >= best.means[metric]]
    below = [f"{name} ({share(value)})" for name, value in found.items() if value < best.means[metric]]
    parts = [f"below {listed(above)}"] if above else []
    parts += [f"above {listed(below)}"] if below else []
    return f"The mean of {best.label}, {share(best.means[metric])}, is {' and '.join(parts)}; baselines are not tested."


def _num_pairs(comparison: Comparison) -> int:
    """Holm's correction is over the pairs of groups, metric by metric."""
    return len(comparison.groups) * (len(comparison.groups) - 1) // 2
