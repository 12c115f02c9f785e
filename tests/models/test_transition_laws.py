"""The transition expert against its definition, counted pair by pair, and the laws that keep it honest."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import ModelConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.baselines import transition_scorer
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.models.experts.transition import TransitionTable, transition_scores
from fedmm.models.experts.transition_rows import sparse_transition_scores
from fedmm.models.losses.softmax import Questions, cross_entropy, masked_logits
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.router import route
from fedmm.models.scores import Scores, Term
from fedmm.utils.params import expand_for_clients
from fedmm.utils.seeding import numpy_stream, torch_stream

NUM_ITEMS = 14
CPU = torch.device("cpu")
F64 = torch.float64


def pair_counts(histories):
    """C, symmetrised, as a dict: every pair at most ten places apart, in both directions."""
    counts = defaultdict(float)
    for history in histories:
        for p, first in enumerate(history):
            for q in range(p + 1, min(len(history), p + 11)):
                weight = 0.5 ** ((q - p) / 5)
                counts[int(first), int(history[q])] += weight
                counts[int(history[q]), int(first)] += weight
    return counts


def defined(histories, softening, prefix, t):
    """s(l, t) of a prefix, from the other clients' histories alone."""
    counts = pair_counts(histories)
    total = sum(counts[i, t] for i in range(NUM_ITEMS + 1))
    if not total:
        return 0.0
    found = sum(0.8**age * counts[int(item), t] for age, item in enumerate(prefix[::-1][:10]))
    return 2 * math.log1p(found / math.sqrt(total) / softening)


def table_of(histories):
    return TransitionTable.build(sum_transition_counts(Ragged.from_rows(histories), NUM_ITEMS), F64, CPU)


def random_histories(seed, repeats=True):
    stream = numpy_stream(seed, "transition laws")
    draw = (
        (lambda n: stream.integers(1, NUM_ITEMS, n)) if repeats else (lambda n: stream.permutation(NUM_ITEMS)[:n] + 1)
    )
    return [draw(int(n)) for n in stream.integers(1, 13, 5)]


def sparse_scores(*given):
    return sparse_transition_scores(*given).dense()


WAYS = pytest.mark.parametrize("way", [transition_scores, sparse_scores], ids=["dense", "sparse"])


@WAYS
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_scores_are_the_definition_over_the_other_clients(way, seed, own, sampled, repeats):
    """With a client's own counts taken out, it scores as if it had never sent any."""
    histories = random_histories(seed, repeats)
    table, stream = table_of(histories), numpy_stream(seed, "windows")
    clients = [c for c in range(5) if len(histories[c]) > 1]
    if not clients:
        return
    L = max(len(histories[c]) for c in clients)
    items = torch.zeros(len(clients), 1, L, dtype=torch.int64)
    for place, c in enumerate(clients):
        items[place, 0, : len(histories[c])] = torch.from_numpy(histories[c])
    rows = torch.arange(L).expand(len(clients), L)
    candidates = torch.from_numpy(stream.integers(0, NUM_ITEMS + 1, (len(clients), 4))) if sampled else None
    taken_out = [histories[c] for c in clients] if own else None
    found = way(table, items, rows, candidates, taken_out)
    for place, c in enumerate(clients):
        others = [history for other, history in enumerate(histories) if other != c or not own]
        columns = range(NUM_ITEMS + 1) if candidates is None else candidates[place].tolist()
        for row in range(len(histories[c])):
            expected = [defined(others, table.softening, list(histories[c][: row + 1]), t) for t in columns]
            assert found[place, row].numpy() == pytest.approx(expected, abs=1e-9)


@WAYS
@pytest.mark.parametrize("seed", range(5))
def test_own_counts_matter_to_own_items_only(seed, way):
    """Why evaluation need not take them out: there the user's own items are no candidates."""
    histories = random_histories(seed)
    table = table_of(histories)
    history = max(histories, key=len)
    items = torch.from_numpy(history).view(1, 1, -1)
    rows = torch.arange(len(history)).view(1, -1)
    without = way(table, items, rows, None, [history])
    whole = way(table, items, rows, None, None)
    foreign = np.setdiff1d(np.arange(NUM_ITEMS + 1), history)
    assert torch.equal(without[..., foreign], whole[..., foreign])
    assert (without < whole).any()


@WAYS
def test_a_client_alone_has_nothing_to_go_by(way):
    """All the counts of its items are its own: it must not find its answers in them."""
    histories = [np.arange(1, 8), np.arange(9, 14)]
    table = table_of(histories)
    items = torch.from_numpy(histories[0]).view(1, 1, -1)
    scores = way(table, items, torch.arange(7).view(1, -1), None, histories[:1])
    assert not scores.any()


def counted(histories, **changes):
    config = ModelConfig(hidden_dim=4, num_heads=1, num_blocks=1, max_length=50, transition=True, **changes)
    counts = sum_transition_counts(Ragged.from_rows(histories), NUM_ITEMS)
    recommender = Recommender.build(config, NUM_ITEMS, {}, F64, transition_counts=counts)
    return recommender, recommender.init(torch_stream(0, "transition laws"), F64)


def test_alone_it_ranks_as_the_yardstick_does():
    """With the item table at zero the model's scores are an increasing function of the yardstick's."""
    histories = random_histories(3)
    recommender, params = counted(histories, gating_init=1.0)
    params["backbone.item_embedding"].zero_()
    train = Ragged.from_rows(histories)
    empty = Queries(np.zeros(0, np.int64), Ragged.from_rows([]), np.zeros(0, np.int64), Ragged.from_rows([]))
    yardstick = transition_scorer(Split("leave_one_out", NUM_ITEMS, train, empty, empty))
    users = np.arange(len(train))
    expected, found = yardstick(users, train), model_scorer(recommender, params, CPU, experts=True)(users, train)
    softening = recommender.parts["transition"].counted.softening
    torch.testing.assert_close(found[:, 1:], 2 * torch.log1p(expected[:, 1:] / softening), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("experts", ["hybrid", "neighbors", "pooled", "memory"])
@pytest.mark.parametrize("fusion", ["residual", "competitive"])
def test_without_any_features_it_is_the_only_expert(experts, fusion):
    recommender, params = counted(random_histories(1), experts=experts, fusion=fusion, memory={"num_heads": 1})
    assert recommender.experts == ("transition",)
    assert recommender.has_gate == (fusion == "residual") == ("fusion.gate" in params)
    share = 1.0 if fusion == "residual" else 0.5
    assert recommender.expert_weights(params) == {"transition": pytest.approx(share)}
    batch = Batch(torch.tensor([[[1, 2, 3]]]), torch.tensor([[0, 2]]))
    assert torch.isfinite(recommender.forward(expand_for_clients(params), batch).scores.materialise()).all()


@given(st.integers(1, 6), st.integers(0, 100))
def test_the_router_spreads_over_any_number_of_experts(num_experts, seed):
    stream = torch_stream(seed, "router")
    params = {
        "router.weight": torch.randn(2, num_experts, 3, generator=stream, dtype=F64),
        "router.bias": torch.randn(2, num_experts, generator=stream, dtype=F64),
    }
    present = torch.rand(9, num_experts, generator=stream) < 0.6
    weights = route(params, torch.randn(9, 3, generator=stream, dtype=F64), present)
    assert not weights[:, ~present].any()
    torch.testing.assert_close(weights.sum(-1), present.any(-1).to(F64).expand(2, -1))


@pytest.mark.parametrize("padded", [0, 2])
def test_the_fused_loss_of_scaled_constants_is_the_plain_one(padded):
    C, R, N, K = 3, 5, 7, 4
    stream = torch_stream(0, "constants")
    queries, keys, scale = (torch.randn(s, generator=stream, dtype=F64) for s in ((C, R, K), (C, N, K), (C, N)))
    constants = torch.randn(C, R, N, generator=stream, dtype=F64)
    before = constants.clone()
    weights = torch.ones(C, R, dtype=F64) / R
    weights[0, R - padded :] = 0.0
    targets = torch.randint(1, N, (C, R), generator=stream)
    targets[weights == 0] = 0
    found = []
    for fused in (True, False):
        leaves = [value.clone().requires_grad_() for value in (queries, keys, scale)]
        scores = Scores((Term(leaves[0], leaves[1]),)).plus(Term(None, None, leaves[2], constants))
        questions = Questions(targets, weights)
        if fused:
            losses = cross_entropy(scores, questions)
        else:
            log_p = torch.log_softmax(masked_logits(scores, questions), -1)
            taken = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).masked_fill(weights == 0, 0.0)
            losses = -(taken * weights).sum(-1)
        found.append([losses.detach(), *torch.autograd.grad(losses.sum(), leaves)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)
    assert torch.equal(constants, before)


def test_partial_aggregation_leaves_the_counts_out():
    histories = random_histories(2)
    recommender, params = counted(histories, gating_init=1.0)
    batch = Batch(torch.from_numpy(max(histories, key=len)).view(1, 1, -1), torch.tensor([[0, 1]]))
    backbone = recommender.forward(expand_for_clients(params), batch, experts=False).scores
    assert len(backbone.terms) == 1
    closed = {**params, "fusion.gate": torch.zeros((), dtype=F64)}
    whole = recommender.forward(expand_for_clients(closed), batch).scores
    assert torch.equal(whole.materialise(), backbone.materialise())
