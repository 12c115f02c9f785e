"""Sparse constants are the dense ones: in sums of terms, in both forms of the loss, in blocks, engines and scorers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedmm.data.transitions import client_transition_counts
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.models.experts import transition, transition_rows
from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy, masked_logits
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.utils.seeding import torch_stream
from fedmm.verification.subject import shaken
from fedmm.verification.world import ENGINES, by_client, make_local, update_gap

F64 = torch.float64
C, R, N, K = 3, 4, 6, 2
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def sparse_world(seed):
    """Queries, keys, a scale, and the same constants sparse and dense; some rows have no entry."""
    stream = torch_stream(seed, "sparse scores")
    constants = torch.randn(C * R, N, generator=stream, dtype=F64) * (torch.rand(C * R, N, generator=stream) < 0.4)
    constants[torch.rand(C * R, generator=stream) < 0.2] = 0.0
    sparse = SparseScores.build(csr_matrix(constants.numpy()), C, torch.device("cpu"))
    queries, keys, scale = (torch.randn(s, generator=stream, dtype=F64) for s in ((C, R, K), (C, N, K), (C, N)))
    weights = torch.rand(C, R, generator=stream, dtype=F64) + 0.1
    real = torch.arange(R) < torch.randint(0, R + 1, (C, 1), generator=stream)
    targets = torch.randint(1, N, (C, R), generator=stream) * real
    return (queries, keys, scale), sparse, constants.view(C, R, N), targets, weights * real


def scores_of(leaves, constants, joined, scaled):
    """A product and the constants: one term, or two."""
    queries, keys, scale = leaves
    scale = scale if scaled else None
    if joined:
        return Scores((Term(queries, keys, scale, constants), Term(queries * 0.5, keys)))
    return Scores((Term(queries, keys),)).plus(Term(None, None, scale, constants))


def value_and_gradients(losses, leaves):
    slopes = torch.arange(1.0, len(losses) + 1, dtype=F64)
    found = torch.autograd.grad((losses * slopes).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [losses.detach(), *found]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_entries_stand_where_they_stood(seed):
    _, sparse, dense, _, _ = sparse_world(seed)
    assert torch.equal(sparse.dense(), dense)
    assert torch.equal(sparse.some(1, 3).dense(), dense[1:3])
    for client in range(C):
        for rows in range(R + 1):
            assert torch.equal(sparse.some(client, client + 1, rows).dense()[0], dense[client, :rows])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_the_losses_of_sparse_constants_are_those_of_dense_ones(seed, joined, scaled, plain):
    tensors, sparse, dense, targets, weights = sparse_world(seed)
    index = torch.tensor([[1, 2]]).expand(C, -1)
    rows = (index.unsqueeze(1) != targets.unsqueeze(-1)) & (torch.arange(R).view(1, -1, 1) % 2 == 0)
    questions = Questions(targets, weights, exclusions=Exclusions(index, rows))
    found = []
    for constants in (sparse, dense):
        leaves = [value.clone().requires_grad_() for value in tensors]
        scores = scores_of(leaves, constants, joined, scaled)
        if plain:
            log_p = torch.log_softmax(masked_logits(scores, questions), -1)
            taken = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).masked_fill(weights == 0, 0.0)
            losses = -(taken * weights).sum(-1)
        else:
            losses = cross_entropy(scores, questions)
        found.append(value_and_gradients(losses, leaves))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, **CLOSE)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, C))
def test_clients_at_once_lose_what_they_lose_one_by_one(seed, scaled, width):
    tensors, sparse, dense, targets, weights = sparse_world(seed)
    mask = torch.arange(N).expand(C, -1) > 0
    questions = CatalogueQuestions(targets, weights, mask, None, torch.zeros_like(targets))
    found = []
    for constants in (sparse, dense):
        leaves = [value.clone().requires_grad_() for value in tensors]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedmm.models.losses.batched.LOGITS_AT_ONCE", width * R * N)
            losses = catalogue_cross_entropy(scores_of(leaves, constants, False, scaled), questions)
        found.append(value_and_gradients(losses, leaves))
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, **CLOSE)


@given(st.lists(st.lists(st.integers(1, 9), max_size=14), min_size=1, max_size=4))
def test_pairs_of_all_clients_are_each_ones_own(histories):
    histories = [np.array(history, dtype=np.int64) for history in histories]
    owner, first, second, values = transition_rows.own_pairs(histories)
    for client, history in enumerate(histories):
        own = owner == client
        expected = client_transition_counts(history)
        found = (first[own], second[own], values[own])
        assert sorted(zip(*found, strict=True)) == sorted(zip(*expected, strict=True))


@pytest.mark.parametrize("table_numbers", [1, 2**22], ids=["one by one", "at once"])
@pytest.mark.parametrize("negatives", [0, 6])
@pytest.mark.parametrize("experts", ["hybrid", pytest.param("memory", marks=pytest.mark.slow)])
def test_training_on_sparse_rows_is_training_on_dense_ones(experts, negatives, table_numbers, monkeypatch):
    """In both engines, whatever share of the pairs was counted."""
    local, params = make_local({"transition": True, "experts": experts}, {"num_negatives": negatives})
    params, cohort = shaken(params), local.windows.trainable[:4]
    monkeypatch.setattr(transition_rows, "TABLE_NUMBERS", table_numbers)
    found = []
    for crowded in (0.0, 1.0):
        monkeypatch.setattr(transition, "CROWDED", crowded)
        found += [by_client(engine(local, params, cohort, 1)) for engine in ENGINES.values()]
    assert all(update_gap(found[0], other) < 1e-9 for other in found[1:])


@pytest.mark.parametrize("only", [None, "transition"])
def test_a_scorer_by_sparse_rows_is_one_by_dense_rows(only, monkeypatch):
    local, params = make_local({"transition": True})
    score = model_scorer(local.recommender, shaken(params), torch.device("cpu"), experts=True, only=only)
    users = np.arange(len(local.train))
    sparse = score(users, local.train)
    monkeypatch.setattr(transition, "sparse_transition_scores", transition.transition_scores)
    torch.testing.assert_close(sparse, score(users, local.train), **CLOSE)


def test_personal_scales_meet_their_own_clients_entries():
    (_, _, scale), sparse, dense, _, _ = sparse_world(3)
    expected = dense * scale.unsqueeze(1)
    torch.testing.assert_close(Scores((Term(None, None, scale, sparse),)).materialise(), expected, **CLOSE)
    unscaled = Scores((Term(None, None, None, replace(sparse)),)).materialise()
    assert torch.equal(unscaled, dense)
