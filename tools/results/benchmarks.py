"""The table of benchmarks: fedmm, federated and central, and each yardstick beside published figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .tables import HR, NDCG, UNMEASURED, Results, markdown, under

BENCHMARKS = "benchmarks"
MODELS = {  # variant: what it is called
    "federated": "**fedmm**, the default command",
    "federated, attributes": "**fedmm**, with attributes",
    "centralized": "fedmm, central",
    "centralized, attributes": "fedmm, central, with attributes",
}
YARDSTICKS = {  # row beside a run: what it is called
    "popularity": "popularity",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "transition_counts": "transition counts",
    "succession": "what followed, counted (`model.succession` alone)",
    "round_0": "fedmm before training",
}
TRAINED = {"round_0": "none", "ease": "pooled", "item_knn": "pooled"}  # the others are counted
OPPONENTS = {"round_0": "before training", "transition_counts": "transition counts", "centralized": "fedmm, central",
             "centralized, attributes": "fedmm, central, with attributes"}  # fmt: skip
HEAD = ("model", "training", "HR@10", "NDCG@10", "seeds", "MB up, down", "minutes")


@dataclass(frozen=True)
class Published:
    """A row of somebody's table, trained centrally, without intervals."""

    model: str
    hr: float
    ndcg: float


# Zhou et al., S3-Rec, CIKM 2020, their table on Amazon Toys: leave-one-out, ranked among all items.
TOYS = (
    Published("GRU4Rec", 0.0176, 0.0084),
    Published("BERT4Rec", 0.0203, 0.0099),
    Published("Caser", 0.0270, 0.0141),
    Published("SASRec", 0.0675, 0.0374),
    Published("S3-Rec, with attributes", 0.0700, 0.0376),
)
NOTE = (
    "Toys (Amazon, 5-core sequences), test, each user's last item ranked among all items the user has not met. "
    "Intervals are 95%, over users and over the seeds where there are several. MB are what one of the clients sends "
    "and receives over the whole run, on average; minutes are of processor time on one core, evaluation included. "
    "Published: Zhou et al., S3-Rec (CIKM 2020)."
)


def benchmarks_table(found: Results) -> str:
    """One line a model: yardsticks, published figures, fedmm; then the paired tests."""
    measured = [variant for variant in MODELS if variant in found.variants(BENCHMARKS)]
    if not measured:
        return UNMEASURED
    rows = [*_beside(found, measured), *_published(), *(_own(found, variant) for variant in measured)]
    rows.sort(key=lambda row: float(row[3].split()[0]))
    command = f"fedmm sweep --study {BENCHMARKS} --data interactions.txt --attributes item_attributes.json"
    return "\n\n".join([under(command, markdown(HEAD, rows, NOTE)), _tests(found, measured)])


def _beside(found: Results, variants: Sequence[str]) -> Iterator[Sequence[str]]:
    """The yardsticks, as they were measured beside the runs of the first variant that has them; no seed changes most of
    them."""
    for name, called in YARDSTICKS.items():
        for variant in variants:
            values = [found.column(BENCHMARKS, variant, f"test/{name}/{metric}") for metric in (HR, NDCG)]
            if not values[0]:
                continue
            seeds = found.seeds(BENCHMARKS, variant) if len(set(values[1])) > 1 else ""
            yield called, TRAINED.get(name, "counted"), *(_mean(each) for each in values), seeds, "", ""
            break


def _published() -> Iterator[Sequence[str]]:
    for row in TOYS:
        yield row.model, "central, published", f"{row.hr:.4f}", f"{row.ndcg:.4f}", "", "", ""


def _own(found: Results, variant: str) -> Sequence[str]:
    intervals = [found.interval(BENCHMARKS, variant, "", metric) for metric in (HR, NDCG)]
    clients = found.mean(BENCHMARKS, variant, "clients")
    sent = [found.mean(BENCHMARKS, variant, f"{way}_bytes") for way in ("uplink", "downlink")]
    minutes = found.mean(BENCHMARKS, variant, "processor_seconds")
    central = variant.startswith("central")
    return (
        MODELS[variant],
        "central" if central else "federated",
        *("" if one is None else str(one) for one in intervals),
        found.seeds(BENCHMARKS, variant),
        ""
        if central or not clients or None in sent
        else ", ".join(f"{one / clients / 1e6:.1f}" for one in sent if one),
        "" if minutes is None else f"{minutes / 60:.1f}",
    )


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.4f}"


def _tests(found: Results, variants: Sequence[str]) -> str:
    rows = [
        (MODELS[variant], called, test.signed, f"{test.p:.4f}", str(test.seeds))
        for variant in variants
        for opponent, called in OPPONENTS.items()
        if (test := found.interval(BENCHMARKS, variant, opponent, NDCG)) is not None and variant != opponent
    ]
    return markdown(("model", "against", "difference of NDCG@10", "p", "seeds"), rows)
