"""Claims about scores as sums of terms: every kind of term, in every form of the loss, exact and in bfloat16.

Numbers are small multiples of a quarter, which bfloat16 and its products hold exactly: rounded scores are the exact
ones, and only slopes lose digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import FloatArray
from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.pieces import in_pieces
from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Subject

C, R, N, K = 3, 5, 7, 2  # clients, rows, candidates (the first is none), width
REAL = (5, 3, 1)  # rows that are no padding
EXACT, ROUNDED = 1e-9, 1e-4  # what values may be off by
SLOPES = 8 * 2.0**-8  # what rounded slopes may be off by, of the sum of their parts' sizes: eight roundings
KINDS = ("product", "scaled", "scaled + dense", "product + dense", "scaled + sparse", "product + sparse",
         "scaled dense", "dense", "scaled sparse", "sparse", "scaled shared")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plain:
    """A term as arrays: sum over its parts by definition."""

    queries: FloatArray | None  # [C, R, K]
    keys: FloatArray | None  # [C, N, K]
    scale: FloatArray | None  # [C, N]
    constants: FloatArray | None  # [C, R, N]
    sparse: bool
    shared: bool

    def inner(self) -> FloatArray:
        """[C, R, N], before the scale."""
        total = np.zeros((C, R, N)) if self.constants is None else self.constants.copy()
        if self.queries is not None and self.keys is not None:
            for c, r, n in np.ndindex(C, R, N):
                total[c, r, n] += float(self.queries[c, r] @ self.keys[c, n])
        return total

    def value(self) -> FloatArray:
        """[C, R, N]."""
        return self.inner() if self.scale is None else self.inner() * self.scale[:, None]

    def term(self, kind: torch.dtype) -> Term:
        """What the product takes, ready to be differentiated."""

        def leaf(found: FloatArray | None) -> Tensor | None:
            return None if found is None else torch.from_numpy(found).to(kind).requires_grad_()

        constants: Tensor | SparseScores | None = None
        if self.constants is not None:
            whole = torch.from_numpy(self.constants).to(kind)
            constants = _sparse(self.constants, kind) if self.sparse else whole
        keys = leaf(self.keys)
        if self.shared and self.keys is not None:
            keys = torch.from_numpy(self.keys[0]).to(kind)
        return Term(leaf(self.queries), keys, leaf(self.scale), constants)


def _sparse(values: FloatArray, kind: torch.dtype) -> SparseScores:
    found = _sparse_of(values.reshape(C * R, N), C)
    return replace(found, values=found.values.to(kind))


def _sparse_of(values: FloatArray, clients: int) -> SparseScores:
    from scipy.sparse import csr_matrix

    return SparseScores.build(csr_matrix(values), clients, torch.device("cpu"))


def _terms() -> Mapping[str, Plain]:
    stream = numpy_stream(0, "verify score forms")

    def quarters(*shape: int, low: int = -4) -> FloatArray:
        return stream.integers(low, 5, shape).astype(float) / 2

    found = {}
    for kind in KINDS:
        product = "product" in kind or kind in ("scaled", "scaled shared", "scaled + dense", "scaled + sparse")
        constants = quarters(C, R, N) if "dense" in kind or "sparse" in kind else None
        if constants is not None and "sparse" in kind:
            constants[stream.random(constants.shape) < 0.6] = 0.0
        scale = np.exp2(stream.integers(-1, 2, (C, N)).astype(float)) if "scaled" in kind else None
        keys = quarters(C, N, K) if product else None
        if keys is not None and "shared" in kind:
            keys[:] = keys[0]
        queries = quarters(C, R, K) if product else None
        found[kind] = Plain(queries, keys, scale, constants, "sparse" in kind, "shared" in kind)
    return found


def _questions(kind: torch.dtype, *, own_rows: bool) -> Questions:
    """Targets and weights, which candidates exist, and which of them single rows must not rank: the same for all rows,
    or (``own_rows``) each row its own."""
    targets = np.array([[4, 5, 6, 4, 5], [2, 6, 3, 0, 0], [5, 0, 0, 0, 0]])
    weights = np.zeros((C, R))
    for c, rows in enumerate(REAL):
        weights[c, :rows] = np.arange(1, rows + 1) / 8
    mask = np.ones((C, N), dtype=bool)
    mask[:, 0] = False
    mask[1, 4] = False
    index = np.array([[1, 2, 3], [1, 5, 0], [1, 2, 3]])
    rows_out = np.zeros((C, R, 3), dtype=bool)
    rows_out[0] = [[1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]]
    rows_out[1, :3] = [[0, 1, 0], [1, 0, 0], [1, 1, 0]]
    rows_out[2, 0] = [0, 1, 1]
    if own_rows:
        index = np.broadcast_to(index[:, None], (C, R, 3)).copy()
        index[0, 0], index[0, 4], rows_out[0, 4] = [2, 3, 1], [6, 4, 3], [1, 0, 1]
    shut = Exclusions(torch.from_numpy(index), torch.from_numpy(rows_out))
    return Questions(torch.from_numpy(targets), torch.from_numpy(weights).to(kind), torch.from_numpy(mask), shut)


def _asked(questions: Questions) -> FloatArray:
    """[C, R, N]: whether a row may rank a candidate."""
    shape = questions.targets.shape
    found = np.ones((*shape, N), dtype=bool)
    found[..., 0] = False
    if questions.candidate_mask is not None:
        found &= questions.candidate_mask.numpy()[:, None]
    if questions.exclusions is not None:
        index, rows = questions.exclusions.index.numpy(), questions.exclusions.rows.numpy()
        for c, r, x in np.ndindex(rows.shape):
            if rows[c, r, x]:
                found[c, r, index[c, r, x] if index.ndim == 3 else index[c, x]] = False
    return found


def _by_definition(plains: Sequence[Plain], questions: Questions) -> tuple[FloatArray, FloatArray]:
    """Each client's loss [C], and the loss's slope by every score [C, R, N]."""
    scores, may = sum(plain.value() for plain in plains) + np.zeros((C, R, N)), _asked(questions)
    losses, slope = np.zeros(C), np.zeros((C, R, N))
    for c, r in np.ndindex(C, R):
        weight, target = float(questions.row_weights[c, r]), int(questions.targets[c, r])
        if weight:
            largest = max(scores[c, r, n] for n in range(N) if may[c, r, n])
            parts = [math.exp(scores[c, r, n] - largest) if may[c, r, n] else 0.0 for n in range(N)]
            losses[c] += weight * (math.log(sum(parts)) + largest - scores[c, r, target])
            slope[c, r] = [weight * part / sum(parts) for part in parts]
            slope[c, r, target] -= weight
    return losses, slope


def _gradients(plain: Plain, slope: FloatArray) -> list[FloatArray]:
    """By queries, keys (where clients have their own) and scale, in this order, as far as the term has them."""
    found, scaled = [], slope if plain.scale is None else slope * plain.scale[:, None]
    if plain.queries is not None and plain.keys is not None:
        found.append(np.einsum("crn,cnk->crk", scaled, plain.keys))
        if not plain.shared:
            found.append(np.einsum("crn,crk->cnk", scaled, plain.queries))
    if plain.scale is not None:
        found.append((slope * plain.inner()).sum(1))
    return found


def _sizes(plain: Plain, slope: FloatArray) -> list[FloatArray]:
    """The same sums of absolute values."""

    def size(found: FloatArray | None) -> FloatArray | None:
        return None if found is None else np.abs(found)

    sizes = replace(plain, queries=size(plain.queries), keys=size(plain.keys), constants=size(plain.constants))
    return _gradients(sizes, np.abs(slope))


Loss = Callable[[Scores, Questions], Tensor]


def _catalogues(scores: Scores, questions: Questions) -> Tensor:
    """Where every row skips what its client had met: column 1 from the second row on, column 2 from the third."""
    met_at, places = torch.tensor([[1, 2]] * C), torch.arange(R).expand(C, R)
    assert questions.candidate_mask is not None
    asked = CatalogueQuestions(questions.targets, questions.row_weights, questions.candidate_mask, met_at, places)
    return catalogue_cross_entropy(scores, asked)


def _met(questions: Questions) -> Questions:
    index = torch.tensor([[1, 2]] * C)
    rows = torch.tensor([[1, 2]]).unsqueeze(1).expand(C, 1, 2) <= torch.arange(R).view(1, R, 1)
    targets = questions.targets.clone()
    targets[1, 0] = 6
    return replace(questions, exclusions=Exclusions(index, rows.expand(C, R, 2)), targets=targets)


def _materialised(scores: Scores, questions: Questions) -> Tensor:
    return cross_entropy(Scores((), scores.materialise()), questions)


def _gaps(name: str, plains: Sequence[Plain], questions: Questions, loss: Loss, rounded: bool) -> tuple[str, float]:
    """The largest share of what may be off, of values and slopes, clients weighted by 2, 3, 4 and all alike."""
    kind = torch.float32 if rounded else torch.float64
    questions = replace(questions, row_weights=questions.row_weights.to(kind))
    wanted, slope = _by_definition(plains, questions)
    largest = 0.0
    for each in (np.ones(C), np.arange(2.0, C + 2)):
        terms = tuple(plain.term(kind) for plain in plains)
        found = loss(Scores(terms, rounded=rounded), questions)
        off = np.abs(found.detach().double().numpy() - wanted).max()
        largest = max(largest, float(off) / (ROUNDED if rounded else EXACT))
        leaves = [
            t for term in terms for t in (term.queries, term.keys, term.scale) if t is not None and t.requires_grad
        ]
        slopes = torch.autograd.grad((found * torch.from_numpy(each).to(kind)).sum(), leaves)
        own = slope * each[:, None, None]
        expected = [one for plain in plains for one in _gradients(plain, own)]
        sizes = [one for plain in plains for one in _sizes(plain, own)]
        for got, exact, size in zip(slopes, expected, sizes, strict=True):
            room = SLOPES * size + 1e-6 if rounded else np.full(size.shape, EXACT)
            largest = max(largest, float((np.abs(got.double().numpy() - exact) / room).max()))
    return name, largest if largest == largest else math.inf


def forms(subject: Subject) -> Finding:
    """Each kind of term alone and beside others, by every loss that takes it."""
    del subject
    terms = _terms()
    alone = [(kind,) for kind, plain in terms.items() if plain.queries is not None]
    beside = [("product", kind) for kind in KINDS[1:]]
    everything = tuple(kind for kind in KINDS if kind != "scaled shared")
    gaps = []
    for names in (*alone, *beside, everything, ("scaled shared", *everything)):
        plains = [terms[name] for name in names]
        label = " + ".join(names) if len(names) < 4 else f"{len(names)} terms"
        for own_rows in (False, True):
            questions = _questions(torch.float64, own_rows=own_rows)
            if own_rows and len(names) == 2:
                questions = replace(questions, candidate_mask=None)
            for rounded in (False, True):
                said = f"{label}{', own rows' * own_rows}{', rounded' * rounded}"
                gaps.append(_gaps(f"{said}, fused", plains, questions, cross_entropy, rounded))
                gaps.append(_gaps(f"{said}, materialised", plains, questions, _materialised, rounded))
        if not any(plain.shared or (plain.constants is not None and not plain.sparse) for plain in plains):
            questions = _met(_questions(torch.float64, own_rows=False))
            for rounded in (False, True):
                said = f"{label}{', rounded' * rounded}, catalogues"
                gaps.append(_gaps(said, plains, questions, _catalogues, rounded))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"{len(gaps)} sums of terms; shares of what may be off; largest: {label}")


def levels(subject: Subject) -> Finding:
    """Scores of one client far above what an exponential holds, of another far below: the loss of every row is that of
    scores less their level."""
    del subject
    product = _terms()["product"]
    questions = _questions(torch.float64, own_rows=False)
    level = np.zeros((C, R, N)) + np.array([300.0, -300.0, 60.0])[:, None, None]
    raised = Plain(None, None, None, level, sparse=False, shared=False)
    wanted, _ = _by_definition([product], questions)
    gaps = [
        _gaps(f"rounded {rounded}", [product, raised], questions, cross_entropy, rounded) for rounded in (False, True)
    ]
    gaps.append(("definition", float(np.abs(_by_definition([product, raised], questions)[0] - wanted).max()) / EXACT))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"levels of 300, -300 and 60; shares of what may be off; largest: {label}")


def pieces(subject: Subject) -> Finding:
    """One client's 7 rows over a third of a million candidates, whose logits are formed three rows at a time: the loss
    and slopes of all rows together."""
    del subject
    rows, many, few = 7, 330_000, 6  # candidates beyond the few have keys of 0
    stream = numpy_stream(0, "verify pieces")
    queries, scale = stream.normal(size=(rows, 1)), stream.random(many)
    keys, given = np.zeros((many, 1)), np.zeros((rows, many))
    keys[:few], given[:, :few] = stream.normal(size=(few, 1)), stream.normal(size=(rows, few))
    keep = given * (stream.random(given.shape) < 0.5)
    targets, weights = np.array([1, 2, 3, 4, 5, 1, 2]), np.arange(1.0, rows + 1) / 8
    index, out = np.stack([targets % 5 + 1, targets * 0 + 77], 1), np.ones((rows, 2), dtype=bool)
    mask, offsets = np.ones(many, dtype=bool), stream.normal(size=many) / 4
    mask[[0, 99]] = False
    scores = queries @ keys.T + given + keep * scale + offsets
    may = np.broadcast_to(mask, scores.shape).copy()
    may[np.arange(rows)[:, None], index] = False
    mass = np.where(may, np.exp(scores), 0.0)
    share = weights[:, None] * mass / mass.sum(1, keepdims=True)
    asked = scores[np.arange(rows), targets]
    share[np.arange(rows), targets] -= weights
    expected = [share @ keys, share.T @ queries, (share * keep).sum(0)]
    loss = float((weights * (np.log(mass.sum(1)) - asked)).sum())

    def tensor(found: FloatArray) -> Tensor:
        return torch.from_numpy(found).unsqueeze(0)

    leaves = [tensor(part).requires_grad_() for part in (queries, keys, scale)]
    sparse = _sparse_of(keep, 1)
    terms = (Term(leaves[0], leaves[1], None, tensor(given)), Term(None, None, leaves[2], sparse))
    questions = Questions(tensor(targets), tensor(weights), tensor(mask), Exclusions(tensor(index), tensor(out)),
                          tensor(offsets))  # fmt: skip
    found = in_pieces(cross_entropy, Scores(terms), questions, Workspace())
    slopes = torch.autograd.grad(2.0 * found.sum(), leaves)
    gaps = [("loss", abs(float(found.detach()) - loss))]
    for name, own, exact in zip(("queries", "keys", "scale"), slopes, expected, strict=True):
        gaps.append((f"slope by {name}", float(np.abs(own[0].numpy() - 2.0 * exact).max())))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{rows} rows, {many:,} candidates; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("architecture", "losses know no level of the scores, rounded or not", levels),
    Check("architecture", "rows whose logits are formed some at a time have the loss of all together", pieces),
    Check("architecture", "every kind of term has the loss and slopes of its definition, rounded or not", forms),
)
