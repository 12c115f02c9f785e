"""What every fusion owes: coefficients candidate by candidate, nothing for what is absent, a backbone always heard."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import ModelConfig
from fedmm.models.fusion import FUSIONS
from fedmm.models.router import route
from fedmm.utils.seeding import torch_stream

EVERY = pytest.mark.parametrize("name", sorted(FUSIONS))
CLIENTS, CANDIDATES = 2, 5


def world(name, seed, num_modalities):
    """The fusion's own parameters for two clients, and router weights over what random candidates have."""
    fusion, stream = FUSIONS[name], torch_stream(seed, "fusion")
    config = ModelConfig(fusion=name, gating_init=0.4)
    params = {key: value.repeat(CLIENTS, *[1] * value.ndim) for key, value in fusion.init(config).items()}
    num_outputs = num_modalities + fusion.routes_backbone
    present = torch.rand(CANDIDATES, num_outputs, generator=stream) < 0.6
    if fusion.routes_backbone:
        present[:, 0] = True
    router = {
        "router.weight": torch.randn(CLIENTS, num_outputs, 3, generator=stream, dtype=torch.float64),
        "router.bias": torch.zeros(CLIENTS, num_outputs, dtype=torch.float64),
    }
    weights = route(router, torch.randn(CANDIDATES, 3, generator=stream, dtype=torch.float64), present)
    return params, weights, present[:, -num_modalities:]


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), num_modalities=st.integers(1, 3))
def test_coefficients_are_finite_and_exactly_zero_for_the_absent(name, seed, num_modalities):
    params, weights, present = world(name, seed, num_modalities)
    before = weights.clone()
    mixture = FUSIONS[name].mix(params, weights)
    assert torch.equal(weights, before)
    assert len(mixture.experts) == num_modalities
    for m, coefficient in enumerate(mixture.experts):
        assert coefficient.shape == (CLIENTS, CANDIDATES)
        assert torch.isfinite(coefficient).all()
        assert torch.equal(coefficient != 0, present[:, m].expand(CLIENTS, -1))


@EVERY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_backbone_speaks_alone_where_nothing_else_can(name, seed):
    params, weights, present = world(name, seed, 2)
    backbone = FUSIONS[name].mix(params, weights).backbone
    share = torch.ones_like(weights[..., 0]) if backbone is None else backbone
    assert (share > 0).all()
    torch.testing.assert_close(share[:, ~present.any(-1)], torch.ones_like(share[:, ~present.any(-1)]))


@EVERY
def test_coefficients_belong_to_their_client_and_candidate(name):
    """Moving clients or candidates about moves their coefficients along, and nothing else."""
    params, weights, _ = world(name, 1, 2)
    params = {key: value + torch.arange(CLIENTS) for key, value in params.items()}
    order = torch.tensor([3, 0, 4, 1, 2])
    mixture = FUSIONS[name].mix(params, weights)
    shuffled = FUSIONS[name].mix({key: value.flip(0) for key, value in params.items()}, weights.flip(0)[:, order])
    pairs = list(zip(mixture.experts, shuffled.experts, strict=True))
    if mixture.backbone is not None:
        pairs.append((mixture.backbone, shuffled.backbone))
    for own, moved in pairs:
        assert torch.equal(own.flip(0)[:, order], moved)


@EVERY
def test_what_a_fusion_adds_is_learnable(name):
    params, weights, _ = world(name, 2, 2)
    leaves = {key: value.requires_grad_() for key, value in params.items()}
    total = sum(coefficient.sum() for coefficient in FUSIONS[name].mix(leaves, weights).experts)
    for key, leaf in leaves.items():
        (gradient,) = torch.autograd.grad(total, [leaf], retain_graph=True)
        assert (gradient != 0).all(), key
