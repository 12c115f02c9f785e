"""Laws of shares: in every fusion, with every expert and either scoring, they sum to the score."""

import pytest
import torch

from fedmm.models.personal import GATE_OFFSET, USER_VECTOR
from fedmm.models.shares import shares
from worlds.model_world import FUSED, VARIANTS, batch_of, build, name_of, shaken, tiny_config

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_shares_sum_to_the_score(variant):
    recommender = build(tiny_config(**variant))
    params, batch = shaken(recommender), batch_of()
    found = shares(recommender, params, batch.items, batch.rows)
    scores = recommender.forward(params, batch).scores.materialise()
    torch.testing.assert_close(sum(found.parts.values()), scores, **EXACT)
    assert found.linear == (variant["scoring"] == "dot")
    alone = shares(recommender, params, batch.items, batch.rows, experts=False)
    assert list(alone.parts) == ["backbone"]
    scores = recommender.forward(params, batch, experts=False).scores.materialise()
    torch.testing.assert_close(alone.parts["backbone"], scores, **EXACT)


@pytest.mark.parametrize("variant", [one for one in FUSED if one["scoring"] == "dot"], ids=name_of)
def test_a_share_is_what_goes_when_the_expert_goes(variant):
    """A router that gives an expert no weight: the other shares, reweighed, are all there is; here by the gate at 0."""
    recommender = build(tiny_config(**variant))
    params, batch = shaken(recommender), batch_of()
    found = shares(recommender, params, batch.items, batch.rows)
    for name in recommender.experts:
        alone = recommender.forward(params, batch, only=name).scores.materialise()
        weight = found.weights[name].unsqueeze(1)
        gate = params["fusion.gate"].view(-1, 1, 1) if variant["fusion"] == "residual" else 1.0
        torch.testing.assert_close(found.parts[name], gate * weight * alone, **EXACT)


def test_personal_parameters_have_their_part():
    recommender = build(tiny_config(fusion="residual", experts="pooled"))
    params, batch = shaken(recommender), batch_of()
    own = {GATE_OFFSET: torch.tensor([0.3, -0.2], dtype=torch.float64)}
    own[USER_VECTOR] = torch.ones(2, 8, dtype=torch.float64)
    found = shares(recommender, params | own, batch.items, batch.rows)
    scores = recommender.forward(params | own, batch).scores.materialise()
    torch.testing.assert_close(sum(found.parts.values()), scores, **EXACT)
