"""The README's table of the defaults: each choice against what it replaced, on both datasets that they must serve."""

from __future__ import annotations

from .tables import NDCG, UNMEASURED, Results, markdown

STUDIES = ("defaults_ml100k", "defaults")


def defaults_table(found: Results) -> str:
    """Full NDCG@10 on validation of the defaults and of what they were chosen over."""
    rows, places = [], []
    for study in STUDIES:
        variants = found.variants(study)
        for variant in variants:
            own = found.interval(study, variant, "", NDCG, "validation")
            test = found.interval(study, variant, variants[0], NDCG, "validation")
            if own is None:
                continue
            places.append((study, variant))
            name = "**the defaults**" if variant == variants[0] else variant
            difference = "" if test is None else f"{test.signed}, p = {test.p:.4f}"
            rows.append((found.data((study, variant)), name, str(own), difference, found.command(study, variant)))
    if not rows:
        return UNMEASURED
    note = (
        f"{found.setup(*places)}, validation, seeds {found.seeds(*places[0])}, 95% intervals over users and "
        "seeds. The p values are not corrected: the defaults follow the means over both datasets."
    )
    head = ("data", "settings", "full NDCG@10", "minus the defaults", "command")
    return markdown(head, rows, note)
