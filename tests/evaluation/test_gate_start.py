"""Laws of the start of the gate that validation chooses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import ExperimentConfig
from fedmm.config.idle import idle_settings
from fedmm.config.load import load_config
from fedmm.evaluation.gate_start import LOUDER, QUESTIONS, choose_gate, gate_notes
from fedmm.study import Changes, searched_study

columns = st.lists(st.floats(0, 1, width=16), min_size=len(LOUDER) + 1, max_size=len(LOUDER) + 1)


@given(st.lists(columns, min_size=1, max_size=6), st.integers(1, 300))
def test_a_louder_start_is_chosen_where_it_is_surely_better_and_best(rows: list[list[float]], size: int) -> None:
    table = np.resize(np.array(rows), (size, len(LOUDER) + 1))
    start = 0.1
    values = dict(zip((start, *LOUDER), table.T, strict=True))
    gate, found = choose_gate(start, values.__getitem__)
    assert found == ({} if size < QUESTIONS else {one: float(own.mean()) for one, own in values.items()})
    if gate == start:
        return
    gains = values[gate] - values[start]
    assert size >= QUESTIONS
    assert gains.mean() > 2 * gains.std(ddof=1) / size**0.5
    surely = [one for one in LOUDER if (d := values[one] - values[start]).mean() > 2 * d.std(ddof=1) / size**0.5]
    assert found[gate] == max(found[one] for one in surely)


def test_what_was_not_chosen_is_not_told() -> None:
    assert gate_notes(0.1, {}, "NDCG@10") == []


def test_what_was_chosen_is_told_beside_what_was_not() -> None:
    (note,) = gate_notes(3.0, {0.1: 0.1, 1.0: 0.2, 3.0: 0.25}, "NDCG@10")
    assert "starts at 3: untrained, .1, 1 and 3 reach .1000, .2000 and .2500 on validation (NDCG@10" in note


def test_who_names_a_start_means_it() -> None:
    for config in (
        load_config(flags={"model.gating_init": 0.1}),
        ExperimentConfig.model_validate({"model": {"gating_init": 0.1}}),
        ExperimentConfig().with_values({"model.gating_init": 0.1}),
        searched_study(Changes(search=["model.gating_init=0,.1"])).configure({"model.gating_init": 0.1}, 0),
    ):
        assert config.model.gate_start == "given"
    both = {"model.gating_init": 0.2, "model.gate_start": "validation"}
    assert load_config(flags=both).model.gate_start == ExperimentConfig().with_values(both).model.gate_start
    assert load_config(flags=both).model.gate_start == "validation"


def test_a_choice_that_nothing_reads_is_told_once() -> None:
    residual = load_config(flags={"model.gate_start": "validation"})
    assert idle_settings(residual) == []
    for beside in ({"model.fusion": "competitive"}, {"privacy.epsilon": 8.0}):
        (told,) = idle_settings(load_config(flags={"model.gate_start": "validation", **beside}))
        assert told.startswith("model.gate_start ")
        (told,) = idle_settings(load_config(flags={"model.gating_init": 0.3, **beside}))
        assert told.startswith("model.gating_init ")
