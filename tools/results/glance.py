"""The README's first table: what federated training is worth, one line a frozen configuration."""

from __future__ import annotations

from .tables import FROZEN, MODELS, NDCG, QUALITY, UNIFORM, UNMEASURED, Results, markdown

CENTRALIZED = {"residual": "centralized", "best": "best, centralized"}  # the twins that pooled data trained
BESIDE = ("popularity", "transition_counts", "round_0")
HEAD = ("test split", "popularity", "transition counts", "round 0, before training", "**fedmm**", "centralised")
NOTE = (
    "Full-ranking NDCG@10 / HR@10 among 100 uniform negatives, means over the seeds. The transition expert is "
    "switched on by `--set model.transition=true`. Measured before counts of what followed recent items were added by "
    "default: `--set model.succession=0` gives these figures."
)


def glance_table(found: Results) -> str:
    """Full-ranking NDCG@10 and HR@10 among 100 uniform negatives of each and of its reference models."""
    measured = [variant for variant in FROZEN if variant in found.variants(QUALITY)]
    if not measured:
        return UNMEASURED
    rows = [
        (
            f"{found.data((QUALITY, variant))}, {MODELS[FROZEN[variant]]}",
            *(_cell(found, variant, f"test/{name}") for name in BESIDE),
            f"**{_cell(found, variant, 'test')}**",
            _cell(found, CENTRALIZED.get(variant, ""), "test"),
        )
        for variant in measured
    ]
    return markdown(HEAD, rows, NOTE)


def _cell(found: Results, variant: str, place: str) -> str:
    values = [found.mean(QUALITY, variant, f"{place}/{metric}") for metric in (NDCG, UNIFORM)]
    return "" if None in values else " / ".join(f"{value:.3f}" for value in values)
