"""Laws of a comparison's curves: means over what all seeds have, costs that only rise, and every figure as PNG."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.report.comparison_figures import (
    baselines,
    best_so_far,
    by_round,
    cost_panels,
    draw_figures,
    over_seeds,
    weight_panels,
)
from worlds.report_world import METRICS, compared_run, comparison_of, usual

pytestmark = pytest.mark.figures
CURVES = st.lists(st.dictionaries(st.integers(1, 9), st.floats(0, 1), max_size=9), max_size=5)


@given(CURVES)
def test_a_mean_over_seeds_has_every_seed_or_stands_where_none_do(curves):
    filled = [curve for curve in curves if curve]
    points = over_seeds(curves)
    common = set.intersection(*(set(c) for c in filled)) if filled else set()
    assert [x for x, *_ in points] == sorted(common or set().union(*filled))
    for x, mean, low, high in points:
        values = [curve[x] for curve in filled if x in curve]
        assert (low, high) == (min(values), max(values))
        assert mean == pytest.approx(sum(values) / len(values))
    assert over_seeds(curves[::-1]) == [(x, pytest.approx(m), lo, hi) for x, m, lo, hi in points]


def test_the_best_so_far_never_falls_and_ends_at_the_best():
    run = compared_run("a", 1, 0.1, {})
    key = f"val/{METRICS[0]}"
    points = best_so_far(run, key, lambda rounds: [float(entry["round"]) for entry in rounds])
    values = [value for _, value in points]
    assert values == sorted(values)
    assert values[-1] == max(by_round(run, key).values())
    assert best_so_far(run, key, lambda rounds: [math.nan] * len(rounds)) == []


def test_baselines_are_means_over_runs():
    found = baselines(usual(), METRICS[0])
    assert set(found) == {"popularity", "transition counts", "round 0"}
    one = baselines(comparison_of([("a", 0.1, {})], num_seeds=1), METRICS[0])
    assert one["popularity"] == pytest.approx(0.04)
    assert baselines(usual(), "full/recall_at_5") == {}


def test_figures_are_drawn_of_what_there_is(tmp_path: Path):
    names = {path.stem for path in draw_figures(usual(), tmp_path)}
    assert names == {"learning_curves", "weights", "costs", "groups"}
    assert [panel.title for panel in weight_panels(usual())] == ["Gate", "Router: visual", "Router: semantic"]
    assert len(cost_panels(usual())) == 3
    plain = comparison_of([("a", 0.1, {"model.fusion": "backbone"})], num_seeds=1)
    assert weight_panels(plain) == []
