"""What every server optimizer owes: state in, state out, and its published formula."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedmm.config import FederationConfig
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS, apply_pseudo_gradient
from fedmm.utils.seeding import torch_stream

EVERY = pytest.mark.parametrize("name", sorted(SERVER_OPTIMIZERS))
RATE, BETA1, BETA2, TAU = 0.3, 0.8, 0.95, 0.02
SHAPES = {"backbone.a": (3, 2), "router.b": (), "visual.c": (4,)}


def config_of(name):
    return FederationConfig(
        server_optimizer=name,
        server_learning_rate=RATE,
        server_beta1=BETA1,
        server_beta2=BETA2,
        server_epsilon=TAU,
    )


def draw(seed, what):
    stream = torch_stream(seed, what)
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()}


def run(name, params, gradients):
    """The parameters and the state after a sequence of pseudo-gradients."""
    state = {}
    for gradient in gradients:
        params, state = apply_pseudo_gradient(params, gradient, state, config_of(name))
    return params, state


def by_hand(name, x, gradients):
    """One number through all steps (Hsu et al., 2019; Reddi et al., 2021, Algorithm 2, v starting at tau^2)."""
    m, v = 0.0, TAU**2
    for g in gradients:
        if name == "sgd":
            x -= RATE * g
        elif name == "momentum":
            m = BETA1 * m + g
            x -= RATE * m
        elif name == "adagrad":
            v += g * g
            x -= RATE * g / (math.sqrt(v) + TAU)
        else:
            m = BETA1 * m + (1 - BETA1) * g
            if name == "adam":
                v = BETA2 * v + (1 - BETA2) * g * g
            elif name == "yogi":
                v -= (1 - BETA2) * g * g * ((v > g * g) - (v < g * g))
            else:
                raise AssertionError(f"no closed form for {name}")
            x -= RATE * m / (math.sqrt(v) + TAU)
    return x


@EVERY
@settings(max_examples=15, deadline=None)
@given(x=st.floats(-2, 2), gradients=st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_three_steps_equal_the_published_formula(name, x, gradients):
    trees = [{"x": torch.tensor([g], dtype=torch.float64)} for g in gradients]
    params, _ = run(name, {"x": torch.tensor([x], dtype=torch.float64)}, trees)
    assert float(params["x"]) == pytest.approx(by_hand(name, x, gradients), rel=1e-11, abs=1e-11)


@EVERY
def test_arguments_stay_as_they_are(name):
    params, state = run(name, draw(0, "params"), [draw(1, "gradient")])
    gradient = draw(2, "gradient")
    before = copy.deepcopy((params, gradient, state))
    new_params, new_state = apply_pseudo_gradient(params, gradient, state, config_of(name))
    for tree, original in zip((params, gradient, state), before, strict=True):
        assert tree.keys() == original.keys()
        assert all(torch.equal(tree[key], original[key]) for key in tree)
    for tree in (new_params, new_state):
        for key, value in tree.items():
            assert value.data_ptr() not in {t.data_ptr() for t in (*params.values(), *gradient.values())}, key


@EVERY
def test_no_push_from_a_fresh_state_moves_nothing(name):
    params = draw(0, "params")
    nothing = {key: torch.zeros_like(value) for key, value in params.items()}
    found, _ = run(name, params, [nothing, nothing])
    assert all(torch.equal(found[key], params[key]) for key in params)


@EVERY
def test_the_first_step_goes_against_the_pseudo_gradient(name):
    params, gradient = draw(0, "params"), draw(1, "gradient")
    found, _ = run(name, params, [gradient])
    assert all(torch.equal(torch.sign(params[key] - found[key]), torch.sign(gradient[key])) for key in params)


@EVERY
def test_a_stored_state_goes_on_bit_for_bit(name):
    """Flat tensors under plain names, which safetensors takes as they are."""
    params, state = run(name, draw(0, "params"), [draw(1, "gradient"), draw(2, "gradient")])
    restored = load(save(state)) if state else {}
    assert restored.keys() == state.keys()
    ways = [apply_pseudo_gradient(params, draw(3, "gradient"), own, config_of(name)) for own in (state, restored)]
    for left, right in zip(*ways, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


@EVERY
def test_what_does_not_train_keeps_value_and_state(name):
    """Partial aggregation: a parameter that sits out is, when it returns, where it was."""
    params, state = run(name, draw(0, "params"), [draw(1, "gradient")])
    some = {key: value for key, value in draw(2, "gradient").items() if key.startswith("backbone.")}
    new_params, new_state = apply_pseudo_gradient(params, some, state, config_of(name))
    assert new_params.keys() == params.keys()
    for key, value in new_params.items():
        assert torch.equal(value, params[key]) != (key in some)
    assert new_state.keys() == state.keys()
    for key, value in state.items():
        if not key.endswith("backbone.a"):
            assert torch.equal(new_state[key], value)


@EVERY
def test_each_number_moves_by_its_own_history(name):
    """Moving entries about moves their results along: no parameter reads another's statistics."""
    steps = [draw(seed, "gradient") for seed in range(3)]
    found, _ = run(name, draw(0, "params"), steps)
    flipped, _ = run(
        name,
        {key: value.flatten().flip(0) for key, value in draw(0, "params").items()},
        [{key: value.flatten().flip(0) for key, value in step.items()} for step in steps],
    )
    assert all(torch.equal(flipped[key], value.flatten().flip(0)) for key, value in found.items())
