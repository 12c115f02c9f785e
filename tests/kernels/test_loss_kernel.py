"""The compiled cross-entropy against plain autograd in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedmm.kernels.build import library
from fedmm.kernels.losses import TermParts, fits
from fedmm.models.losses.compiled import compiled_losses
from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy, masked_logits
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")

PRODUCT, SCALED, FEATURES, NARROW, DENSE, BOTH, SPARSE, MIXED, SHIFT = (
    "product", "scaled", "features", "narrow", "dense", "both", "sparse", "mixed", "shift",
)  # fmt: skip
KINDS = (PRODUCT, SCALED, FEATURES, NARROW, DENSE, BOTH, SPARSE, MIXED, SHIFT)


def sparse(shape: tuple[int, int, int], g: torch.Generator) -> SparseScores:
    from scipy.sparse import csr_matrix

    C, R, N = shape
    dense = torch.randn(C * R, N, generator=g) * (torch.rand(C * R, N, generator=g) < 0.1)
    return SparseScores.build(csr_matrix(dense.numpy()), C, torch.device("cpu"))


def term(kind: str, shape: tuple[int, int, int], width: int, g: torch.Generator) -> Term:
    C, R, N = shape

    def drawn(*size: int, learns: bool = False) -> Tensor:
        return (torch.randn(*size, generator=g) / size[-1] ** 0.25).requires_grad_(learns)

    queries, scale = drawn(C, R, width, learns=True), drawn(C, N, learns=True)
    if kind == PRODUCT:
        return Term(queries, drawn(C, N, width, learns=True))
    if kind == SCALED:
        return Term(queries, drawn(C, N, width, learns=True), scale)
    if kind == FEATURES:
        return Term(queries, drawn(N, width), scale)
    if kind == NARROW:  # the width is no multiple of a vector's
        return Term(drawn(C, R, 7, learns=True), drawn(N, 7), scale)
    if kind == DENSE:
        return Term(None, None, scale, drawn(C, R, N))
    if kind == BOTH:
        return Term(queries, drawn(N, width), scale, drawn(C, R, N))
    if kind == SPARSE:
        return Term(None, None, scale, sparse(shape, g))
    if kind == MIXED:
        return Term(queries, drawn(N, width), scale, sparse(shape, g))
    return Term(drawn(C, R, 1), drawn(C, N, 1))


def asked(shape: tuple[int, int, int], g: torch.Generator, exclusions: str, *, mask: bool) -> Questions:
    C, R, N = shape
    num_rows = torch.randint(0, R + 1, (C,), generator=g)
    num_rows[0] = R
    weights = (torch.arange(R) < num_rows.unsqueeze(1)) * torch.rand(C, R, generator=g).add(0.1)
    targets = torch.randint(1, N, (C, R), generator=g) * (weights > 0)
    exists = torch.ones(C, N, dtype=torch.bool)
    exists[:, 0] = False
    if mask:
        exists &= torch.rand(C, N, generator=g) < 0.7
        exists.scatter_(1, targets, targets > 0)
    barred = None
    if exclusions != "none":
        size = (C, 5) if exclusions == "by client" else (C, R, 5)
        index = torch.randint(1, N, size, generator=g)
        each = index if index.ndim == 3 else index.unsqueeze(1)
        barred = Exclusions(index, (torch.rand(C, R, 5, generator=g) < 0.5) & (each != targets.unsqueeze(2)))
    return Questions(targets, weights, exists if mask else None, barred)


def leaves(terms: list[Term]) -> list[Tensor]:
    parts = (part for own in terms for part in (own.queries, own.keys, own.scale))
    return [part for part in parts if part is not None and part.requires_grad]


def plainly(terms: list[Term], questions: Questions) -> tuple[Tensor, list[Tensor]]:
    """Losses [C] and gradients in float64, by autograd."""

    def doubled(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.detach().double().requires_grad_(part.requires_grad)

    own = []
    for each in terms:
        constants = each.constants.dense() if isinstance(each.constants, SparseScores) else each.constants
        own.append(Term(doubled(each.queries), doubled(each.keys), doubled(each.scale), doubled(constants)))
    logits = masked_logits(Scores(tuple(own)), replace(questions, row_weights=questions.row_weights.double()))
    real = questions.row_weights > 0
    logits = torch.where(real.unsqueeze(2), logits, 0.0)
    taken = logits.gather(2, questions.targets.unsqueeze(2)).squeeze(2)
    losses = ((logits.logsumexp(2) - taken) * questions.row_weights.double()).sum(1)
    return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves(own)))


def compiled(terms: list[Term], questions: Questions) -> tuple[Tensor, list[Tensor]]:
    losses = cross_entropy(Scores(tuple(terms), compiled=True), questions, Workspace())
    return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves(terms)))


def is_close(found: Tensor, wanted: Tensor) -> bool:
    size = max(float(wanted.abs().max()), 0.05)  # below it float32's rounding of the logits shows
    return bool((found.double() - wanted).abs().max() <= 1e-5 * size)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 130), st.sampled_from((2, 17, 64, 65, 200))),
    st.sampled_from((16, 48, 64)),
    st.sampled_from(("none", "by client", "by row")),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_losses_and_gradients_are_those_of_autograd(
    kinds: list[str], shape: tuple[int, int, int], width: int, exclusions: str, mask: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    terms = [term(kind, shape, width, g) for kind in kinds]
    if not leaves(terms):
        terms.append(term(PRODUCT, shape, width, g))
    questions = asked(shape, g, exclusions, mask=mask)
    flat = [part for own in terms for part in (own.queries, own.keys, own.scale, own.constants)]
    said = compiled_losses([None if p is None else p for p in flat], [None] * len(flat), questions, Workspace())
    assert said is not None  # it is the kernel that is tested
    (losses, gradients), (wanted, slopes) = compiled(terms, questions), plainly(terms, questions)
    assert is_close(losses, wanted)
    assert is_close(said, wanted)
    assert all(is_close(found, slope) for found, slope in zip(gradients, slopes, strict=True))


def own_term(of: Term, client: int) -> Term:
    """One client's part."""

    def own(part: Tensor | None) -> Tensor | None:
        if part is None or (part.ndim == 2 and part is of.keys):
            return part
        return part[client : client + 1].detach().requires_grad_(part.requires_grad)

    return Term(own(of.queries), own(of.keys), own(of.scale))


def test_a_clients_bits_do_not_depend_on_its_block() -> None:
    g, shape = torch.Generator().manual_seed(3), (4, 70, 150)
    terms = [term(PRODUCT, shape, 64, g), term(FEATURES, shape, 48, g)]
    questions = asked(shape, g, "by client", mask=False)
    losses, gradients = compiled(terms, questions)
    barred = questions.exclusions
    assert barred is not None
    for c in range(4):
        own = [own_term(each, c) for each in terms]
        alone = replace(
            questions,
            targets=questions.targets[c : c + 1],
            row_weights=questions.row_weights[c : c + 1],
            exclusions=Exclusions(barred.index[c : c + 1], barred.rows[c : c + 1]),
        )
        loss, found = compiled(own, alone)
        assert torch.equal(loss, losses[c : c + 1])
        assert all(torch.equal(one, other[c : c + 1]) for one, other in zip(found, gradients, strict=True))


def test_keys_that_all_clients_still_share() -> None:
    g, shape = torch.Generator().manual_seed(5), (3, 40, 90)
    keys = torch.randn(1, 90, 64, generator=g)
    queries, questions = torch.randn(3, 40, 64, generator=g), asked(shape, g, "none", mask=False)
    found = []
    for own in (keys.expand(3, -1, -1), keys.repeat(3, 1, 1)):
        terms = [Term(queries.clone().requires_grad_(), own.detach().requires_grad_())]
        found.append(compiled(terms, questions))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


def test_logits_far_apart_stay_finite() -> None:
    queries = torch.tensor([[[1e4] + [0.0] * 15]]).requires_grad_()
    keys = torch.zeros(1, 20, 16)
    keys[0, 1, 0], keys[0, 2, 0] = 1.0, -1.0
    terms = [Term(queries, keys.requires_grad_())]
    questions = Questions(torch.tensor([[2]]), torch.ones(1, 1))
    losses, gradients = compiled(terms, questions)
    assert losses.item() == pytest.approx(2e4)
    assert all(bool(own.isfinite().all()) for own in gradients)


def test_what_the_kernel_takes() -> None:
    queries, keys = torch.zeros(1, 2, 16), torch.zeros(1, 3, 16)
    assert fits([TermParts(queries, keys, into_keys=keys)])
    assert not fits([TermParts(queries.double(), keys.double())])
    assert not fits([TermParts(queries[..., :7], keys[..., :7], into_queries=queries)])
    assert not fits([TermParts(queries, keys)] * 17)
