"""Scores by memories where nothing is differentiated: the numbers of the other way, whatever is asked at once."""

import pytest
import torch

from fedmm.models.experts.memory_scoring import Scored
from worlds.model_world import MEMORY, NUM_ITEMS, batch_of, build, name_of, shaken, tiny_config

WINDOWS = [[[4, 12, 7, 1, 4, 9, 7], [3, 2, 11], [12], [8, 2, 1, 12, 9, 3]]]


@pytest.mark.parametrize("numbers", [60, 2**18])
@pytest.mark.parametrize("prototypes", [0, 2])
@pytest.mark.parametrize("candidates", [None, [[5, 4, 12, 1, 9]]], ids=["catalogue", "candidates"])
@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_scores_are_those_that_training_differentiates(variant, candidates, prototypes, numbers, monkeypatch):
    """With entries that come back, histories that lack a modality, and any number of things in cache at once."""
    monkeypatch.setattr("fedmm.models.experts.memory_scoring.NUMBERS_AT_ONCE", numbers)
    recommender = build(tiny_config(**variant, memory={"size": 3, "num_heads": 2, "num_prototypes": prototypes}))
    params = shaken(recommender, 1)
    batch = batch_of(WINDOWS, candidates=candidates)
    whole = recommender.forward(params, batch).scores.materialise()
    asked = []
    monkeypatch.setattr("fedmm.models.experts.memory.Scored", lambda *given: asked.append(given[1]) or Scored(*given))
    with torch.no_grad():
        found = recommender.forward(params, batch).scores.materialise()
    assert found.shape[-1] == (NUM_ITEMS + 1 if candidates is None else 5)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-12)
    assert asked == ["visual", "semantic"]
