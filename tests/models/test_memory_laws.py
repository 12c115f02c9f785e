"""The memory: which entries it keeps, and that nothing attends to itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import MemoryConfig
from fedmm.models.experts.memory import select_entries
from fedmm.models.experts.memory_reading import NOBODY, Entries, read
from fedmm.models.surprise import surprise, surprise_of_history
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


@pytest.mark.parametrize("prototypes", [0, 2])
def test_entries_shared_by_positions_are_read_as_each_positions_own(prototypes):
    """Five positions of one window read the same of entries that all share, as of copies of their own; attention sums
    to 1 by head where there is anything to read, and nobody reads itself."""
    generator = torch.Generator().manual_seed(prototypes)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {f"m.{part}.weight": draw(2, 6, width) for part, width in
              (("query", 4), ("key", 5), ("value", 5), ("output", 6))}  # fmt: skip
    params |= {"m.norm.weight": draw(2, 6), "m.norm.bias": draw(2, 6)}
    items, features, inputs = torch.tensor([[3, 1, 3, 2, 4], [2, 5, 1, 0, 0]]), draw(2, 5, 5), draw(2, 6, 4)
    places = torch.tensor([[[0, 1, 2], [3, 1, 4], [4, 0, 2], [2, 3, 1], [0, 3, 4]]]).expand(2, -1, -1)
    kept = torch.rand(2, 5, 3, generator=generator) < 0.7
    common = None if not prototypes else torch.tensor([[True, False], [True, True]])
    behind, nobody = draw(2, prototypes, 5), torch.full((2, prototypes), NOBODY)
    candidates = torch.arange(6).unsqueeze(0)
    flat = places.flatten(1)
    copies = features.gather(1, flat.unsqueeze(2).expand(-1, -1, 5))
    shared = Entries(torch.cat([features, behind], 1), torch.cat([items, nobody], 1), kept, places, common)
    own = Entries(torch.cat([copies, behind], 1), torch.cat([items.gather(1, flat), nobody], 1), kept, None, common)
    one, other = (read(params, "m", entries, inputs, candidates, 2) for entries in (shared, own))
    keys = draw(2, 6, 6)
    torch.testing.assert_close(one.dot(keys), other.dot(keys), rtol=0, atol=1e-12)
    (basis, spread), (again, spread_again) = one.span(), other.span()
    torch.testing.assert_close(basis.mT @ spread, again.mT @ spread_again, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.dot(keys), ((basis.mT @ spread) * keys.mT.unsqueeze(1)).sum(2), rtol=0, atol=1e-12)
    by_head = one.attention.unflatten(2, (2, -1)).sum(3)
    torch.testing.assert_close(by_head, one.anything.unsqueeze(2).expand(by_head.shape), rtol=0, atol=1e-12)
    alone = Entries(features[:, :1], items[:, :1], kept.new_ones(2, 1, 1), None, None)
    assert read(params, "m", alone, inputs, candidates, 2).anything[0, 0].tolist() == [1, 1, 1, 0, 1, 1]


def test_surprise_is_the_same_some_positions_at_once(monkeypatch):
    """Whatever number of positions is asked at once, and for histories of one item."""
    logits, items = torch.randn(2, 8, 7, dtype=torch.float64), torch.tensor([[[3, 1, 4], [2, 5, 0]]]).expand(2, -1, -1)
    queries = torch.eye(4, dtype=torch.float64).view(1, 2, 2, 4).expand(2, -1, -1, -1)

    def asked():
        return surprise(lambda some: some @ logits[:, :4], queries, items, 6, None)

    whole = asked()
    monkeypatch.setattr("fedmm.models.surprise.LOGITS_AT_ONCE", 1)
    torch.testing.assert_close(asked(), whole, rtol=0, atol=1e-14)
    lone = surprise(lambda some: some @ logits[:, :4], queries[:, :, :0], items[:, :, :1], 6, None)
    assert lone.tolist() == [[[1.0], [1.0]]] * 2
