"""The table of data that nothing was chosen on: the default command beside round 0 and transition counts, on test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .tables import ALPHA, NDCG, UNMEASURED, Interval, Results, markdown, under, verdict_of

STUDIES = {
    "halves": {"half": "half of Toys' users", "other half": "the other half"},
    "shops": {"lines": 'made-up shop "lines"', "crisp": 'made-up shop "crisp"'},
}  # study -> variant: its data
BESIDE = {"round_0": "round 0", "transition_counts": "transition counts"}
HEAD = ("data", "transition counts", "round 0", "**fedmm**", "minus round 0", "minus counts", "seeds")
NOTE = (
    "NDCG@10 on test, each user's last item ranked among all items the user has not met; means over the seeds, 95% "
    "intervals and p of paired tests over users and seeds. Each run is measured at its best round by validation."
)


def unseen_table(found: Results) -> str:
    """One line a data set, then how many of them the default command is better on."""
    rows = [
        (data, *cells)
        for study, variants in STUDIES.items()
        for variant, data in variants.items()
        for cells in _cells(found, study, variant)
    ]
    if not rows:
        return UNMEASURED
    measured = [study for study in STUDIES if found.variants(study)]
    commands = "; ".join(f"fedmm sweep --study {study}" for study in measured)
    return under(commands, markdown(HEAD, rows, f"{NOTE} {_verdicts(found)}"))


def _cells(found: Results, study: str, variant: str) -> Iterator[Sequence[str]]:
    own = found.interval(study, variant, "", NDCG)
    tests = [_test(found, study, variant, name) for name in BESIDE]
    if own is None or None in tests:
        return
    beside = [found.mean(study, variant, f"test/{name}/{NDCG}") for name in ("transition_counts", "round_0")]
    told = [f"{test.signed}, p {test.p:.4f}" for test in tests if test]
    values = ["" if value is None else f"{value:.4f}" for value in beside]
    yield *values, str(own), *told, found.seeds(study, variant)


def _verdicts(found: Results) -> str:
    words = []
    for name, called in BESIDE.items():
        tests = [_test(found, study, variant, name) for study, variants in STUDIES.items() for variant in variants]
        measured = [verdict_of(test) for test in tests if test]
        words.append(f"than {called} on {measured.count('better')} of {len(measured)}")
    return f"The default command is better (p < {ALPHA:g}) {' and '.join(words)}."


def _test(found: Results, study: str, variant: str, opponent: str) -> Interval | None:
    return found.interval(study, variant, opponent, NDCG)
