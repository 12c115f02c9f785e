"""Studies written in a line or two, and random ones."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import strategies as st

from fedmm.study import Changes, Study, read_study

SPACE = '[space."model.gating_init"]\nchoices = [0, 0.1]\n'


def study_of(text: str, changes: Changes | None = None) -> Study:
    return read_study(tomllib.loads(text), "my.toml", "my", changes)


NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    # Rounded: Optuna's TPE divides by the width of a range, and cannot where that is a denormal number.
    "model.gating_init": st.floats(-2, 2).map(lambda value: round(value, 6)),
    "model.dropout": st.floats(0, 0.9).map(lambda value: round(value, 6)),
    "federation.learning_rate": st.floats(1e-4, 10).map(lambda value: round(value, 6)),
    "federation.clip_norm": st.floats(0.01, 10).map(lambda value: round(value, 6)),
    "federation.batch_size": st.integers(1, 512),
    "federation.local_steps": st.integers(1, 50),
    "model.num_blocks": st.integers(1, 9),
}
WORDS = {
    "federation.aggregation": ["mean", "heat"],
    "federation.local_optimizer": ["sgd", "adam", "adamw"],
    "federation.exclude_seen": [True, False],
    "data.visual_features": ["none", "a.npz", "b 'c'.npz"],
}


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Valid studies with choices, ranges, steps, conditions, variants and a base."""
    space: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(sorted(NUMBERS)), max_size=4, unique=True)):
        if draw(st.booleans()):
            values = draw(st.lists(NUMBERS[key], min_size=2, max_size=4, unique_by=lambda v: v + 0.0))
            space[key] = {"choices": [*values, *(["none"] if key == "federation.clip_norm" else [])]}
        else:
            low, high = sorted(draw(st.lists(NUMBERS[key], min_size=2, max_size=2, unique_by=lambda v: v + 0.0)))
            space[key] = {"low": low, "high": high}
            if draw(st.booleans()):
                space[key] |= {"log": True} if low > 0 else {}
            elif isinstance(low, int):
                space[key] |= {"step": high - low}
    for key in draw(st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=2, unique=True)):
        parents = {name: draw(st.sampled_from(entry["choices"])) for name, entry in space.items() if "choices" in entry}
        chosen = draw(st.sampled_from(sorted(parents) or [None]))
        space[key] = {"choices": WORDS[key], **({"when": {chosen: parents[chosen]}} if chosen else {})}
    tree: dict[str, Any] = {"study": {"seed": draw(st.integers(0, 99))}, "space": space}
    if draw(st.booleans()):
        tree["base"] = {"federation": {"rounds": draw(st.integers(11, 99))}, "tracking": {"experiment": "none"}}
    if draw(st.booleans()):
        settings = {"model.fusion": "competitive", "federation.warmup_rounds": draw(st.integers(0, 9))}
        tree["variants"] = [{"name": "plain"}, {"name": "other one", "settings": settings}]
    return read_study(tree, "drawn", "drawn")


@st.composite
def values_of(draw: st.DrawFn, study: Study) -> dict[str, Any]:
    """A point of the space as a sampler suggests it."""
    values: dict[str, Any] = {}
    for parameter in study.space:
        if parameter.active(values):
            domain = parameter.domain
            drawn = st.sampled_from(domain.values) if domain.discrete else st.floats(domain.low, domain.high)
            values[parameter.name] = draw(drawn)
    return values
