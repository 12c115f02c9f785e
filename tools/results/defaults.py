"""The tables of the defaults: each choice against what it replaced, on both datasets that they must serve."""

from __future__ import annotations

from .tables import NDCG, UNMEASURED, Results, markdown, under

STUDIES = ("defaults_ml100k", "defaults")


def defaults_table(found: Results) -> str:
    """Full NDCG@10 on validation of the defaults and of what they were chosen over, a table a dataset."""
    tables = [_table(found, study) for study in STUDIES if found.variants(study)]
    return "\n\n".join(tables) or UNMEASURED


def _table(found: Results, study: str) -> str:
    rows, places = [], []
    variants = found.variants(study)
    for variant in variants:
        own = found.interval(study, variant, "", NDCG, "validation")
        test = found.interval(study, variant, variants[0], NDCG, "validation")
        if own is None:
            continue
        places.append((study, variant))
        name = "**the defaults**" if variant == variants[0] else variant
        changed = [part for part in found.settings(study, variant) if not part.startswith("data.name=")]
        tested = ("", "") if test is None else (test.signed, f"{test.p:.4f}")
        rows.append((name, "<br>".join(f"`{part}`" for part in changed), str(own), *tested))
    note = (
        f"{found.setup(*places)}, validation, seeds {found.seeds(*places[0])}, 95% intervals over users and seeds. The "
        "p values are not corrected: the defaults follow the means over both datasets."
    )
    table = markdown(("model", "settings", "NDCG@10", "minus the defaults", "p"), rows, note)
    return f"### {found.data(places[0])}\n\n" + under(f"fedmm sweep --study {study}", table)
