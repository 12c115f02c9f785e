"""Claims about the model: shapes, router, gate, gradients, fusion, and the fast path against the definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmm.models.fusion import FUSIONS, GATE
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.router import load_balance_loss
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, expand_for_clients
from fedmm.verification.checks import Check, Finding, at_most, largest_gap, more_than, none_of, worst
from fedmm.verification.naive import naive_router_weights, naive_scores
from fedmm.verification.subject import BACKBONE, Model, Subject

EXACT = 1e-9  # float64


def all_rows(items: Tensor) -> Tensor:
    """Every position of windows ``items`` [C, B, L] predicts: rows [C, B * L]."""
    C, B, L = items.shape
    return torch.arange(B * L).expand(C, B * L)


def scores_of(
    model: Model, params: Params | None = None, items: Tensor | None = None, *, experts: bool = True
) -> Tensor:
    """Scores [R, V] of every position of the model's history (or of ``items`` [1, B, L]) over the whole catalogue."""
    items = model.history if items is None else items
    batch = Batch(items, all_rows(items))
    parameters = expand_for_clients(model.params if params is None else params)
    return model.recommender.forward(parameters, batch, experts=experts).scores.materialise()[0]


def gradients_of(model: Model, params: Params, recommender: Recommender | None = None) -> Params:
    """Gradients of the cross-entropy of the next items (without the load-balance term) with respect to ``params``."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    items = model.history[:, :, :-1]
    output = (recommender or model.recommender).forward(expand_for_clients(leaves), Batch(items, all_rows(items)))
    targets = model.history[:, 0, 1:]
    weights = torch.full(targets.shape, 1 / targets.shape[1], dtype=torch.float64)
    loss = cross_entropy(output.scores, Questions(targets, weights))
    found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def over(
    measure: Callable[[Model], float], bound: float, wanted: Callable[[Model], bool] | None = None
) -> Callable[[Subject], Finding]:
    """A check that takes the largest value of ``measure`` over the models ``wanted``."""

    def run(subject: Subject) -> Finding:
        models = [model for model in subject.models if wanted is None or wanted(model)]
        value, label = worst((model.label, measure(model)) for model in models)
        return at_most(value, bound, f"{len(models)} models; largest: {label}" if models else "no such model here")

    return run


def has_experts(model: Model) -> bool:
    """Whether the model has an expert."""
    return bool(model.recommender.experts)


def is_residual(model: Model) -> bool:
    """Whether there is a gate."""
    return model.recommender.has_gate


def shapes(model: Model) -> float:
    """Wrong shapes among the scores and the load-balance loss of two windows."""
    L, V = model.history.shape[2], model.num_items + 1
    items = model.history.expand(1, 2, L)
    output = model.recommender.forward(expand_for_clients(model.params), Batch(items, all_rows(items)))
    wrong = output.scores.materialise().shape != (1, 2 * L, V)
    return float(wrong) + float(output.load_balance_loss.shape != (1,))


def router_gap(model: Model) -> float:
    """The router's weights against the definition, item by item, and their sums against 1."""
    recommender = model.recommender
    table = model.params[ITEM_TABLE].unsqueeze(0)
    weights = recommender.router_weights(expand_for_clients(model.params), None, table)[0]
    names = [*(["backbone"] if recommender.config.fusion == "competitive" else []), *recommender.experts]
    if weights.shape[1] != len(names):
        return float("inf")
    gap = 0.0
    for t in some_items(model):
        expected = naive_router_weights(recommender, model.params, t)
        gap = max(gap, *(abs(float(weights[t, m]) - expected[name]) for m, name in enumerate(names)))
        total = float(weights[t].sum())
        gap = max(gap, min(abs(total - 1.0), abs(total) if not any(expected.values()) else 1.0))
    return gap


def some_items(model: Model, count: int = 8) -> list[int]:
    """Items spread over the catalogue, the history's last two among them."""
    spread = torch.linspace(1, model.num_items, count - 2).round().long().tolist()
    return sorted({*spread, *model.history[0, 0, -2:].tolist()})


def naive_gap(model: Model) -> float:
    """The largest difference of a score from the oracle's."""
    length = 8 if model.num_items > 200 and has_experts(model) else model.history.shape[2]
    history = model.history[0, 0, :length].tolist()
    candidates = some_items(model)
    expected = naive_scores(model.recommender, model.params, history, candidates)
    return largest_gap(scores_of(model, items=model.history[:, :, :length])[:, candidates], expected)


def gate_faults(subject: Subject) -> Finding:
    """The gate is one learnable scalar that starts at gating_init."""
    faults: list[str] = []
    for model in subject.models:
        config = model.recommender.config
        fresh = model.recommender.init(torch.Generator().manual_seed(0), torch.float64)
        if model.recommender.has_gate:
            if fresh[GATE].shape != () or abs(float(fresh[GATE]) - config.gating_init) > 1e-12:
                faults.append(f"{model.label}: {fresh[GATE]}")
        elif GATE in fresh:
            faults.append(f"{model.label}: a gate where the fusion has none")
    return none_of(len(faults), "; ".join(faults) or f"{len(subject.models)} models")


def gate_gradient(subject: Subject) -> Finding:
    """The smallest gradient of the gate, at gating_init and at 0."""
    smallest = float("inf")
    models = [model for model in subject.models if is_residual(model)]
    for model in models:
        for value in (model.recommender.config.gating_init, 0.0):
            gradient = gradients_of(model, {**model.params, GATE: torch.full_like(model.params[GATE], value)})[GATE]
            smallest = min(smallest, float(gradient.abs()) if torch.isfinite(gradient).all() else -1.0)
    if not models:
        return none_of(0, "no model with a gate here")
    return more_than(smallest, 0.0, f"{len(models)} models with a gate, at gating_init and at 0")


def parameters_without_gradient(subject: Subject) -> Finding:
    """Parameters whose gradient is zero or not finite where the gate is not 0."""
    dead = []
    for model in subject.models:
        params = dict(model.params)
        if model.recommender.has_gate and not float(params[GATE]):
            params[GATE] = torch.full_like(params[GATE], 0.1)
        found = gradients_of(model, params)
        dead += [
            f"{model.label}: {name}"
            for name, gradient in found.items()
            if not (torch.isfinite(gradient).all() and gradient.abs().max() > 0)
        ]
    return none_of(len(dead), "; ".join(dead) or f"{len(subject.models)} models")


def auxiliary_gradient_at_zero_gate(model: Model) -> float:
    """The largest gradient of a parameter outside the backbone, the gate not counted, where the gate is 0."""
    found = gradients_of(model, {**model.params, GATE: torch.zeros_like(model.params[GATE])})
    outside = [g for name, g in found.items() if name != GATE and not name.startswith(BACKBONE)]
    return max(float(gradient.abs().max()) for gradient in outside)


def zero_gate_gap(model: Model) -> float:
    """g = 0 against the backbone: 0.0 only where every bit agrees."""
    closed = scores_of(model, {**model.params, GATE: torch.zeros_like(model.params[GATE])})
    return largest_gap(closed, scores_of(model, experts=False))


def balance_at_equal_use(model: Model) -> float:
    """The load-balance loss where all experts are used equally."""
    M = len(model.recommender.experts) + FUSIONS[model.recommender.config.fusion].routes_backbone
    weights = torch.full((1, 30, M), 1.0 / M, dtype=torch.float64)
    return float(load_balance_loss(weights, torch.ones(1, 30, dtype=torch.bool)).abs().max())


def balance_at_unequal_use(subject: Subject) -> Finding:
    """The load-balance loss where one of two experts takes all: (1 - 1/2)^2 + (0 - 1/2)^2."""
    del subject
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 30, 2)
    loss = float(load_balance_loss(weights, torch.ones(1, 30, dtype=torch.bool)))
    return at_most(abs(loss - 0.5), 1e-12, "one of two experts takes all: the loss is 1/2")


def backbone_coefficient(model: Model) -> Tensor:
    """The backbone's coefficient for every item under a router that gives all it may to the first expert."""
    recommender = model.recommender
    params = dict(model.params)
    params["router.bias"] = torch.zeros_like(params["router.bias"])
    params["router.bias"][-len(recommender.experts)] = 200.0
    table = params[ITEM_TABLE].unsqueeze(0)
    expanded = expand_for_clients(params)
    weights = recommender.router_weights(expanded, None, table)
    mixture = FUSIONS[recommender.config.fusion].mix(expanded, weights)
    masks = [part.present(recommender.tables) for part in recommender.parts.values()]
    coefficient = torch.ones_like(weights[..., 0]) if mixture.backbone is None else mixture.backbone
    return coefficient[0, masks[0]]


def coefficient_gap(expected: float) -> Callable[[Model], float]:
    """How far the backbone's coefficient is from ``expected`` under the silencing router."""
    return lambda model: float((backbone_coefficient(model) - expected).abs().max())


CHECKS: Sequence[Check] = tuple(
    Check("architecture", name, measure)
    for name, measure in (
        ("outputs have the shapes promised", over(shapes, 0.0)),
        ("router: one weight per present expert, summing to 1", over(router_gap, EXACT, has_experts)),
        ("factorised scores equal the naive ones", over(naive_gap, 1e-8)),
        ("the gate is one scalar that starts at gating_init", gate_faults),
        ("the gate receives a finite non-zero gradient", gate_gradient),
        ("every parameter receives a gradient", parameters_without_gradient),
        ("at g = 0 the gate alone learns beside the backbone", over(auxiliary_gradient_at_zero_gate, 0.0, is_residual)),
        ("g = 0 is the backbone bit for bit", over(zero_gate_gap, 0.0, is_residual)),
        ("load balance is zero at equal use", over(balance_at_equal_use, 1e-15, has_experts)),
        ("load balance grows with unequal use", balance_at_unequal_use),
        (
            "competitive: a router can silence the backbone",
            over(coefficient_gap(0.0), EXACT, lambda m: has_experts(m) and not is_residual(m)),
        ),
        ("residual: no router can touch the backbone", over(coefficient_gap(1.0), 0.0, is_residual)),
    )
)
