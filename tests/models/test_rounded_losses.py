"""Scores in bfloat16: losses and gradients stay within what the unit of the rounding allows, whatever the form."""

import pytest
import torch
from hypothesis import given, settings
from test_losses import gradients, plain_losses, trained_tensors, worlds

from fedmm.models.losses import pieces
from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.rounding import UNIT, product
from fedmm.models.scores import Scores, Term
from fedmm.models.workspace import Workspace
from fedmm.utils.seeding import torch_stream

MANY = (1 + UNIT) ** 4  # four roundings on top of each other


def scale_of(term):
    """[C, 1, N] or 1."""
    return 1.0 if term.scale is None else term.scale.detach().unsqueeze(1)


def bounds(terms, questions, dtype=torch.float64):
    """How far rounding may move each client's loss, and the gradients of ``trained_tensors``, in their order: scores
    by two operands and one result, so probabilities by a factor; a slope, its row's weight, the other operand and the
    result by one rounding each."""
    C = len(questions.targets)
    moved = torch.zeros(())
    for term in terms:
        if term.queries is not None:
            sizes = torch.matmul(term.queries.detach().abs(), term.keys.detach().abs().mT)
            moved = moved + (4 * UNIT * MANY * sizes * (scale_of(term) if term.scale is None else scale_of(term).abs()))
    total = Scores(tuple(terms)).materialise().detach().requires_grad_()
    each = torch.arange(1.0, C + 1, dtype=dtype).unsqueeze(1)
    weights = questions.row_weights * each
    loss = (cross_entropy(Scores((), total), questions) * torch.arange(1.0, C + 1, dtype=dtype)).sum()
    (slope,) = torch.autograd.grad(loss, total) if loss.requires_grad else (torch.zeros_like(total),)
    worst = moved.expand(total.shape).amax(2, keepdim=True)
    shares = slope + weights.unsqueeze(2) * (slope < 0)  # weighted probabilities
    off = (shares * torch.expm1(2 * worst) + 4 * UNIT * slope.abs()) * MANY
    into_queries, into_keys, into_scales = [], [], []
    for term in terms:
        if term.queries is not None:
            keys, queries = term.keys.detach().abs(), term.queries.detach().abs()
            scaled = off if term.scale is None else off * scale_of(term).abs()
            into_queries.append(torch.matmul(scaled, keys))
            if term.keys.ndim == 3:
                into_keys.append(torch.matmul(scaled.mT, queries))
        if term.scale is not None:
            given = 0.0 if term.constants is None else term.constants.abs()
            sizes = given if term.queries is None else given + torch.matmul(queries, keys.mT) * (1 + 4 * UNIT)
            into_scales.append(((off + 4 * UNIT * slope.abs()) * sizes).sum(1))
    return (weights / each * 2 * worst.squeeze(2)).sum(1), [*into_queries, *into_keys, *into_scales]


def assert_within(found, expected, bound):
    gap = (found.detach() - expected.detach()).abs()
    assert bool((gap <= bound * 1.01 + 1e-6).all()), float((gap - bound).max())


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_rounding_moves_losses_and_gradients_by_no_more_than_its_unit_allows(world):
    terms, questions = world
    leaves = trained_tensors(terms)
    expected = plain_losses(terms, questions)
    wanted = gradients(expected, leaves)
    of_losses, of_gradients = bounds(terms, questions)
    rounded = Scores(tuple(terms), rounded=True)
    for losses in (cross_entropy(rounded, questions), cross_entropy(Scores((), rounded.materialise()), questions)):
        assert_within(losses, expected, of_losses)
        for found, own, bound in zip(gradients(losses, leaves), wanted, of_gradients, strict=True):
            assert_within(found, own, bound)


def some(*shape):
    return torch.randn(*shape, generator=torch_stream(sum(shape), "rounded losses"))


def test_the_batched_form_rounds_alike():
    queries, keys = some(3, 5, 4).requires_grad_(), some(3, 9, 4).requires_grad_()
    targets, weights = torch.full((3, 5), 2), torch.full((3, 5), 0.2)
    mask = torch.arange(9).expand(3, 9) > 0
    asked = CatalogueQuestions(targets, weights, mask, None, torch.arange(5).expand(3, 5))
    terms = (Term(queries, keys),)
    exact = catalogue_cross_entropy(Scores(terms), asked)
    rounded = catalogue_cross_entropy(Scores(terms, rounded=True), asked)
    of_losses, of_gradients = bounds(terms, Questions(targets, weights, mask), torch.float32)
    assert_within(rounded, exact, of_losses)
    assert not torch.equal(rounded, exact)
    ways = [gradients(losses, [queries, keys]) for losses in (exact, rounded)]
    for found, own, bound in zip(*reversed(ways), of_gradients, strict=True):
        assert_within(found, own, bound)


@pytest.mark.parametrize("level", [-300.0, 0.0, 300.0])
def test_scores_of_any_level_have_the_same_loss(level):
    """Exponentials are taken without a shift, unless their totals leave the range of float32."""
    queries, keys, level = some(2, 4, 3), some(2, 8, 3), torch.full((2, 4, 8), level)
    terms = (Term(queries, keys), Term(None, None, None, level))
    questions = Questions(torch.full((2, 4), 3), torch.full((2, 4), 0.25))
    expected = cross_entropy(Scores(terms[:1], rounded=True), questions)
    torch.testing.assert_close(cross_entropy(Scores(terms, rounded=True), questions), expected, rtol=1e-4, atol=1e-4)


def test_shared_keys_are_differentiated_for_all_clients_together():
    queries, keys = some(2, 4, 3).requires_grad_(), some(8, 3).requires_grad_()
    ways = [torch.autograd.grad(product(queries, keys, rounded=own).square().sum(), (queries, keys))
            for own in (False, True)]  # fmt: skip
    for exact, rounded in zip(*ways, strict=True):
        assert rounded.shape == exact.shape
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_pieces_of_many_rows_round_alike(monkeypatch):
    """Pooled training forms some rows' logits at a time."""
    monkeypatch.setattr(pieces, "LOGITS_AT_ONCE", 16)
    queries, keys = some(1, 5, 3).requires_grad_(), some(1, 8, 3).requires_grad_()
    questions = Questions(torch.full((1, 5), 3), torch.full((1, 5), 0.2))
    scores = Scores((Term(queries, keys),), rounded=True)
    whole = cross_entropy(scores, questions)
    apart = pieces.in_pieces(cross_entropy, scores, questions, Workspace())
    torch.testing.assert_close(apart, whole, rtol=1e-5, atol=1e-6)
    for found, own in zip(*(gradients(losses, [queries, keys]) for losses in (apart, whole)), strict=True):
        torch.testing.assert_close(found, own, rtol=2 * UNIT, atol=2 * UNIT)
    assert not torch.equal(whole, cross_entropy(Scores(scores.terms), questions))
