"""Claims about sums of terms: whatever they are made of, values, losses and all slopes are those of the plain sum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.models.losses.batched import CatalogueQuestions
from fedmm.models.losses.registry import LOSSES
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.router import load_balance_loss, route
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Subject

C, R, N, WIDTH = 3, 4, 7, 2
NEVER = 2**60


@dataclass(frozen=True, eq=False)
class _Parts:
    """What a term is made of; constants [C, R, N] as they are and as the term has them."""

    label: str
    leaves: tuple[Tensor | None, Tensor | None, Tensor | None]  # queries, keys, scale
    constants: Tensor | None
    given: Tensor | SparseScores | None

    def term(self, leaves: Sequence[Tensor | None]) -> Term:
        """As the model has it."""
        queries, keys, scale = leaves
        return Term(queries, keys, scale, self.given)

    def plain(self, leaves: Sequence[Tensor | None]) -> Tensor:
        """[C, R, N]: the term's definition."""
        queries, keys, scale = leaves
        value = torch.zeros(C, R, N, dtype=torch.float64)
        if queries is not None and keys is not None:
            shared = keys if keys.ndim == 3 else keys.expand(C, *keys.shape)
            value = value + torch.einsum("crk,cnk->crn", queries, shared)
        if self.constants is not None:
            value = value + self.constants
        return value if scale is None else value * scale[:, None, :]


def _draw(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, "verify terms", name), dtype=torch.float64)


def _kinds(name: str) -> list[_Parts]:
    """Every kind of term: a product, of shared keys too, constants dense or sparse, or both; scaled or not."""
    found = []
    for product, kind, scaled in itertools.product(("own", "shared", ""), ("", "dense", "sparse"), (False, True)):
        if not product and not kind:
            continue
        label = f"{product} {kind} {'scaled' if scaled else ''}"
        queries = _draw(C, R, WIDTH, name=f"{name} q {label}") if product else None
        keys = (
            _draw(*((C, N, WIDTH) if product == "own" else (N, WIDTH)), name=f"{name} k {label}") if product else None
        )
        scale = _draw(C, N, name=f"{name} s {label}") if scaled else None
        constants = _draw(C, R, N, name=f"{name} c {label}") if kind else None
        given: Tensor | SparseScores | None = constants
        if constants is not None and kind == "sparse":
            constants = constants * (constants.abs() > 0.8)
            constants[1] = 0.0  # a client without entries
            given = SparseScores.build(csr_matrix(constants.reshape(C * R, N).numpy()), C, torch.device("cpu"))
        found.append(_Parts(label, (queries, keys, scale), constants, given))
    return found


def _questions(bare: bool) -> tuple[Questions, CatalogueQuestions]:
    targets = torch.tensor([[1, 2, 3, 4], [5, 6, 4, 0], [2, 0, 0, 0]])
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.5, 0.2, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.ones(C, N, dtype=torch.bool)
    mask[:, 0] = False
    mask[0, 6] = bare
    met_at = torch.full((C, 3), NEVER)
    places = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -1], [0, -1, -1, -1]])
    if not bare:
        met_at = torch.tensor([[NEVER, 2, NEVER], [2, 1, 1], [0, NEVER, NEVER]])
    columns = torch.tensor([[1, 2, 3]] * C)
    seen = met_at.unsqueeze(1) <= places.unsqueeze(2)
    rows = Questions(targets, weights) if bare else Questions(targets, weights, mask, Exclusions(columns, seen))
    return rows, CatalogueQuestions(targets, weights, mask, met_at, places)


def _plain_losses(logits: Tensor, bare: bool) -> Tensor:
    """[C]: the weighted sum of -ln softmax over what exists and was not met."""
    _, own = _questions(bare)
    exists, met_at, places = own.candidate_mask, own.met_at, own.places
    assert met_at is not None
    assert places is not None
    losses = []
    for c in range(C):
        rows = [torch.zeros((), dtype=torch.float64)]
        for r in range(R):
            barred = [t + 1 for t in range(3) if int(met_at[c, t]) <= int(places[c, r])]
            kept = [t for t in range(N) if exists[c, t] and t not in barred]
            weight, target = float(own.row_weights[c, r]), int(own.targets[c, r])
            if weight:
                rows.append(weight * (torch.logsumexp(logits[c, r, kept], 0) - logits[c, r, target]))
        losses.append(torch.stack(rows).sum())
    return torch.stack(losses)


def _fresh(parts: Sequence[_Parts]) -> list[list[Tensor | None]]:
    """New leaves; keys that all clients share are features, which do not train."""
    return [[_leaf(leaf) for leaf in own.leaves] for own in parts]


def _leaf(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.clone().requires_grad_(len(values) == C)


def _gaps(parts: Sequence[_Parts], incoming: Tensor, *, bare: bool) -> list[tuple[str, float]]:
    """Scores, and values and slopes of the loss in both its forms, of a sum of terms."""
    leaves = _fresh(parts)
    logits = torch.stack([own.plain(held) for own, held in zip(parts, leaves, strict=True)]).sum(0)
    losses = _plain_losses(logits, bare)
    torch.autograd.backward((losses * incoming).sum())
    label = " + ".join(own.label for own in parts)
    rows, catalogues = _questions(bare)
    gaps = []
    for form in ("rows", "catalogues"):
        held = _fresh(parts)
        scores = Scores(tuple(own.term(mine) for own, mine in zip(parts, held, strict=True)))
        whole = scores.materialise()
        gaps.append((f"{label}: scores", float((whole - logits).detach().abs().max())))
        if form == "catalogues" and any(own.label.startswith("shared") for own in parts):
            continue  # catalogues are each client's own
        loss = LOSSES["softmax"]
        found = (
            loss.over_rows(scores, rows, Workspace())
            if form == "rows"
            else loss.over_catalogues(scores, catalogues, Workspace())
        )
        gaps.append((f"{label}: {form}", float((found - losses).detach().abs().max())))
        torch.autograd.backward((found * incoming).sum())
        for place, (mine, theirs) in enumerate(zip(held, leaves, strict=True)):
            for what, a, b in zip(("queries", "keys", "scale"), mine, theirs, strict=True):
                if a is None or b is None or not a.requires_grad:
                    continue
                gap = math.inf if a.grad is None or b.grad is None else float((a.grad - b.grad).abs().max())
                gaps.append((f"{label}: {form}, slope of {what} {place}", gap))
    return gaps


def sums_of_terms(subject: Subject) -> Finding:
    """Every kind of term behind a plain and behind a scaled one, under incoming slopes of 1 and others."""
    del subject
    gaps: list[tuple[str, float]] = []
    plain = [own for own in _kinds("first") if own.label.split() in (["own"], ["own", "scaled"], ["shared", "scaled"])]
    ones, others = torch.ones(C, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for first, second in itertools.product(plain, _kinds("second")):
        gaps += _gaps([first, second], others, bare=False)
    for alone in plain[:2]:
        gaps += _gaps([alone], ones, bare=True) + _gaps([alone, *_kinds("third")[-3:]], ones, bare=True)
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(gaps)} values and slopes; largest: {label}")


def sparse_parts(subject: Subject) -> Finding:
    """Some clients' and some rows' entries of sparse scores, and the weights and the balance of a router over several
    clients with gaps."""
    del subject
    stream = numpy_stream(0, "verify sparse parts")
    whole = stream.normal(size=(C, R, N)) * (stream.random((C, R, N)) < 0.4)
    sparse = SparseScores.build(csr_matrix(whole.reshape(C * R, N)), C, torch.device("cpu"))
    gaps = [("whole", _apart(sparse, whole))]
    gaps += [(f"clients {a} to {b}", _apart(sparse.some(a, b), whole[a:b])) for a, b in ((0, 1), (1, 3), (0, 3))]
    gaps += [
        (f"{rows} rows of client {c}", _apart(sparse.some(c, c + 1, rows), whole[c : c + 1, :rows]))
        for c, rows in itertools.product(range(C), (1, R))
    ]
    again = sparse.some(1, 3).some(1, 2, 2)
    gaps.append(("a part of a part", _apart(again, whole[2:3, :2])))
    params = {"router.weight": _draw(C, 2, 3, name="router"), "router.bias": _draw(C, 2, name="bias")}
    present = torch.tensor([[True, True], [True, False], [False, False], [False, True], [True, True]])
    mask = torch.tensor([[False, True, True, True, True], [True, False, True, True, False], [False] * 5])
    for shared in (True, False):
        inputs = _draw(*((5, 3) if shared else (C, 5, 3)), name=f"inputs {shared}")
        weights = route(params, inputs, present)
        balance = load_balance_loss(weights, mask)
        for c in range(C):
            own = inputs if shared else inputs[c]
            counted: list[list[float]] = []
            for t in range(5):
                powers = [
                    math.exp(float(params["router.weight"][c, m] @ own[t] + params["router.bias"][c, m]))
                    if bool(present[t, m])
                    else 0.0
                    for m in range(2)
                ]
                total = math.fsum(powers)
                expected = [power / total if total else 0.0 for power in powers]
                gaps += [(f"weight of {t}", abs(float(weights[c, t, m]) - expected[m])) for m in range(2)]
                counted += [expected] if mask[c, t] and total else []
            means = [math.fsum(one[m] for one in counted) / max(1, len(counted)) for m in range(2)]
            gaps.append(
                (f"balance of client {c}", abs(float(balance[c]) - math.fsum((mean - 0.5) ** 2 for mean in means)))
            )
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"largest: {label}")


def _apart(found: SparseScores, expected: np.ndarray) -> float:
    dense = found.dense().numpy()
    return float(np.abs(dense - expected).max()) if dense.shape == expected.shape else math.inf


CHECKS: Sequence[Check] = (
    Check("architecture", "sums of terms and their slopes equal the plain sum", sums_of_terms),
    Check("architecture", "parts of sparse scores, and routers of several clients, are as by hand", sparse_parts),
)
