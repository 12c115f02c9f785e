"""Prototypes beside the definition: further entries for everyone, in any order, and only those that have members."""

import pytest
import torch

from fedmm.errors import ConfigError
from fedmm.models.prototypes import nearest
from fedmm.utils.params import num_parameters
from fedmm.utils.seeding import torch_stream
from fedmm.verification.naive import naive_scores
from worlds.model_oracle import oracle_scores
from worlds.model_world import (
    MEMORY,
    NUM_ITEMS,
    WINDOWS,
    batch_of,
    build,
    fresh,
    name_of,
    of_client,
    score,
    score_gradients,
    shaken,
    tiny_config,
)

ITEMS = list(range(1, NUM_ITEMS + 1))
MODALITIES = ("visual", "semantic")


def with_prototypes(variant, number=3, **memory):
    """A recommender and the stacked parameters of two clients, all but one prototype with members."""
    recommender = build(tiny_config(**variant, memory={"size": 3, "num_heads": 2, "num_prototypes": number, **memory}))
    params = shaken(recommender)
    for name in MODALITIES:
        params[f"{name}.prototype_counts"] = torch.arange(number, dtype=torch.float64).expand(2, -1)
    return recommender, params


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_scores_equal_both_oracles(variant):
    recommender, params = with_prototypes(variant)
    found = score(recommender, params, batch_of())[..., 1:]
    for c, own in enumerate(WINDOWS):
        for b, window in enumerate(own):
            expected = torch.from_numpy(oracle_scores(recommender, of_client(params, c), window, ITEMS))
            torch.testing.assert_close(found[c, b, : len(window)], expected, rtol=0, atol=1e-9)
    naive = naive_scores(recommender, of_client(params, 0), WINDOWS[0][0], ITEMS)
    torch.testing.assert_close(found[0, 0, : len(WINDOWS[0][0])], naive, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_they_are_heard_wherever_the_candidate_has_the_modality(variant):
    """Not computed in vain: another prototype is another score, even where the memory is empty; items with neither
    modality, and items with the other one alone, hear nothing."""
    recommender, params = with_prototypes(variant)
    batch = batch_of([[[4, 12, 7]], [[12, 9]]])
    before = score(recommender, params, batch)
    moved = {**params, "visual.prototypes": params["visual.prototypes"] + 1.0}
    after = score(recommender, moved, batch)
    has = recommender.tables["visual"].present
    assert torch.equal(before[..., ~has], after[..., ~has])
    assert not torch.isclose(before[..., 0, :][..., has], after[..., 0, :][..., has], rtol=0, atol=1e-9).any()


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_their_order_is_no_matter(variant):
    recommender, params = with_prototypes(variant, number=4)
    order = torch.randperm(4, generator=torch_stream(0, "order"))
    turned = dict(params)
    for name in MODALITIES:
        for kind in ("prototypes", "prototype_counts"):
            turned[f"{name}.{kind}"] = params[f"{name}.{kind}"][:, order]
    left, right = (score(recommender, own, batch_of()) for own in (params, turned))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_one_without_members_is_no_entry(variant):
    """Where k-means begins says nothing; with no members at all the scores are those of a model without prototypes."""
    recommender, params = with_prototypes(variant)
    moved = {name: value.clone() for name, value in params.items()}
    moved["visual.prototypes"][:, 0] += 5.0
    assert torch.equal(score(recommender, params, batch_of()), score(recommender, moved, batch_of()))
    for name in MODALITIES:
        moved[f"{name}.prototype_counts"] = torch.zeros(2, 3, dtype=torch.float64)
    without = build(tiny_config(**variant))
    others = {name: value for name, value in params.items() if "prototype" not in name}
    left, right = score(recommender, moved, batch_of()), score(without, others, batch_of())
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_a_prototype_at_an_entrys_features_is_that_entry_once_more(variant):
    """With one entry and one prototype alike, attention over both is attention over either."""
    recommender, params = with_prototypes(variant, number=1)
    params = {name: value[:1] for name, value in params.items()}
    for name in MODALITIES:
        params[f"{name}.prototypes"] = recommender.tables[name].values[7].view(1, 1, -1)
        params[f"{name}.prototype_counts"] = torch.ones(1, 1, dtype=torch.float64)
    without = build(tiny_config(**variant))
    others = {name: value for name, value in params.items() if "prototype" not in name}
    left, right = (score(r, p, batch_of([[[7]]]))[..., 1:] for r, p in ((recommender, params), (without, others)))
    aside = torch.tensor([item != 7 for item in ITEMS])  # 7 attends to the prototype alone
    torch.testing.assert_close(left[..., aside], right[..., aside], rtol=0, atol=1e-10)


def test_they_draw_after_all_others_and_from_the_catalogue():
    """A model's other parameters are the same with and without them; k-means begins at distinct items' features."""
    with_them, without = (build(tiny_config(experts="memory", memory={"num_prototypes": n})) for n in (8, 0))
    params, others = fresh(with_them), fresh(without)
    assert all(torch.equal(params[name], value) for name, value in others.items())
    assert num_parameters(params) - num_parameters(others) == 8 * (5 + 1) + 8 * (3 + 1)
    for name in MODALITIES:
        table = with_them.tables[name]
        found = torch.cdist(params[f"{name}.prototypes"], table.values[table.present])
        assert (found.min(1).values < 1e-9).all()
        assert len(set(found.argmin(1).tolist())) == 8
        assert not params[f"{name}.prototype_counts"].any()
    with pytest.raises(ConfigError, match="num_prototypes 10 is more than the 9 items with visual features"):
        fresh(build(tiny_config(experts="memory", memory={"num_prototypes": 10})))


def test_gradients_pass_them_by_and_reach_the_projections():
    recommender, params = with_prototypes(MEMORY[0])
    found = score_gradients(recommender, params, batch_of([[[12]], [[12]]]))  # nothing but prototypes to attend to
    assert found["visual.value.weight"].any()
    assert found["visual.query.weight"].any()


def test_the_nearest_is_found_and_the_first_of_equals():
    stream = torch_stream(0, "nearest")
    vectors, centres = (torch.randn(n, 3, generator=stream, dtype=torch.float64) for n in (50, 6))
    assert torch.equal(nearest(vectors, centres), torch.cdist(vectors, centres).argmin(1))
    assert nearest(vectors, centres[[2, 2, 2]]).tolist() == [0] * 50
