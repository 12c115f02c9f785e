"""The compiled cross-entropy in bfloat16 against float64 with its factors rounded one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loss_kernel import KINDS, PRODUCT, asked, leaves, term
from torch import Tensor

from fedmm.kernels import losses
from fedmm.kernels.build import library
from fedmm.models.losses.compiled import compiled_losses
from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy, masked_logits
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace

pytestmark = pytest.mark.skipif(
    library() is None or not losses.can_round(), reason="no C compiler, or no tiles of bfloat16 here"
)


NEAR = 3e-5  # the relative error of a slope, or of a weighted query, in float32


def rounded(part: Tensor) -> Tensor:
    return part.detach().float().bfloat16().double()


def unsettled(factor: Tensor) -> Tensor:
    """By how much factors may differ that float32 puts on the other side of the middle between two bfloat16 numbers."""
    return factor.abs() * 2.0**-7 * (rounded(factor * (1 + NEAR)) != rounded(factor * (1 - NEAR)))


def slowly(terms: list[Term], questions: Questions) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Losses [C] and the gradients of ``leaves``, client axes kept, each factor of a product rounded; and what the
    gradients may be off by because of factors that are ``unsettled``."""
    weights = questions.row_weights.double().unsqueeze(2)
    products, total = [], torch.zeros((), dtype=torch.float64)
    for own in terms:
        product = torch.zeros((), dtype=torch.float64)
        if own.queries is not None and own.keys is not None:
            product = rounded(own.queries) @ rounded(own.keys).mT
        if own.constants is not None:
            dense = own.constants.dense() if isinstance(own.constants, SparseScores) else own.constants
            product = product + dense.double()
        products.append(product)
        total = total + (product if own.scale is None else product * own.scale.detach().double().unsqueeze(1))
    logits = masked_logits(Scores((), total), replace(questions, row_weights=weights.squeeze(2)))
    logits = torch.where(weights > 0, logits, 0.0)
    taken = logits.gather(2, questions.targets.unsqueeze(2))
    found = ((logits.logsumexp(2, keepdim=True) - taken) * weights).sum((1, 2))
    slope = (logits - logits.amax(2, keepdim=True)).exp()  # slopes are rounded before the rows' sums divide them
    mass = slope.sum(2, keepdim=True)
    slope = slope.scatter_add(2, questions.targets.unsqueeze(2), -mass) * (weights > 0)
    weights = weights / mass
    gradients, off = [], []
    for own, product in zip(terms, products, strict=True):
        scale = 1.0 if own.scale is None else own.scale.detach().double().unsqueeze(1)
        low, open_ = rounded(slope * scale), unsettled(slope * scale)
        if own.queries is not None and own.keys is not None:
            if own.queries.requires_grad:
                gradients.append(low @ rounded(own.keys) * weights)
                off.append(open_ @ rounded(own.keys).abs() * weights)
            if own.keys.requires_grad:
                exact = own.queries.detach().double() * weights
                weighted, beside = rounded(exact), unsettled(exact)
                gradients.append(low.mT @ weighted)
                off.append(open_.mT @ (weighted.abs() + beside) + low.abs().mT @ beside)
        if own.scale is not None and own.scale.requires_grad:
            gradients.append((weights * slope * product).sum(1))
            off.append(torch.zeros(()))
    return found, gradients, off


def quickly(terms: list[Term], questions: Questions) -> tuple[Tensor, list[Tensor]]:
    found = cross_entropy(Scores(tuple(terms), compiled=True, rounded=True), questions, Workspace())
    return found.detach(), list(torch.autograd.grad(found.sum(), leaves(terms)))


def assert_equal(terms: list[Term], questions: Questions) -> None:
    (found, gradients), (wanted, slopes, off) = quickly(terms, questions), slowly(terms, questions)
    for own, right, open_ in zip((found, *gradients), (wanted, *slopes), (torch.zeros(()), *off), strict=True):
        size = max(float(right.abs().max()), 0.05)
        assert bool(((own.double() - right).abs() <= 3e-5 * size + open_).all())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 150), st.sampled_from((2, 17, 64, 65, 200, 1100))),
    st.sampled_from((16, 48, 64)),
    st.sampled_from(("none", "by client", "by row")),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_only_the_factors_of_products_are_rounded(
    kinds: list[str], shape: tuple[int, int, int], width: int, exclusions: str, mask: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    terms = [term(kind, shape, width, g) for kind in kinds]
    if not leaves(terms):
        terms.append(term(PRODUCT, shape, width, g))
    questions = asked(shape, g, exclusions, mask=mask)
    assert_equal(terms, questions)


def test_rows_beyond_one_stretch_add_up() -> None:
    g, shape = torch.Generator().manual_seed(4), (1, 90, 5000)  # 32 rows of logits at once
    terms, questions = [term(PRODUCT, shape, 16, g)], asked(shape, g, "none", mask=False)
    assert_equal(terms, questions)


def test_a_clients_bits_do_not_depend_on_its_block() -> None:
    g, shape = torch.Generator().manual_seed(3), (3, 70, 150)
    terms, questions = [term(PRODUCT, shape, 64, g)], asked(shape, g, "by client", mask=False)
    found, gradients = quickly(terms, questions)
    barred = questions.exclusions
    assert barred is not None
    for c in range(3):
        one = slice(c, c + 1)
        own = [Term(*(part[one].detach().requires_grad_() for part in (terms[0].queries, terms[0].keys)))]
        alone = replace(
            questions,
            targets=questions.targets[one],
            row_weights=questions.row_weights[one],
            exclusions=Exclusions(barred.index[one], barred.rows[one]),
        )
        loss, slopes = quickly(own, alone)
        assert torch.equal(loss, found[one])
        assert all(torch.equal(slope, other[one]) for slope, other in zip(slopes, gradients, strict=True))


def test_torch_finds_its_own_tiles_again() -> None:
    """The shape of tiles is a register of the thread, which torch's library sets and remembers."""
    g, shape = torch.Generator().manual_seed(6), (2, 40, 100)
    terms, questions = [term(PRODUCT, shape, 16, g)], asked(shape, g, "none", mask=False)
    left, right = (torch.randn(48, 80, generator=g).bfloat16() for _ in range(2))
    before = left @ right.mT
    for _ in range(3):
        first = quickly(terms, questions)
        assert torch.equal(left @ right.mT, before)
        second = quickly(terms, questions)
        assert torch.equal(first[0], second[0])


def test_logits_far_apart_stay_finite() -> None:
    queries = torch.tensor([[[1e4] + [0.0] * 15]]).requires_grad_()
    keys = torch.zeros(1, 20, 16)
    keys[0, 1, 0], keys[0, 2, 0] = 1.0, -1.0
    found, gradients = quickly([Term(queries, keys.requires_grad_())], Questions(torch.tensor([[2]]), torch.ones(1, 1)))
    assert found.item() == pytest.approx(2e4, rel=0.01)
    assert all(bool(own.isfinite().all()) for own in gradients)


def test_what_is_no_number_is_not_hidden() -> None:
    queries, keys = torch.full((1, 1, 16), torch.nan), torch.ones(1, 20, 16)
    found, _ = quickly([Term(queries.requires_grad_(), keys)], Questions(torch.tensor([[2]]), torch.ones(1, 1)))
    assert not bool(found.isfinite())


def test_without_tiles_torch_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    g, shape = torch.Generator().manual_seed(7), (1, 5, 20)
    terms, questions = [term(PRODUCT, shape, 16, g)], asked(shape, g, "none", mask=False)
    flat = [part for own in terms for part in (own.queries, own.keys, own.scale, own.constants)]
    assert compiled_losses(flat, [None] * len(flat), questions, Workspace(), rounded=True) is not None
    monkeypatch.setattr("fedmm.models.losses.compiled.can_round", lambda: False)
    assert compiled_losses(flat, [None] * len(flat), questions, Workspace(), rounded=True) is None
    found, _ = quickly(terms, questions)
    torch.testing.assert_close(found, cross_entropy(Scores(tuple(terms), rounded=True), questions).detach())
