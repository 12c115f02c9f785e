"""What is missing has no effect and no gradient: a modality, an item's features, a memory."""

import numpy as np
import pytest
import torch

from fedmm.data.types import ItemFeatures
from fedmm.models.features import FeatureTable
from fedmm.models.recommender import Recommender
from fedmm.utils.params import num_parameters
from worlds.model_world import (
    FUSED,
    LACKING,
    MEMORY,
    NUM_ITEMS,
    WINDOWS,
    batch_of,
    build,
    fresh,
    name_of,
    score,
    score_gradients,
    shaken,
    tiny_config,
)

EVERYTHING = range(NUM_ITEMS + 1)
ABSENT = [("visual",), ("semantic",), ("visual", "semantic")]


def others(params, names):
    """The named experts' parameters replaced by something else."""
    return {k: 5.0 - 2.0 * v if k.split(".")[0] in names else v for k, v in params.items()}


@pytest.mark.parametrize("names", ABSENT, ids="+".join)
@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_absent_modality_has_no_effect_and_no_gradient(variant, names):
    recommender = build(tiny_config(**variant), **dict.fromkeys(names, EVERYTHING))
    params, batch = shaken(recommender), batch_of()
    assert torch.equal(score(recommender, params, batch), score(recommender, others(params, names), batch))
    gradients = score_gradients(recommender, params, batch)
    for name, gradient in gradients.items():
        if name.split(".")[0] in names:
            assert (gradient == 0).all(), name
    if len(names) == 2:  # nothing left beside the backbone, not even something for the gate or router to weigh
        assert torch.equal(score(recommender, params, batch), score(recommender, params, batch, experts=False))
        assert all((g == 0).all() for k, g in gradients.items() if not recommender.is_backbone(k))


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_empty_memory_has_no_effect_and_no_gradient(variant):
    """Histories of items that lack the visual modality, while candidates have it."""
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    batch = batch_of([[[4, 12, 8], [12]], [[8, 8], [4]]])
    assert torch.equal(score(recommender, params, batch), score(recommender, others(params, ["visual"]), batch))
    for name, gradient in score_gradients(recommender, params, batch).items():
        assert torch.isfinite(gradient).all()
        assert (gradient == 0).all() == name.startswith("visual."), name
    if variant["fusion"] == "residual":
        bare = batch_of([[[12, 12]], [[12, 12]]])
        torch.testing.assert_close(
            score(recommender, params, bare), score(recommender, params, bare, experts=False), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_an_items_missing_features_are_never_read(variant):
    """Present rows stay; what stands in absent ones may be anything."""

    def tables(filler):
        stream = np.random.default_rng(0)
        found = {}
        for name, width in (("visual", 5), ("semantic", 3)):
            values = stream.normal(size=(NUM_ITEMS + 1, width)).astype(np.float32)
            present = ~np.isin(np.arange(NUM_ITEMS + 1), LACKING[name])
            values[~present] = filler
            found[name] = ItemFeatures(values, present)
        return found

    models = [
        Recommender.build(tiny_config(**variant), NUM_ITEMS, tables(filler), torch.float64)
        for filler in (0.0, 1e30, np.nan)
    ]
    scores = [score(model, shaken(model), batch_of()) for model in models]
    assert torch.isfinite(scores[0]).all()
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_router_weights_are_renormalised_over_the_present(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    table = params["backbone.item_embedding"]
    weights = recommender.router_weights(params, None, table)[:, 1:]
    complete = recommender.with_tables(
        {k: FeatureTable(t.values, torch.ones_like(t.present)) for k, t in recommender.tables.items()}
    )
    unmasked = complete.router_weights(params, None, table)[:, 1:]
    present = torch.stack([t.present[1:] for t in recommender.tables.values()], -1).expand(2, -1, -1)
    if variant["fusion"] == "competitive":
        present = torch.cat([torch.ones_like(present[..., :1]), present], -1)
    kept = unmasked * present
    torch.testing.assert_close(weights, kept / kept.sum(-1, keepdim=True).clamp(min=1e-300))
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights.sum(-1), present.any(-1).double())


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_a_candidate_without_features_is_scored_by_the_backbone(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    fused, alone = (score(recommender, params, batch_of(), experts=experts)[..., 12] for experts in (True, False))
    torch.testing.assert_close(fused, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
def test_without_features_a_model_is_exactly_the_backbone(variant):
    bare, backbone = (
        build(tiny_config(**variant), ()),
        build(tiny_config(**{**variant, "fusion": "backbone"})),
    )
    params, expected = fresh(bare), fresh(backbone)
    assert params.keys() == expected.keys()
    assert all(torch.equal(params[name], expected[name]) for name in params)
    assert all(torch.equal(fresh(build(tiny_config(**variant)))[name], expected[name]) for name in expected)
    params = shaken(bare)
    assert torch.equal(score(bare, params, batch_of()), score(backbone, params, batch_of()))
    assert (bare.forward(params, batch_of()).load_balance_loss == 0).all()
    assert not bare.has_gate
    assert bare.gating_weight(params) is None
    assert bare.expert_weights(params) == {}


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_memory_smaller_than_asked_for_is_whole(variant):
    """K beyond the history's length changes nothing, so padding of the memory is never attended."""
    sizes = [
        build(tiny_config(**variant, memory={"size": size})) for size in (max(map(len, WINDOWS[0] + WINDOWS[1])), 50)
    ]
    fits, roomy = (score(recommender, shaken(recommender), batch_of()) for recommender in sizes)
    torch.testing.assert_close(fits, roomy, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", FUSED, ids=name_of)
@pytest.mark.parametrize("names", [("visual",), ("semantic",), ("visual", "semantic")], ids="+".join)
def test_num_parameters_has_its_closed_form(variant, names):
    recommender = build(tiny_config(**variant), names)
    config, widths = recommender.config, [recommender.tables[name].width for name in names]
    D, M = config.hidden_dim, len(names)
    norm, dense = 2 * D, D * D + D
    # A block: two norms, then query, value, output, inner and outer with bias and the key without.
    block = 2 * norm + 5 * dense + D * D
    expected = (NUM_ITEMS + 1) * D + config.max_length * D + config.num_blocks * block + norm
    if variant["experts"] in ("pooled", "hybrid"):
        expected += sum(D * F + norm + 1 for F in widths)
        inputs = sum(widths)
    elif variant["experts"] == "neighbors":  # nothing of their own trains
        inputs = sum(widths)
    else:
        queries = [F if name == "visual" else D for name, F in zip(names, widths, strict=True)]
        expected += sum(D * Q + 2 * D * F + D * D + norm for Q, F in zip(queries, widths, strict=True))
        inputs = D
    outputs = M + (variant["fusion"] == "competitive")
    expected += outputs * (inputs + 1) + (variant["fusion"] == "residual")
    assert num_parameters(fresh(recommender)) == expected
