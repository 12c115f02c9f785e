"""Rows of results as ``tools/results`` reads them, made by hand, so that every figure of a table is known."""

from __future__ import annotations

from random import Random

from fedmm.study import load_study
from results.benchmarks import BENCHMARKS
from results.claims import BIASES, GATES
from results.defaults import STUDIES as DEFAULTS_STUDIES
from results.groups import GROUP_COLUMNS, KINDS, ROWS
from results.pairs import SAMPLED
from results.runs import COLD, METRICS, OTHERS
from results.tables import PARTS, QUALITY, Results
from results.unseen import STUDIES as UNSEEN

Row = dict[str, str]
CLAIMS = ["residual", "competitive, partial", "competitive, both", "residual, partial", "residual, noise", "backbone"]
CLAIMS += [*GATES.values(), *BIASES]


def run(study: str, variant: str, seed: int, level: float, **others: object) -> Row:
    """One row: every metric on every split is ``level``, plus a thousandth a seed."""
    value = repr(round(level + seed / 1000, 6))
    own = {f"{split}/{metric}": value for split in ("validation", "test") for metric in METRICS}
    beside = {f"test/round_0/{metric}": repr(level / 2) for metric in METRICS}
    facts = {"study": study, "variant": variant, "seed": str(seed), "data": "ml-100k", "rounds": "30", "gate": "0.1"}
    facts |= {"settings": f"data.name=ml-100k model.dropout={level}", "change_sd": value}
    return facts | own | beside | {key: str(one) for key, one in others.items()}


def pair(study: str, variant: str, opponent: str, metric: str, difference: float, half: float, p: object = "") -> Row:
    bounds = {"difference": difference, "low": difference - half, "high": difference + half}
    texts = {key: repr(round(value, 6)) for key, value in bounds.items()}
    split = "validation" if study in (PARTS, *DEFAULTS_STUDIES) else "test"
    names = {"study": study, "variant": variant, "opponent": opponent, "split": split, "metric": metric}
    return {**names, "seeds": "3", **texts, "p": str(p)}


def claims_world(level: float, half: float, p: float) -> Results:
    """All variants of the claims have HR@10 ``level``, within ``half``, and differ from others by nothing."""
    variants = [("claims", name) for name in CLAIMS] + [("claims_large", name) for name in ("large", "all combined")]
    runs = [run(study, name, seed, level) for study, name in variants for seed in (0, 1, 2)]
    pairs = [pair("claims", "residual", SAMPLED, "full/hr_at_10", -0.7 * level, half, p)]
    for study, name in variants:
        for metric in METRICS:
            pairs.append(pair(study, name, "", metric, level, half))
            pairs += [
                pair(study, name, other, metric, 0.0, half, p) for other in ("residual", "competitive", "backbone")
            ]
    return Results(runs, pairs)


def group(variant: str, seed: int, kind: str, name: str, row: str, n: int, level: float) -> Row:
    """One row of groups.csv, of the study quality."""
    value = repr(round(level, 6))
    cells = (QUALITY, variant, str(seed), kind, name, row, str(n), value, value)
    return dict(zip(GROUP_COLUMNS, cells, strict=True))


def drawn_world(seed: int) -> Results:
    """Every variant of every shipped study, with everything that can be measured drawn at random."""
    stream = Random(seed)
    runs, pairs, groups = [], [], []
    for study in ("claims", "claims_large", PARTS, QUALITY, BENCHMARKS, *DEFAULTS_STUDIES, *UNSEEN):
        names = [variant.name for variant in load_study(study).variants]
        for name in names:
            for number in (0, 1, 2):
                own = {column: round(stream.uniform(0.1, 0.9), 6) for column in (*OTHERS, *COLD, "gate", "change_sd")}
                own |= {column: stream.randrange(10**6, 10**9) for column in ("uplink_bytes", "downlink_bytes")}
                own |= {"clients": 1000, "processor_seconds": round(stream.uniform(100, 900), 1)}
                own["seconds"] = round(stream.uniform(100, 900), 1)
                settings = f"model.gating_init={stream.uniform(0, 1):.4f}"
                runs.append(run(study, name, number, stream.uniform(0.1, 0.9), settings=settings, **own))
            for other in ("", SAMPLED, "residual", "competitive", "round_0", "transition_counts", "centralized",
                          "backbone", names[0]):  # fmt: skip
                for metric in METRICS:
                    half, p = stream.uniform(0.001, 0.1), round(stream.uniform(0, 0.1), 6)
                    pairs.append(pair(study, name, other, metric, stream.uniform(0.1, 0.9), half, p))
    for kind in KINDS:
        for name in ("1-9", "10+"):
            for row in ROWS:
                groups += [group("residual", at, kind, name, row, 40, stream.uniform(0.1, 0.9)) for at in (0, 1, 2)]
    return Results(runs, pairs, groups)
