"""Training candidates: what a row may choose from, against brute force; nothing held out can be seen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.federation.candidates import collect_candidates, draw_negatives, exclude_seen
from fedmm.models.losses.softmax import Questions, masked_logits
from fedmm.models.scores import Scores
from fedmm.utils.seeding import numpy_stream

NUM_ITEMS = 12


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, NUM_ITEMS), max_size=14), st.integers(0, 15), st.integers(0, 99))
def test_negatives_are_distinct_and_outside_the_history(history: list[int], count: int, seed: int) -> None:
    drawn = draw_negatives(np.array(history, dtype=np.int64), NUM_ITEMS, count, numpy_stream(seed, "negatives"))
    outside = set(range(1, NUM_ITEMS + 1)) - set(history)
    assert len(set(drawn.tolist())) == len(drawn) == min(count, len(outside))
    assert set(drawn.tolist()) <= outside


@pytest.mark.parametrize("count", [0, 3])
def test_a_client_that_met_everything_has_no_negatives(count: int) -> None:
    everything = np.arange(1, NUM_ITEMS + 1)
    assert not len(draw_negatives(everything, NUM_ITEMS, count, numpy_stream(0, "negatives")))
    almost = draw_negatives(everything[1:], NUM_ITEMS, 3, numpy_stream(0, "negatives"))
    assert almost.tolist() == [1]


def test_every_item_outside_is_drawn_alike() -> None:
    history, rounds = np.array([2, 5, 7]), 6000
    counts = np.zeros(NUM_ITEMS + 1)
    for number in range(rounds):
        counts[draw_negatives(history, NUM_ITEMS, 3, numpy_stream(0, "negatives", number))] += 1
    outside = np.delete(np.arange(1, NUM_ITEMS + 1), history - 1)
    chance = 3 / len(outside)
    assert np.abs(counts[outside] / rounds - chance).max() < 5 * np.sqrt(chance * (1 - chance) / rounds)


def test_targets_come_first_once_each_then_the_negatives() -> None:
    targets = torch.tensor([[4, 9, 4, 0], [3, 0, 0, 0]])
    weights = torch.tensor([[0.4, 0.3, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0]])
    found = collect_candidates(targets, weights, [np.array([1, 7]), np.array([2, 5, 6])])
    assert found.items.tolist() == [[4, 9, 1, 7], [3, 2, 5, 6]]
    assert found.mask.all()
    picked = found.items.gather(1, found.target_index)
    assert picked[0, :3].tolist() == [4, 9, 4]
    assert picked[1, 0] == 3
    assert [own.tolist() for own in found.distinct] == [[4, 9], [3]]


@st.composite
def clients(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray]:
    """Histories (items may come again) and places of rows in them."""
    histories = [
        np.array(draw(st.lists(st.integers(1, NUM_ITEMS), min_size=2, max_size=9)), dtype=np.int64)
        for _ in range(draw(st.integers(1, 3)))
    ]
    places = np.array([[draw(st.integers(0, len(own) - 2)) for _ in range(3)] for own in histories])
    return histories, places


def allowed(history: np.ndarray, place: int) -> set[int]:
    """What comes after ``place`` or never, or more than once: the definition."""
    met = history[: place + 1].tolist()
    return {t for t in range(1, NUM_ITEMS + 1) if t not in met or history.tolist().count(t) > 1}


@settings(max_examples=80, deadline=None)
@given(clients())
def test_seen_items_are_left_out_of_the_whole_catalogue(world: tuple[list[np.ndarray], np.ndarray]) -> None:
    histories, places = world
    exclusions = exclude_seen(histories, places, None, torch.device("cpu"))
    questions = Questions(torch.zeros(places.shape, dtype=torch.long), torch.ones(places.shape), None, exclusions)
    kept = torch.isfinite(masked_logits(Scores((), torch.zeros(*places.shape, NUM_ITEMS + 1)), questions))
    for c, history in enumerate(histories):
        for row, place in enumerate(places[c]):
            assert set(kept[c, row].nonzero().flatten().tolist()) == allowed(history, place)
            assert history[place + 1] in allowed(history, place) or history[place + 1] in history[: place + 1]


@settings(max_examples=60, deadline=None)
@given(clients(), st.integers(0, 50))
def test_seen_items_are_left_out_of_sampled_candidates(world: tuple[list[np.ndarray], np.ndarray], seed: int) -> None:
    histories, places = world
    targets = torch.tensor([[int(own[place + 1]) for place in row] for own, row in zip(histories, places, strict=True)])
    negatives = [draw_negatives(own, NUM_ITEMS, 4, numpy_stream(seed, "negatives")) for own in histories]
    weights = torch.full(targets.shape, 1 / 3)
    candidates = collect_candidates(targets, weights, negatives)
    exclusions = exclude_seen(histories, places, candidates.distinct, torch.device("cpu"))
    questions = Questions(candidates.target_index, weights, candidates.mask, exclusions)
    logits = masked_logits(Scores((), torch.zeros(*targets.shape, candidates.items.shape[1])), questions)
    for c, history in enumerate(histories):
        for row, place in enumerate(places[c]):
            columns = torch.isfinite(logits[c, row]).nonzero().flatten()
            kept = set(candidates.items[c, columns].tolist())
            expected = {*targets[c].tolist(), *negatives[c].tolist()} & allowed(history, place)
            assert kept == expected


@pytest.mark.parametrize("columns", [True, False])
def test_the_target_itself_is_always_a_candidate(columns: bool) -> None:
    history = np.array([3, 8, 1, 11])
    places = np.array([[0, 1, 2]])
    exclusions = exclude_seen([history], places, [np.array([1, 8, 11])] if columns else None, torch.device("cpu"))
    names = np.array([1, 8, 11]) if columns else np.arange(NUM_ITEMS + 1)
    for row, place in enumerate(places[0]):
        taken = exclusions.index[0][exclusions.rows[0, row]].numpy()
        assert history[place + 1] not in names[taken]
