"""The router alone: a softmax over what is present, and the loss that keeps it balanced."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.models.router import init_router, load_balance_loss, route
from fedmm.utils.seeding import torch_stream

seeds = st.integers(0, 2**32)


def draw(seed, num_clients, num_candidates, num_outputs):
    stream = torch_stream(seed, "router")
    params = {
        "router.weight": torch.randn(num_clients, num_outputs, 4, generator=stream, dtype=torch.float64),
        "router.bias": torch.randn(num_clients, num_outputs, generator=stream, dtype=torch.float64),
    }
    inputs = 3 * torch.randn(num_clients, num_candidates, 4, generator=stream, dtype=torch.float64)
    present = torch.rand(num_clients, num_candidates, num_outputs, generator=stream) < 0.6
    return params, inputs, present


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 4))
def test_weights_are_a_softmax_over_what_is_present(seed, C, N, M):
    params, inputs, present = draw(seed, C, N, M)
    weights = route(params, inputs, present)
    for c, n in np.ndindex(C, N):
        here = present[c, n]
        assert (weights[c, n, ~here] == 0).all()
        logits = params["router.weight"][c] @ inputs[c, n] + params["router.bias"][c]
        torch.testing.assert_close(weights[c, n, here], torch.softmax(logits[here], 0))
        torch.testing.assert_close(weights[c, n].sum(), here.any().double())


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 3))
def test_inputs_that_all_clients_share_give_what_each_alone_would(seed, C):
    params, inputs, present = draw(seed, C, 5, 3)
    shared = route(params, inputs[0], present[0])
    torch.testing.assert_close(shared, route(params, inputs[:1].expand(C, -1, -1), present[:1].expand(C, -1, -1)))


def test_extreme_preferences_stay_finite_with_finite_gradients():
    params = {name: value.unsqueeze(0).requires_grad_() for name, value in init_router(2, 3).items()}
    inputs = torch.tensor([[[1e30, -1e30], [0.0, 0.0]]], dtype=torch.float64)
    weights = route(params, inputs, torch.tensor([[True, False, True], [False, False, False]]))
    assert torch.isfinite(weights).all()
    (gradient,) = torch.autograd.grad(weights[0, 1].sum(), [params["router.bias"]])
    assert (gradient == 0).all()  # nothing is present: nothing to prefer


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 6), st.integers(1, 4))
def test_load_balance_loss_has_its_closed_form(seed, C, N, M):
    weights = route(*draw(seed, C, N, M))
    mask = torch.rand(C, N, generator=torch_stream(seed, "mask")) < 0.7
    found = load_balance_loss(weights, mask)
    for c in range(C):
        counted = [weights[c, n].numpy() for n in range(N) if mask[c, n] and weights[c, n].sum() > 0]
        mean = np.mean(counted, axis=0) if counted else np.zeros(M)
        np.testing.assert_allclose(found[c], ((mean - 1 / M) ** 2).sum(), atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 5))
def test_load_balance_is_zero_at_equal_use_and_positive_elsewhere(seed, N, M):
    """Use is equal on average: each candidate may lean its own way, as long as the others make up for it."""
    weights = torch.softmax(torch.randn(1, N, M, generator=torch_stream(seed, "lean"), dtype=torch.float64), -1)
    turns = torch.cat([weights.roll(shift, dims=-1) for shift in range(M)], dim=1)
    everything = torch.ones(1, N * M, dtype=torch.bool)
    assert float(load_balance_loss(turns, everything)) < 1e-28
    one_sided = torch.eye(M, dtype=torch.float64)[:1].expand(1, N, M)
    torch.testing.assert_close(load_balance_loss(one_sided, everything[:, :N]), torch.tensor([1 - 1 / M]).double())
