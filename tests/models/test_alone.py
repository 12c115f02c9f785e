"""An expert alone: without gate, router and backbone, it is the summand that the fusion weighs."""

import pytest
import torch

from fedmm.models.fusion import FUSIONS
from worlds.model_world import FUSED, NUM_ITEMS, batch_of, build, name_of, shaken, tiny_config

DOT = [variant for variant in FUSED if variant["scoring"] == "dot"]
COSINE = [variant for variant in FUSED if variant["scoring"] == "cosine"]


def alone(recommender, params, name):
    return recommender.forward(params, batch_of(), only=name).scores.materialise()


@pytest.mark.parametrize("variant", DOT, ids=name_of)
def test_the_fused_scores_are_the_backbone_and_the_experts_alone_weighed(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    weights = recommender.router_weights(params, None, params["backbone.item_embedding"])
    mixture = FUSIONS[variant["fusion"]].mix(params, weights)
    backbone = recommender.forward(params, batch_of(), experts=False).scores.materialise()
    expected = backbone if mixture.backbone is None else backbone * mixture.backbone.unsqueeze(1)
    for name, weight in zip(recommender.experts, mixture.experts, strict=True):
        expected = expected + weight.unsqueeze(1) * alone(recommender, params, name)
    found = recommender.forward(params, batch_of()).scores.materialise()
    torch.testing.assert_close(found[..., 1:], expected[..., 1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", DOT + COSINE, ids=name_of)
@pytest.mark.parametrize("name", ["visual", "semantic"])
def test_alone_an_expert_hears_nobody_else(variant, name):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    other = {"visual": "semantic", "semantic": "visual"}[name]
    changed = {
        key: value + 1.0 if key.startswith((f"{other}.", "router.", "fusion.")) else value
        for key, value in params.items()
    }
    torch.testing.assert_close(alone(recommender, params, name), alone(recommender, changed, name), rtol=0, atol=0)


@pytest.mark.parametrize("variant", DOT + COSINE, ids=name_of)
def test_alone_an_expert_is_silent_on_items_without_its_modality(variant):
    recommender = build(tiny_config(**variant), visual=[0, 2, NUM_ITEMS])
    silent = alone(recommender, shaken(recommender), "visual")[..., [2, NUM_ITEMS]]
    assert torch.equal(silent, torch.zeros_like(silent))
