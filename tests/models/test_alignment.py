"""The modality-alignment loss: InfoNCE by its definition, what it moves, and what it must not touch."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.errors import ConfigError
from fedmm.experiment import Experiment
from fedmm.models.alignment import NORM_FLOOR, alignment_loss, contrast, first_places
from fedmm.models.layers import lookup
from fedmm.utils.params import combine
from fedmm.utils.seeding import torch_stream
from fedmm.verification.world import ENGINES, by_client, make_local, params_gap
from worlds.config_world import settings_of, write_world
from worlds.model_world import WINDOWS, batch_of, build, differentiable, shaken, tiny_config

EXPERTS = pytest.mark.parametrize("experts", ["pooled", "memory"])
TABLE = "backbone.item_embedding"
TEMPERATURE = 0.3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch_stream(seed, "alignment"), dtype=torch.float64)


def unit(vector):
    return vector / torch.sqrt(vector.square().sum() + NORM_FLOOR)


def projected(params, name, features):
    """What the module's docstring calls z."""
    if f"{name}.projection.weight" in params:
        return params[f"{name}.projection.weight"] @ features
    return params[f"{name}.output.weight"] @ (params[f"{name}.value.weight"] @ features)


def slow_alignment(recommender, params, items):
    """One client's loss, item by item; ``params`` are its own."""
    losses = []
    for name, table in recommender.tables.items():
        own = [item for item in sorted(set(items) - {0}) if table.present[item]]
        pairs = [(unit(params[TABLE][i]), unit(projected(params, name, table.values[i]))) for i in own]
        total = torch.zeros((), dtype=torch.float64)
        for embedded, features in pairs:
            for logits in (
                torch.stack([embedded @ other for _, other in pairs]),
                torch.stack([features @ other for other, _ in pairs]),
            ):
                total = total + torch.logsumexp(logits / TEMPERATURE, 0) - embedded @ features / TEMPERATURE
        losses.append(total / max(1, 2 * len(own)))
    return torch.stack(losses).mean()


def world(experts, **changes):
    recommender = build(
        tiny_config(experts=experts, alignment_weight=0.4, alignment_temperature=TEMPERATURE, **changes)
    )
    return recommender, differentiable(shaken(recommender))


def gradients(loss, params):
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(params, found, strict=True))


@EXPERTS
def test_it_is_the_definition_in_value_and_gradient(experts):
    recommender, params = world(experts)
    batch = batch_of()
    found = recommender.forward(params, batch).alignment_loss
    expected = torch.stack(
        [
            slow_alignment(recommender, {k: v[c] for k, v in params.items()}, batch.items[c].flatten().tolist())
            for c in range(2)
        ]
    )
    torch.testing.assert_close(found, expected)
    gaps = combine(lambda a, b: (a - b).abs().max(), *(gradients(own.sum(), params) for own in (found, expected)))
    assert max(gaps.values()) < 1e-10


@EXPERTS
def test_it_moves_embeddings_and_projections_and_nothing_else(experts):
    """In the old system this loss was a constant zero."""
    recommender, params = world(experts)
    batch = batch_of()
    found = gradients(recommender.forward(params, batch).alignment_loss.sum(), params)
    part = {"pooled": ("projection",), "memory": ("value", "output")}[experts]
    moved = {TABLE, *(f"{name}.{own}.weight" for name in recommender.tables for own in part)}
    assert {name for name, gradient in found.items() if gradient.any()} == moved
    for c, windows in enumerate(WINDOWS):
        touched = set(torch.nonzero(found[TABLE][c].any(1)).flatten().tolist())
        present = {i for own in windows for i in own if any(t.present[i] for t in recommender.tables.values())}
        assert touched == present


@given(num_items=st.integers(1, 9), temperature=st.floats(0.05, 5.0))
def test_equal_similarities_give_the_logarithm_of_their_number(num_items, temperature):
    left, right = normal(1, 1, 4).expand(-1, num_items, -1), normal(1, 1, 4, seed=1).expand(-1, num_items, -1)
    mask = torch.ones(1, num_items, dtype=torch.bool)
    assert float(contrast(left, right, mask, temperature)) == pytest.approx(math.log(num_items), abs=1e-9)


def test_it_falls_as_embeddings_come_to_agree_with_their_features():
    left, right, mask = normal(3, 8, 16), normal(3, 8, 16, seed=1), torch.ones(3, 8, dtype=torch.bool)
    losses = [contrast(left + share * (right - left), right, mask, 0.1) for share in (0.0, 0.3, 0.6)]
    assert all((after < before).all() for before, after in itertools.pairwise(losses))
    assert (losses[0] > math.log(8)).all()  # strangers, at a low temperature
    assert (contrast(right, right, mask, 0.1) < 0.1).all()
    lowest = contrast(normal(1, 2, 1), normal(1, 2, 1), torch.ones(1, 2, dtype=torch.bool), 1e-3)
    assert (lowest >= 0).all()


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(7)), st.integers(1, 7))
def test_the_order_of_items_and_what_is_masked_do_not_matter(order, num_real):
    left, right = normal(1, 7, 4), normal(1, 7, 4, seed=1)
    mask = torch.arange(7).unsqueeze(0) < num_real
    found = contrast(left, right, mask, 0.2)
    torch.testing.assert_close(contrast(left[:, order], right[:, order], mask[:, order], 0.2), found)
    alone = torch.ones(1, num_real, dtype=torch.bool)
    torch.testing.assert_close(contrast(left[:, :num_real], right[:, :num_real], alone, 0.2), found)
    torch.testing.assert_close(contrast(right, left, mask, 0.2), found)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_an_item_counts_once_however_often_it_comes(items):
    chosen = torch.tensor([items])[first_places(torch.tensor([items]))].tolist()
    assert sorted(chosen) == sorted(set(items) - {0})
    recommender, params = world("pooled")
    losses = []
    for own in (items, sorted(set(items))):
        given = torch.tensor([[own]])
        one = {name: value[:1] for name, value in params.items()}
        embedded = lookup(one[TABLE], given)
        losses.append(alignment_loss(one, recommender.parts, recommender.tables, given, embedded, TEMPERATURE))
    torch.testing.assert_close(*losses)


def test_nothing_to_compare_loses_nothing_and_stays_finite():
    left = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)  # rows of zeros have no direction
    mask = torch.tensor([[False] * 3, [True, False, False]])
    loss = contrast(left, normal(2, 3, 4), mask, 0.1)
    assert loss.abs().max() < 1e-12
    two = contrast(left, normal(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), 0.1)
    (gradient,) = torch.autograd.grad(two.sum() + loss.sum(), [left])
    assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="nothing to align"):
        alignment_loss({}, {}, {}, torch.ones(1, 1, 1, dtype=torch.long), left, 0.1)


def update_of(engine, model, federation, number=1):
    local, params = make_local({**model, "load_balance_weight": 0.0}, federation)
    return by_client(ENGINES[engine](local, params, np.array([4]), number))[4][0]


@EXPERTS
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("negatives", [0, 5])
def test_a_clients_step_has_its_weight_times_its_gradient(experts, engine, negatives):
    """One step of SGD: linear in the weight, by the gradient of the definition; at weight 0 bit for bit without."""
    rate = {"learning_rate": 0.3, "clip_norm": None, "local_steps": 1, "num_negatives": negatives}
    model = {"experts": experts, "alignment_temperature": TEMPERATURE}
    without = update_of(engine, {"experts": experts}, rate)
    nothing = update_of(engine, {**model, "alignment_weight": 0.0}, rate)
    assert all(torch.equal(value, nothing[name]) for name, value in without.items())
    found = update_of(engine, {**model, "alignment_weight": 0.7}, rate)
    local, params = make_local(model, rate)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    read = local.steps(np.array([4]), 1).step(0, 1).batch.items.flatten().tolist()
    own = gradients(slow_alignment(local.recommender, leaves, read), leaves)
    expected = {name: value - 0.3 * 0.7 * own[name] for name, value in without.items()}
    assert params_gap(found, expected) < 1e-9
    assert params_gap(found, without) > 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_it_waits_for_the_experts(engine):
    """In partial aggregation projections do not train, and embeddings are not drawn to what they happen to be."""
    warm = {"warmup_rounds": 1}
    without, with_it = (update_of(engine, {"alignment_weight": weight}, warm) for weight in (0.0, 2.0))
    assert all(torch.equal(value, with_it[name]) for name, value in without.items())
    assert params_gap(*(update_of(engine, {"alignment_weight": w}, warm, 2) for w in (0.0, 2.0))) > 1e-4


def test_without_features_there_is_nothing_to_align(tmp_path):
    write_world(tmp_path)
    none = {
        "data.visual_features": "none",
        "data.text_features": "none",
        "model.transition": True,
        "model.experts": "pooled",
    }
    with pytest.raises(ConfigError, match=r"alignment_weight 0\.5 has nothing to align"):
        Experiment.prepare(settings_of(tmp_path, {**none, "model.alignment_weight": 0.5}))
