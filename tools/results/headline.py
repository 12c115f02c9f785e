"""The table of quality: each frozen configuration on test, its reference models, and the paired tests between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .runs import BESIDE
from .tables import (
    FROZEN,
    HR,
    HR50,
    MODELS,
    NDCG,
    PARTS_ALONE,
    QUALITY,
    UNIFORM,
    UNMEASURED,
    Results,
    markdown,
    shares,
    under,
    verdict_of,
)

OPPONENTS = {"round_0": "round 0", "transition_counts": "transition counts", "backbone": "a backbone trained alone"}
HEADS = {HR: "HR@10", NDCG: "NDCG@10", HR50: "HR@50", UNIFORM: "HR@10 of 100"}
HEADS |= {"uniform100/ndcg_at_10": "NDCG@10 of 100"}
NOTE = (
    'Test split, means over the seeds, with the 95% interval of HR@10 over users and seeds. The columns "of 100" '
    'rank the target among 100 uniform negatives, the others among the whole catalogue. Rows "alone" are parts of the '
    "trained model; round 0 is the model before any training."
)


def headline_table(found: Results) -> str:
    """A table a configuration, each under the command that trains it, then one of paired tests."""
    measured = [variant for variant in FROZEN if variant in found.variants(QUALITY)]
    if not measured:
        return UNMEASURED
    return "\n\n".join([*(_table(found, variant) for variant in measured), NOTE, _tests(found, measured)])


def _title(found: Results, variant: str) -> str:
    return f"{found.data((QUALITY, variant))}, {MODELS[FROZEN[variant]]}"


def _table(found: Results, variant: str) -> str:
    metrics = [metric for metric in HEADS if metric != HR50 or found.mean(QUALITY, variant, f"test/{HR50}") is not None]
    rows = list(_rows(found, variant, metrics))
    table = markdown(("model", *(HEADS[metric] for metric in metrics)), rows)
    seeds = found.seeds(QUALITY, variant)
    return f"### {_title(found, variant)}\n\n" + under(f"{found.command(QUALITY, variant)}    # N: {seeds}", table)


def _rows(found: Results, variant: str, metrics: Sequence[str]) -> Iterator[Sequence[str]]:
    own = shares(found, QUALITY, variant, "test", metrics)
    if own is not None:
        interval = found.interval(QUALITY, variant, "", HR)
        spread = f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else ""
        yield "**fedmm**", f"**{own[0]}**{spread}", *(f"**{value}**" for value in own[1:])
    for name in BESIDE:
        values = shares(found, QUALITY, variant, f"test/{name}", metrics)
        if values is not None:
            yield PARTS_ALONE.get(name, name.replace("_", " ")), *values


def _tests(found: Results, variants: Sequence[str]) -> str:
    rows = [
        (_title(found, variant), called, f"{test.value:+.4f}", f"{test.low:+.4f} to {test.high:+.4f}", f"{test.p:.4f}",
         verdict_of(test))
        for variant in variants
        for opponent, called in OPPONENTS.items()
        if (test := found.interval(QUALITY, variant, opponent, NDCG)) is not None
    ]  # fmt: skip
    head = ("data and model", "against", "difference of NDCG@10", "95% interval", "p", "verdict")
    return "### Paired tests\n\n" + under(f"fedmm sweep --study {QUALITY}", markdown(head, rows))
