"""A pooled minibatch's losses and gradients, against every client on a copy of the parameters of its own."""

from dataclasses import replace

import pytest
import torch
from scipy.sparse import csr_matrix

from fedmm.federation import pooled_steps
from fedmm.federation.centralized import minibatches
from fedmm.federation.local_training import StepStream
from fedmm.federation.pooled_steps import by_length, can_merge, pooled_losses
from fedmm.models.losses import pieces
from fedmm.models.losses.pieces import in_pieces
from fedmm.models.losses.softmax import cross_entropy
from fedmm.models.scores import Scores, SparseScores
from fedmm.models.workspace import Workspace
from fedmm.utils.params import stack_for_clients
from fedmm.verification.world import make_local

CASES = {
    "backbone": ({"fusion": "backbone"}, {}),
    "pooled": ({}, {}),
    "neighbors": ({"experts": "neighbors", "load_balance_weight": 0.1}, {}),
    "transition": ({"experts": "hybrid", "transition": True, "gating_init": 1.0}, {}),
    "competitive": ({"fusion": "competitive"}, {"exclude_seen": False}),
    "alignment": ({"alignment_weight": 0.3}, {}),
    "sampled": ({"experts": "hybrid", "transition": True}, {"num_negatives": 5, "logq_correction": True}),
    "sampled memory": ({"experts": "memory"}, {"num_negatives": 5}),
    "memory": ({"experts": "memory"}, {"num_negatives": 0}),
    "gbce": ({}, {"loss": "gbce", "num_negatives": 5}),
}


def steps(local):
    for place, (clients, plans) in enumerate(minibatches(local, 1)):
        yield lambda p=place, c=clients, w=plans: StepStream(local, c, 1, w, (p,)).step(0, len(c))


def shares_of(step):
    counts = (step.questions.row_weights > 0).sum(1).double()
    return counts / counts.sum()


def apart(local, params, step):
    """The three mean losses, each client's on parameters of its own, [C, ...] in memory."""
    own = stack_for_clients(params, len(step.batch.items))
    output = local.recommender.forward(own, step.batch, step.dropout)
    losses = local.loss.over_rows(output.scores, step.questions, Workspace())
    return [(shares_of(step) * said).sum() for said in (losses, output.load_balance_loss, output.alignment_loss)]


def gradients(losses, leaves):
    total = sum(weight * loss for weight, loss in zip((1.0, 0.7, 0.4), losses, strict=True))
    return torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize(("rows", "shortest"), [(3, 1), (10**6, 8)])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_clients_apart(case, rows, shortest, monkeypatch):
    """With dropout, clients of one and of several windows, lengths apart or together, and pieces of three rows or of
    all."""
    model, federation = CASES[case]
    local, params = make_local({"dropout": 0.2, **model}, {"batch_size": 7, **federation})
    monkeypatch.setattr(pooled_steps, "SHORTEST", shortest)
    monkeypatch.setattr(pieces, "LOGITS_AT_ONCE", rows * (local.recommender.num_items + 1))
    for made in steps(local):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        expected = apart(local, leaves, made())
        slopes = gradients(expected, leaves)
        step = made()
        found = pooled_losses(local, leaves, step, shares_of(step), Workspace(), experts=True)
        for one, other in zip(found, expected, strict=True):
            assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-9, abs=1e-12)
        for name, one, other in zip(leaves, gradients(found, leaves), slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


def test_which_minibatches_stand_as_one_clients():
    found = {case for case, (model, federation) in CASES.items() if can_merge(make_local(model, federation)[0])}
    assert found == {"backbone", "pooled", "neighbors", "transition", "competitive"}


def test_every_real_window_is_in_one_group_of_its_length(monkeypatch):
    monkeypatch.setattr(pooled_steps, "SHORTEST", 2)
    local, _ = make_local({"fusion": "backbone"}, {"batch_size": 50})
    step = next(steps(local))()
    lengths = (step.batch.items > 0).sum(-1).flatten()
    groups = by_length(step)
    assert torch.equal(torch.stack(groups).sum(0), (lengths > 0).long())
    assert [set(lengths[group].tolist()) for group in groups] == [{1, 2}, {5, 6}]


def test_the_catalogue_a_step_may_not_train_on_stays_out():
    """Items that training does not know (cold ones) get no gradient as candidates."""
    local, params = make_local({"fusion": "backbone"}, {"batch_size": 7, "exclude_seen": False})
    known = torch.ones(local.recommender.num_items + 1, dtype=torch.bool)
    known[0] = False
    step = next(steps(local))()
    strange = next(i for i in range(1, len(known)) if i not in step.batch.items and i not in step.questions.targets)
    known[strange] = False
    local = replace(local, recommender=replace(local.recommender, trained=known))
    step = next(steps(local))()
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss, *_ = pooled_losses(local, leaves, step, shares_of(step), Workspace(), experts=True)
    loss.backward()
    moved = leaves["backbone.item_embedding"].grad.abs().sum(1) > 0
    assert not moved[strange]
    assert moved[1:].sum() == local.recommender.num_items - 1


def test_the_gradient_is_scaled_by_what_comes_in():
    local, params = make_local({"fusion": "backbone"}, {"batch_size": 7})
    slopes = []
    for factor in (1.0, -2.5):
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        step = next(steps(local))()
        loss, *_ = pooled_losses(local, leaves, step, shares_of(step), Workspace(), experts=True)
        (factor * loss).backward()
        slopes.append(leaves["backbone.item_embedding"].grad)
    torch.testing.assert_close(-2.5 * slopes[0], slopes[1])


def test_scores_that_do_not_factorise_are_refused():
    with pytest.raises(ValueError, match="factorised"):
        in_pieces(cross_entropy, Scores((), torch.zeros(1, 2, 3)), None, Workspace())


def test_rows_of_sparse_scores_are_those_of_the_dense_ones():
    dense = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).relu()
    scores = SparseScores.build(csr_matrix(dense.flatten(0, 1).numpy()), 3, torch.device("cpu"))
    kept = torch.tensor([True, False, True, True] * 3)
    whole = scores.rows_kept(kept)
    assert torch.equal(whole.dense()[0], dense.flatten(0, 1)[kept])
    for begin, end in ((0, 9), (2, 5), (4, 4)):
        assert torch.equal(whole.rows_of_one(begin, end).dense()[0], dense.flatten(0, 1)[kept][begin:end])
