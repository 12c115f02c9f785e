"""What the fusions promise: the backbone's safety in the residual form, its exposure in the competitive one."""

import pytest
import torch

from fedmm.models.fusion import GATE
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.utils.params import Params
from worlds.model_world import (
    FUSED,
    MEMORY,
    NUM_ITEMS,
    RESIDUAL,
    batch_of,
    build,
    differentiable,
    fresh,
    name_of,
    score,
    score_gradients,
    shaken,
    tiny_config,
)

TARGETS = torch.tensor([[7, 1, 4, 9, 7, 2, 3, 5, 6, 8, 10, 11, 12, 4]] * 2)


def loss_gradients(recommender, params: Params) -> tuple[torch.Tensor, Params]:
    """The clients' cross-entropy, by the path that training takes, and its gradients."""
    leaves = differentiable(params)
    weights = torch.full(TARGETS.shape, 1 / TARGETS.shape[1], dtype=torch.float64)
    losses = cross_entropy(recommender.forward(leaves, batch_of()).scores, Questions(TARGETS, weights))
    found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return losses.detach(), dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("variant", RESIDUAL, ids=name_of)
def test_gate_zero_is_the_backbone_bit_for_bit(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender, gate=0.0)
    alone = build(tiny_config(**{**variant, "fusion": "backbone"}))
    assert torch.equal(score(recommender, params, batch_of()), score(alone, params, batch_of()))
    losses, gradients = loss_gradients(recommender, params)
    expected_losses, expected = loss_gradients(alone, {k: v for k, v in params.items() if alone.is_backbone(k)})
    if variant["experts"] == "pooled":  # the others' loss takes another path than the backbone's
        assert torch.equal(losses, expected_losses)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-14, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("variant", RESIDUAL, ids=name_of)
@pytest.mark.parametrize("value", [-0.3, 0.0, 0.1])
def test_gate_is_one_scalar_that_starts_at_gating_init(variant, value):
    recommender = build(tiny_config(**variant, gating_init=value))
    params = fresh(recommender)
    assert params[GATE].shape == ()
    assert float(params[GATE]) == recommender.gating_weight(params) == value


@pytest.mark.parametrize("gate", [0.0, 0.1])
@pytest.mark.parametrize("variant", RESIDUAL, ids=name_of)
def test_gate_always_learns_and_at_zero_alone(variant, gate):
    """At zero the router and the experts get no gradient through the scores: the gate must open first."""
    recommender = build(tiny_config(**variant))
    _, gradients = loss_gradients(recommender, shaken(recommender, gate=gate))
    assert torch.isfinite(gradients[GATE]).all()
    assert (gradients[GATE] != 0).all()
    auxiliary = [name for name in gradients if not recommender.is_backbone(name) and name != GATE]
    own = set() if variant["experts"] == "neighbors" else {"visual.norm.weight", "semantic.norm.weight"}
    assert {"router.weight", "router.bias", *own} <= set(auxiliary)
    for name in auxiliary:
        assert torch.isfinite(gradients[name]).all()
        assert bool((gradients[name] != 0).any()) == (gate != 0), name


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_every_parameter_learns(variant):
    recommender = build(tiny_config(**variant))
    for name, gradient in score_gradients(recommender, shaken(recommender), batch_of()).items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.reshape(len(gradient), -1).norm(dim=1).min() > 1e-9, name


def backbone_coefficients(variant, router_bias):
    """[L, items]: how far each score moves when LN(H) moves, over how far the backbone's would.

    Entry surprise reads the backbone too, so the memory leaves it out here.
    """
    config = tiny_config(**variant, memory={"size": 3, "surprise_weight": 0.0})
    recommender = build(config)
    params = shaken(recommender, 1)
    params["router.weight"] = torch.zeros_like(params["router.weight"])
    params["router.bias"] = torch.tensor([router_bias], dtype=torch.float64)
    push = torch.linspace(-1.0, 1.0, config.hidden_dim, dtype=torch.float64)
    pushed = {**params, "backbone.norm.bias": params["backbone.norm.bias"] + push}
    moved = score(recommender, pushed, batch_of([[[7, 1, 10]]])) - score(recommender, params, batch_of([[[7, 1, 10]]]))
    return (moved / (params["backbone.item_embedding"] @ push.unsqueeze(1))[0].mT)[0, 0, :, 1:]


@pytest.mark.parametrize("experts", ["hybrid", "neighbors", "pooled", "memory"])
def test_a_router_can_silence_the_backbone_of_the_competitive_form_alone(experts):
    silenced = backbone_coefficients({"fusion": "competitive", "experts": experts}, [-60.0, 0.0, 0.0])
    assert silenced[:, : NUM_ITEMS - 1].abs().max() < 1e-9
    # Item 12 has no feature: whatever the router prefers, only the backbone is there to speak.
    torch.testing.assert_close(silenced[:, -1], torch.ones(3, dtype=torch.float64))
    for bias in ([60.0, 0.0], [-60.0, 60.0], [-60.0, -60.0]):
        kept = backbone_coefficients({"fusion": "residual", "experts": experts}, bias)
        torch.testing.assert_close(kept, torch.ones_like(kept))


@pytest.mark.parametrize("experts", ["hybrid", "neighbors", "pooled", "memory"])
def test_router_bias_init_favours_the_backbone(experts):
    def share(bias):
        recommender = build(tiny_config(fusion="competitive", experts=experts, router_bias_init=bias))
        params = {name: value.unsqueeze(0) for name, value in fresh(recommender).items()}
        table = params["backbone.item_embedding"]
        return recommender.router_weights(params, None, table)[0, 1, 0]

    odds = torch.exp(torch.tensor(2.0, dtype=torch.float64))
    torch.testing.assert_close(share(0.0), torch.tensor(1 / 3, dtype=torch.float64))
    torch.testing.assert_close(share(2.0), odds / (odds + 2))


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_a_fresh_router_weighs_what_is_present_equally(variant):
    recommender = build(tiny_config(**variant))
    for weight in recommender.expert_weights(fresh(recommender)).values():
        assert 0 < weight < 1
    params = {name: value.unsqueeze(0) for name, value in fresh(recommender).items()}
    weights = recommender.router_weights(params, None, params["backbone.item_embedding"])[0, 1:]
    present = weights > 0
    torch.testing.assert_close(weights, present / present.sum(-1, keepdim=True).clamp(min=1).double())


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_cosine_scores_are_bounded_by_the_root_of_the_width(variant):
    recommender = build(tiny_config(**variant))
    found = score(recommender, shaken(recommender), batch_of())[..., 1:]
    if variant["scoring"] == "cosine":
        assert found.abs().max() <= recommender.config.hidden_dim**0.5 + 1e-9
    else:
        assert found.abs().max() > recommender.config.hidden_dim**0.5
