"""Causality and indifference to layout: what stands later, beside or in the padding changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.federation.dropout import step_dropout
from fedmm.models.sasrec import encode
from fedmm.utils.seeding import torch_stream
from worlds.model_world import (
    NUM_ITEMS,
    VARIANTS,
    WINDOWS,
    batch_of,
    build,
    fresh,
    name_of,
    of_client,
    score,
    shaken,
    tiny_config,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LONG = [[[4, 12, 7, 1, 4, 9, 7]], [[3, 5, 2, 2, 8, 11, 6]]]


def dropout_of(batch, config, rate):
    """The same masks at each call, as in one local step of each client."""
    C, B, L = batch.items.shape
    generators = [torch_stream(client, "dropout") for client in range(C)]
    sizes = np.full(C, B), np.full(C, L)
    return step_dropout(
        rate, generators, *sizes, config.num_blocks, config.hidden_dim, torch.float64, torch.device("cpu")
    )


@pytest.mark.parametrize("rate", [0.0, 0.4], ids=["eval", "train"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_no_later_item_moves_an_earlier_score(variant, rate):
    recommender = build(tiny_config(**variant))
    params, batch = shaken(recommender), batch_of(LONG)
    before = score(recommender, params, batch, dropout=dropout_of(batch, recommender.config, rate))
    for place in range(1, 7):
        changed = [[window[:place] + [1 + (item + 4) % NUM_ITEMS for item in window[place:]]] for (window,) in LONG]
        after_batch = batch_of(changed)
        after = score(recommender, params, after_batch, dropout=dropout_of(batch, recommender.config, rate))
        assert torch.equal(before[:, :, :place], after[:, :, :place]), place
        assert not torch.isclose(before[:, :, place], after[:, :, place]).all(-1).any(), place


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_no_gradient_reaches_a_later_item(variant):
    """The score after l items has no derivative with respect to the rows of items that come only later."""
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    history, candidates = [5, 2, 9, 10, 11], [[1, 3], [1, 3]]
    table = params["backbone.item_embedding"].requires_grad_()
    scores = score(recommender, params, batch_of([[history]] * 2, candidates=candidates))
    for place in range(len(history)):
        (gradient,) = torch.autograd.grad(scores[:, 0, place].sum(), [table], retain_graph=True)
        assert (gradient[:, history[place + 1 :]] == 0).all()
        assert (gradient[:, history[: place + 1]].norm(dim=-1) > 0).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_scores_from_the_whole_history_equal_those_from_the_prefix(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    whole = score(recommender, params, batch_of(LONG))
    for length in range(1, 8):
        prefix = score(recommender, params, batch_of([[window[:length]] for (window,) in LONG]))
        torch.testing.assert_close(whole[:, :, length - 1], prefix[:, :, -1], **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_padding_length_has_no_effect(variant):
    recommender = build(tiny_config(**variant, max_length=11))
    params = shaken(recommender)
    short, padded = (score(recommender, params, batch_of(length=length)) for length in (7, 11))
    for c, own in enumerate(WINDOWS):
        for b, window in enumerate(own):
            torch.testing.assert_close(short[c, b, : len(window)], padded[c, b, : len(window)], **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_the_padding_row_is_no_item(variant):
    """Whatever stands in row 0 of the item table, no score of a real item and no entry's surprise feels it."""
    recommender = build(tiny_config(**variant, memory={"size": 2, "surprise_weight": 9.0}))
    params = shaken(recommender)
    before = score(recommender, params, batch_of())
    for state in (1.0, -1.0):
        table = params["backbone.item_embedding"].clone()
        table[:, 0] = state * 50 * params["backbone.norm.bias"]
        after = score(recommender, {**params, "backbone.item_embedding": table}, batch_of())
        for c, own in enumerate(WINDOWS):
            for b, window in enumerate(own):
                torch.testing.assert_close(before[c, b, : len(window), 1:], after[c, b, : len(window), 1:], **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_permuting_windows_or_clients_permutes_scores(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    found = score(recommender, params, batch_of())
    windows = score(recommender, params, batch_of([own[::-1] for own in WINDOWS]))
    torch.testing.assert_close(windows, found.flip(1), **CLOSE)
    flipped = {name: value.flip(0) for name, value in params.items()}
    torch.testing.assert_close(score(recommender, flipped, batch_of(WINDOWS[::-1])), found.flip(0), **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_stacked_clients_score_like_each_alone(variant):
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    together = score(recommender, params, batch_of(length=7))
    for client in range(2):
        own = {name: value.unsqueeze(0) for name, value in of_client(params, client).items()}
        alone = score(recommender, own, batch_of(WINDOWS[client : client + 1], length=7))
        torch.testing.assert_close(together[client : client + 1], alone, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_a_row_asked_twice_or_alone_gives_one_answer(variant):
    recommender = build(tiny_config(**variant))
    params, batch = shaken(recommender), batch_of()
    rows = torch.tensor([[5, 5, 1, 9], [0, 3, 8, 8]])
    asked = recommender.forward(params, type(batch)(batch.items, rows)).scores.materialise()
    everything = score(recommender, params, batch).flatten(1, 2)
    expected = everything.gather(1, rows.unsqueeze(-1).expand(-1, -1, everything.shape[-1]))
    torch.testing.assert_close(asked, expected, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_sampled_candidates_score_like_those_columns_of_the_catalogue(variant):
    columns = [[3, 12, 7, 7, 1], [1, 2, 10, 4, 9]]
    recommender = build(tiny_config(**variant))
    params = shaken(recommender)
    dense = score(recommender, params, batch_of())
    expected = torch.stack([dense[c, :, :, own] for c, own in enumerate(columns)])
    torch.testing.assert_close(score(recommender, params, batch_of(candidates=columns)), expected, **CLOSE)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, NUM_ITEMS), min_size=2, max_size=7), st.data())
def test_any_history_is_encoded_causally(history, data):
    cut = data.draw(st.integers(1, len(history) - 1))
    later = data.draw(st.lists(st.integers(0, NUM_ITEMS), min_size=len(history) - cut, max_size=len(history) - cut))
    config = tiny_config(fusion="backbone")
    params = {name: value.unsqueeze(0) for name, value in fresh(build(config)).items()}
    states = [
        encode(params, torch.tensor([[row]]), config, lambda x: x)[0, 0, :cut]
        for row in (history, history[:cut] + later)
    ]
    assert torch.equal(*states)
