"""Claims about what is minimised: every loss, and the alignment loss, one row and one candidate at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from fedmm.models.alignment import alignment_loss, contrast
from fedmm.models.losses.batched import CatalogueQuestions
from fedmm.models.losses.pairwise import gbce_power
from fedmm.models.losses.registry import LOSSES, Loss
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.scores import Scores, Term
from fedmm.models.surprise import surprise
from fedmm.models.workspace import Workspace
from fedmm.utils.params import expand_for_clients
from fedmm.utils.seeding import torch_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.world import make_local

C, R, N, WIDTH = 2, 4, 9, 3  # clients, rows, candidates (the first is none), width of queries
Row = Callable[[float, Sequence[float], float], float]


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def _softmax_row(target: float, negatives: Sequence[float], power: float) -> float:
    del power
    return math.log(sum(math.exp(x) for x in (target, *negatives))) - target


def _gbce_row(target: float, negatives: Sequence[float], power: float) -> float:
    total = power * _log_sigmoid(target) + sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in negatives)
    return -total / (len(negatives) + 1)


def _bpr_row(target: float, negatives: Sequence[float], power: float) -> float:
    del power
    return -sum(_log_sigmoid(target - x) for x in negatives) / max(1, len(negatives))


ROWS: Mapping[str, Row] = {"softmax": _softmax_row, "gbce": _gbce_row, "bpr": _bpr_row}


def _draw(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, "verify losses", name), dtype=torch.float64)


def _world() -> tuple[Tensor, Tensor, Tensor, Questions, CatalogueQuestions]:
    """Queries, keys, scales and the same questions in both forms: rows skip columns 1 to 3 once they have been met; the
    second client's last candidate does not exist, its last row is padding; the first client's offsets are not zero."""
    queries, keys, scale = _draw(C, R, WIDTH, name="q"), _draw(C, N, WIDTH, name="k"), _draw(C, N, name="s").abs()
    targets = torch.tensor([[4, 5, 1, 6], [2, 8 - 1, 3, 0]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.0]], dtype=torch.float64)
    mask = torch.ones(C, N, dtype=torch.bool)
    mask[:, 0] = False
    mask[1, N - 1] = False
    met_at = torch.tensor([[0, 1, 2], [1, 2**60, 2**60]])
    places = torch.tensor([[0, 1, -1, 2], [0, 1, 1, -1]])
    offsets = 0.3 * _draw(C, N, name="offsets")
    power = torch.tensor([0.4, 1.0], dtype=torch.float64)
    columns = torch.tensor([[1, 2, 3], [1, 2, 3]])
    seen = met_at.unsqueeze(1) <= places.unsqueeze(2)
    rows = Questions(targets, weights, mask, Exclusions(columns, seen), offsets, power)
    catalogues = CatalogueQuestions(targets, weights, mask, met_at, places, offsets, power)
    return queries, keys, scale, rows, catalogues


def _expected(row: Row, logits: Tensor, questions: Questions, *, offsets: bool) -> list[float]:
    """Each client's weighted sum of its rows' losses over the candidates that exist and were not met."""
    assert questions.candidate_mask is not None
    assert questions.exclusions is not None
    assert questions.offsets is not None
    assert questions.target_power is not None
    found = []
    for c in range(C):
        total = 0.0
        for r in range(R):
            barred = {int(i) for i, out in zip(questions.exclusions.index[c], questions.exclusions.rows[c, r]) if out}  # noqa: B905
            target = int(questions.targets[c, r])
            own = [
                float(logits[c, r, t]) + offsets * float(questions.offsets[c, t])
                for t in range(N)
                if questions.candidate_mask[c, t] and t not in barred and t != target
            ]
            weight = float(questions.row_weights[c, r])
            score = float(logits[c, r, target]) + offsets * float(questions.offsets[c, target])
            total += weight * row(score, own, float(questions.target_power[c])) if weight else 0.0
        found.append(total)
    return found


def _over_rows(loss: Loss, questions: Questions, keys: Tensor, scale: Tensor, dense: bool, queries: Tensor) -> Tensor:
    whole = torch.matmul(queries, (keys * scale.unsqueeze(-1)).mT)
    scores = Scores((), whole) if dense else Scores((Term(queries, keys, scale),))
    return loss.over_rows(scores, questions, Workspace())


def _over_catalogues(loss: Loss, questions: CatalogueQuestions, keys: Tensor, scale: Tensor, queries: Tensor) -> Tensor:
    return loss.over_catalogues(Scores((Term(queries, keys, scale),)), questions, Workspace())


def losses(subject: Subject) -> Finding:
    """Values against the definitions and slopes against differences of the values, in both forms of every loss, for
    scores with and without factors."""
    del subject
    queries, keys, scale, questions, catalogues = _world()
    gaps = [(f"{name} has no definition here", math.inf) for name in LOSSES if name not in ROWS]
    for name, row in ROWS.items():
        loss = LOSSES[name]

        forms: dict[str, Callable[[Tensor], Tensor]] = {
            "rows": partial(_over_rows, loss, questions, keys, scale, False),
            "dense rows": partial(_over_rows, loss, questions, keys, scale, True),
            "catalogues": partial(_over_catalogues, loss, catalogues, keys, scale),
        }
        logits = torch.matmul(queries, (keys * scale.unsqueeze(-1)).mT)
        expected = _expected(row, logits, questions, offsets=name == "softmax")
        for form, measure in forms.items():
            leaf = queries.clone().requires_grad_()
            found = measure(leaf)
            values = found.detach().tolist()
            gap = max(abs(f - e) for f, e in zip(values, expected, strict=True))
            gaps.append((f"{name}, {form}", gap))
            torch.autograd.backward(found[0] + 2.0 * found[1])
            if leaf.grad is None:
                return at_most(math.inf, 1e-6, f"{name}, {form}: no slope")
            gaps += _slope_gaps(f"{name}, {form}, slope", leaf.grad, queries, measure)
        gaps += _one_by_one_gaps(name, _expected(row, logits, questions, offsets=True))
    value, label = worst(gaps)
    return at_most(value, 1e-6, f"{len(ROWS)} losses, three forms each, values and slopes; largest: {label}")


def _one_by_one_gaps(name: str, expected: Sequence[float]) -> list[tuple[str, float]]:
    """The loss made of its plain form, one client after the other, as losses of a user's own are."""
    queries, keys, scale, questions, catalogues = _world()
    loss = LOSSES[name]
    single = Loss.from_plain(loss.plain, pairwise=loss.pairwise, calibrated=loss.calibrated)
    told = (single.pairwise, single.calibrated) == (loss.pairwise, loss.calibrated)
    found = {
        "rows": _over_rows(single, questions, keys, scale, False, queries),
        "catalogues": _over_catalogues(single, catalogues, keys, scale, queries),
        "no client": _over_rows(
            single, replace(questions, row_weights=0 * questions.row_weights), keys, scale, True, queries
        ),
    }
    wanted = {"rows": expected, "catalogues": expected, "no client": [0.0] * C}
    return [(f"{name}: what it is said to be", 0.0 if told else math.inf)] + [
        (f"{name}, one by one, {form}", max(abs(f - e) for f, e in zip(own.tolist(), wanted[form], strict=True)))
        for form, own in found.items()
    ]


def surprises(subject: Subject) -> Finding:
    """How surprising each item of a history is, -ln p / ln V among the items that training knows, and 1 for the first;
    padding surprises nobody."""
    del subject
    items = torch.tensor([[[3, 1, 4, 2], [5, 2, 0, 0]]])
    logits = _draw(1, 6, 7, name="surprise")
    gaps = []
    for known in (None, torch.tensor([False, True, True, True, True, False, True])):
        places = torch.eye(6, dtype=logits.dtype).view(1, 2, 3, 6)
        found = surprise(lambda some: some @ logits[0], places, items, 6, known)
        candidates = [t for t in range(1, 7) if known is None or bool(known[t])]
        for window, length in ((0, 4), (1, 2)):
            gaps.append(("first", abs(float(found[0, window, 0]) - 1.0)))
            for place in range(1, length):
                row, item = logits[0, window * 3 + place - 1], int(items[0, window, place])
                total = math.log(sum(math.exp(float(row[t])) for t in candidates))
                gaps.append(
                    (f"item {item}", abs(float(found[0, window, place]) - (total - float(row[item])) / math.log(6)))
                )
        gaps.append(("padding", float(found[0, 1, 2:].abs().max())))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"with and without items that nobody trains on; largest: {label}")


def _slope_gaps(
    label: str, slope: Tensor, queries: Tensor, measure: Callable[[Tensor], Tensor]
) -> list[tuple[str, float]]:
    """Central differences at a few entries of the queries, of the first client's loss plus twice the second's."""
    step, gaps = 1e-5, []
    for c, r, k in ((0, 0, 0), (0, 3, 2), (1, 0, 1), (1, 2, 0), (1, 3, 1)):
        with torch.no_grad():
            ends = []
            for sign in (1.0, -1.0):
                moved = queries.clone()
                moved[c, r, k] += sign * step
                found = measure(moved)
                ends.append(float(found[0] + 2.0 * found[1]))
        gaps.append((label, abs((ends[0] - ends[1]) / (2 * step) - float(slope[c, r, k]))))
    return gaps


def calibration(subject: Subject) -> Finding:
    """gBCE's beta at the ends that its paper names, between them a line; and the weight of sampled candidates: log-Q's
    offsets are minus the log of the share drawn, and 0 for targets."""
    del subject
    share = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64)
    gaps = []
    for t in (0.0, 0.25, 1.0):
        expected = (1 - t) + t * share  # 1 at t = 0, alpha at t = 1
        gaps.append((f"beta at {t}", float((gbce_power(share, t) - expected).abs().max())))
    local, _ = make_local({}, {"num_negatives": 6, "logq_correction": True})
    clients = local.windows.trainable
    order = sorted(clients.tolist(), key=lambda client: -len(local.train[client]))
    for client in order[:4]:
        step = local.steps(local.windows.trainable[local.windows.trainable == client], 1).step(0, 1)
        own = set(local.train[client].tolist())
        for t, offset in zip(step.batch.candidates[0].tolist(), step.questions.offsets[0].tolist(), strict=True):  # type: ignore[index]
            outside = SMALL_ITEMS - len(own)
            expected_offset = 0.0 if t in own else -math.log(min(6, outside) / outside)
            gaps.append((f"log-Q of item {t}", abs(offset - expected_offset)))
    for client in order[:3]:
        gbce, _ = make_local({}, {"num_negatives": 6, "loss": "gbce", "gbce_calibration": 0.4})
        step = gbce.steps(clients[clients == client], 1).step(0, 1)
        alpha = min(6, SMALL_ITEMS - len(local.train[client])) / (SMALL_ITEMS - len(local.train[client]))
        power = step.questions.target_power
        gaps.append(("beta of a step", math.inf if power is None else abs(float(power[0]) - (0.6 + 0.4 * alpha))))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"three calibrations, four clients; largest: {label}")


def alignment(subject: Subject) -> Finding:
    """The alignment loss from its formula, item by item, over the distinct items that have the modality; ln n where all
    similarities are equal."""
    del subject
    gaps, temperature = [], 0.2
    for experts in ("pooled", "hybrid", "memory"):
        local, params = make_local({"experts": experts})
        items = torch.tensor([[[1, 5, 2, 5, 0], [3, 7, 0, 0, 0]], [[10, 10, 5, 0, 0], [0, 0, 0, 0, 0]]])
        embedded = params["backbone.item_embedding"][items]
        model, both = local.recommender, expand_for_clients(params, 2)
        found = alignment_loss(both, model.parts, model.tables, items, embedded, temperature)
        for c in range(2):
            each = []
            for name, table in local.recommender.tables.items():
                own = sorted({int(t) for t in items[c].flatten() if t and table.present[t]})
                left = [params["backbone.item_embedding"][t] for t in own]
                right = []
                for t in own:
                    if experts != "memory":
                        right.append(params[f"{name}.projection.weight"] @ table.values[t])
                    else:
                        inner = params[f"{name}.value.weight"] @ table.values[t]
                        right.append(params[f"{name}.output.weight"] @ inner)
                each.append(_info_nce(left, right, temperature))
            gaps.append((f"{experts}, client {c}", abs(float(found[c]) - sum(each) / len(each))))
    same = torch.ones(1, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False, False]])
    gaps.append(("ln n", abs(float(contrast(same, same, mask, 0.1)[0]) - math.log(3))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"three kinds of experts, two clients; largest: {label}")


def _info_nce(left: Sequence[Tensor], right: Sequence[Tensor], temperature: float) -> float:
    def similarity(a: Tensor, b: Tensor) -> float:
        lengths = math.sqrt(float(a @ a) + 1e-6) * math.sqrt(float(b @ b) + 1e-6)
        return float(a @ b) / lengths / temperature

    n, total = len(left), 0.0
    for i in range(n):
        there = math.log(sum(math.exp(similarity(left[i], b)) for b in right))
        back = math.log(sum(math.exp(similarity(a, right[i])) for a in left))
        total += there + back - 2 * similarity(left[i], right[i])
    return total / (2 * n) if n else 0.0


CHECKS: Sequence[Check] = (
    Check("architecture", "losses and their slopes equal their definitions", losses),
    Check("federation", "sampled losses are calibrated by what is drawn", calibration),
    Check("architecture", "the alignment loss equals its definition", alignment),
    Check("architecture", "surprise is a loss among the items that training knows", surprises),
)
