"""The memory: which entries it keeps, and that nothing attends to itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import MemoryConfig
from fedmm.models.experts.memory import select_entries
from fedmm.models.surprise import surprise_of_history
from worlds.model_world import MEMORY, NUM_ITEMS, batch_of, build, name_of, score, shaken, tiny_config

WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@st.composite
def memories(draw):
    length = draw(st.integers(1, 8))
    windows = draw(st.lists(st.lists(st.integers(0, 5), min_size=length, max_size=length), min_size=1, max_size=2))
    surprise = [[draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for _ in window] for window in windows]
    present = [False, *draw(st.lists(st.booleans(), min_size=5, max_size=5))]
    config = MemoryConfig(
        size=draw(st.integers(1, 9)),
        surprise_weight=draw(WEIGHTS),
        recency_weight=draw(WEIGHTS),
    )
    return windows, surprise, present, config


def kept_by_hand(history, surprise, present, config):
    """The best entries of a prefix by utility, best first; of equals the later."""

    def utility(j):
        recency = 0.5 ** ((len(history) - 1 - j) / 10)
        own = config.surprise_weight * surprise[j]
        return round(own + config.recency_weight * recency, 9)

    places = [j for j, item in enumerate(history) if present[item]]
    return [history[j] for j in sorted(places, key=lambda j: (utility(j), j), reverse=True)[: config.size]]


@settings(max_examples=60, deadline=None)
@given(memories())
def test_the_best_entries_so_far_are_kept(world):
    windows, surprise, present, config = world
    L = len(windows[0])
    items = torch.tensor([windows])
    rows = torch.arange(items.numel()).view(1, -1)
    memory = select_entries(items, rows, torch.tensor(present), torch.tensor([surprise], dtype=torch.float64), config)
    for row in range(items.numel()):
        window, place = divmod(row, L)
        expected = kept_by_hand(windows[window][: place + 1], surprise[window], present, config)
        assert memory.items[0, row][memory.kept[0, row]].tolist() == expected


@pytest.mark.parametrize("num_items", [1, 2, 12])
def test_a_uniform_guess_surprises_by_one(num_items):
    """Surprise has the unit ln V, and the first entry, which nothing predicted, counts as a uniform guess."""
    uniform = torch.full((1, 1, 3), -math.log(max(num_items, 2)), dtype=torch.float64)
    torch.testing.assert_close(surprise_of_history(uniform, num_items), torch.ones(1, 1, 4, dtype=torch.float64))


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_a_memory_of_the_candidate_alone_is_empty(variant):
    """After the history [t] candidate t finds nothing but itself, so the expert adds nothing; to others it speaks."""
    recommender = build(tiny_config(**variant))
    params = shaken(recommender, 1)
    moved = {k: 4.0 - v if k.startswith(("visual.", "semantic.")) else v for k, v in params.items()}
    for t in range(1, NUM_ITEMS + 1):
        batch = batch_of([[[t, t]]])
        before, after = score(recommender, params, batch), score(recommender, moved, batch)
        assert torch.equal(before[..., t], after[..., t])
        heard = [u for u in range(1, NUM_ITEMS) if u != t] if t != 12 else []
        assert all(not torch.equal(before[..., u], after[..., u]) for u in heard if shares_modality(recommender, t, u))


def shares_modality(recommender, t, u):
    return any(bool(table.present[t] and table.present[u]) for table in recommender.tables.values())


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_what_a_candidate_is_in_the_memory_never_moves_its_own_score(variant):
    """The semantic expert asks with the item's embedding, so an item's text acts only as a memory entry."""
    recommender = build(tiny_config(**variant), ("semantic",))
    params, batch = shaken(recommender, 1), batch_of([[[7, 1, 10, 7, 2]]])
    before = score(recommender, params, batch)
    recommender.tables["semantic"].values[7] += 3.0
    after = score(recommender, params, batch)
    assert torch.equal(before[..., 7], after[..., 7])
    assert not torch.isclose(before[..., 1], after[..., 1]).any()


@pytest.mark.parametrize("variant", MEMORY, ids=name_of)
def test_order_within_the_memory_does_not_matter(variant):
    """Entries carry no place in the attention: with all of them kept, what the backbone says aside, an expert is the
    same after any order of the history."""
    recommender = build(tiny_config(**variant, memory={"size": 9}))
    params = shaken(recommender, 1)
    for name, value in params.items():
        if name.startswith("backbone.block") or name in ("backbone.position_embedding", "backbone.norm.weight"):
            params[name] = torch.zeros_like(value)
    forth, back = (score(recommender, params, batch_of([[own]]))[:, :, -1] for own in ([7, 1, 2, 9], [2, 7, 1, 9]))
    torch.testing.assert_close(forth, back, rtol=1e-10, atol=1e-10)
