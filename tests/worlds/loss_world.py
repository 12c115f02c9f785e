"""Scores and questions for the battery over losses, and each loss by its definition, one number at a time."""

import math

import torch
from hypothesis import strategies as st

from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.scores import Scores, Term
from fedmm.utils.seeding import torch_stream

SHIFT_INVARIANT = {"softmax", "bpr"}  # a score's level means nothing where scores are compared with each other


@st.composite
def worlds(draw):
    """Terms of scores, and questions with padded rows, masks and exclusions, all optional; a row's target is always
    its candidate."""
    stream = torch_stream(draw(st.integers(0, 2**32)), "loss contract")
    C, R, N, K = (draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 4), (3, 7), (1, 3)))

    def normal(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    scaled = [draw(st.booleans()) for _ in range(draw(st.integers(1, 2)))]
    terms = tuple(Term(normal(C, R, K), normal(C, N, K), normal(C, N) if own else None) for own in scaled)
    targets = torch.randint(1, N, (C, R), generator=stream)
    real = torch.arange(R) < torch.randint(0, R + 1, (C, 1), generator=stream)
    weights = torch.rand(C, R, generator=stream, dtype=torch.float64) + 0.1
    mask = exclusions = None
    if draw(st.booleans()):
        mask = (torch.rand(C, N, generator=stream) < 0.6).scatter(1, targets, True)
        mask[:, 0] = False
    if draw(st.booleans()):
        index = torch.stack([torch.randperm(N, generator=stream)[:2] for _ in range(C)])
        rows = torch.rand(C, R, 2, generator=stream) < 0.5
        exclusions = Exclusions(index, rows & (index.unsqueeze(1) != targets.unsqueeze(-1)))
    power = 0.1 + 0.9 * torch.rand(C, generator=stream, dtype=torch.float64)
    return terms, Questions(targets * real, weights * real, mask, exclusions, target_power=power)


def leaves_of(terms):
    """Everything that trains, ready to be differentiated by."""
    tensors = [tensor for term in terms for tensor in (term.queries, term.keys, term.scale) if tensor is not None]
    return [tensor.requires_grad_() for tensor in tensors]


def forms(terms):
    """The same scores as products and as numbers."""
    return Scores(terms), Scores((), Scores(terms).materialise())


def candidates_of(questions, num_candidates, client, row):
    """The columns a row may choose from."""
    mask = questions.candidate_mask
    kept = set(range(1, num_candidates)) if mask is None else set(torch.nonzero(mask[client]).flatten().tolist())
    if questions.exclusions is not None:
        kept -= set(questions.exclusions.index[client][questions.exclusions.rows[client, row]].tolist())
    return kept


def definition(name, target, negatives, power):
    """One row's loss from its numbers."""
    if name == "softmax":
        return math.log(sum(math.exp(score) for score in [target, *negatives])) - target
    if name == "bpr":
        return sum(math.log1p(math.exp(other - target)) for other in negatives) / max(1, len(negatives))
    own = power * math.log1p(math.exp(-target))
    return (own + sum(math.log1p(math.exp(score)) for score in negatives)) / (1 + len(negatives))


def slow_losses(name, logits, questions):
    """[C]: from ``logits`` [C, R, N], row by row."""
    losses = torch.zeros(len(logits), dtype=torch.float64)
    for c, r in torch.nonzero(questions.row_weights).tolist():
        kept, target = candidates_of(questions, logits.shape[2], c, r), int(questions.targets[c, r])
        negatives = [float(logits[c, r, column]) for column in kept - {target}]
        power = 1.0 if questions.target_power is None else float(questions.target_power[c])
        loss = definition(name, float(logits[c, r, target]), negatives, power)
        losses[c] += float(questions.row_weights[c, r]) * loss
    return losses


def of_client(questions, client):
    """One client's questions."""
    some = slice(client, client + 1)
    exclusions = questions.exclusions
    return Questions(
        questions.targets[some],
        questions.row_weights[some],
        None if questions.candidate_mask is None else questions.candidate_mask[some],
        None if exclusions is None else Exclusions(exclusions.index[some], exclusions.rows[some]),
        target_power=questions.target_power[some],
    )
