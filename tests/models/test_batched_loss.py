"""Cross-entropy over catalogues of each client's own, beside the form that asks clients one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.models.losses import batched as batched_loss
from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.softmax import cross_entropy
from fedmm.models.scores import Scores, Term
from fedmm.utils.seeding import torch_stream

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
NEVER = 2**62


@st.composite
def worlds(draw):
    """Terms, and questions with padded rows and clients whose own items others have not."""
    stream = torch_stream(draw(st.integers(0, 2**32)), "catalogues")
    C, R, H, negatives, K = (draw(st.integers(*bounds)) for bounds in ((1, 4), (1, 4), (2, 5), (1, 4), (1, 3)))
    N = 1 + H + negatives

    def normal(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    scaled = [draw(st.booleans()) for _ in range(draw(st.integers(1, 3)))]
    terms = [Term(normal(C, R, K), normal(C, N, K), normal(C, N) if own else None) for own in scaled]
    targets = torch.randint(2, 1 + H, (C, R), generator=stream)
    real = torch.arange(R) < torch.randint(0, R + 1, (C, 1), generator=stream)
    weights = torch.rand(C, R, generator=stream, dtype=torch.float64) + 0.1
    mask = torch.ones(C, N, dtype=torch.bool)
    mask[:, 0] = False
    mask[:, 1] = torch.rand(C, generator=stream) < 0.5
    met_at = torch.arange(H).repeat(C, 1).where(torch.rand(C, H, generator=stream) < 0.7, NEVER)
    places = targets - 2  # the item before the target: what stands there was met, the target was not
    return terms, CatalogueQuestions(
        targets * real, weights * real, mask, met_at if draw(st.booleans()) else None, places
    )


def leaves_of(terms):
    tensors = [t for term in terms for t in (term.queries, term.keys, term.scale) if t is not None]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("at_once", [1, 2**19])
@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_equals_the_walk_over_clients(at_once, world):
    terms, questions = world
    leaves = leaves_of(terms)
    slopes = torch.arange(1.0, 1.0 + len(questions.targets), dtype=torch.float64)
    before, batched_loss.LOGITS_AT_ONCE = batched_loss.LOGITS_AT_ONCE, at_once
    try:
        found = catalogue_cross_entropy(Scores(tuple(terms)), questions)
    finally:
        batched_loss.LOGITS_AT_ONCE = before
    expected = cross_entropy(Scores(tuple(terms)), questions.one_by_one())
    torch.testing.assert_close(found, expected, **CLOSE)
    if (questions.row_weights > 0).any():
        pairs = zip(*(torch.autograd.grad((slopes * own).sum(), leaves) for own in (found, expected)), strict=True)
        for left, right in pairs:
            torch.testing.assert_close(left, right, **CLOSE)


def test_dense_scores_are_refused():
    questions = CatalogueQuestions(*(torch.zeros(1, 1, dtype=torch.int64) for _ in range(3)), None, torch.zeros(1, 1))
    with pytest.raises(ValueError, match="factorised"):
        catalogue_cross_entropy(Scores((), torch.zeros(1, 1, 1)), questions)
