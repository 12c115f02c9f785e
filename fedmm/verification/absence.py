"""Claims about what is missing: an absent modality or an empty memory has no effect and no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmm.data.types import ItemFeatures
from fedmm.models.features import FeatureTable
from fedmm.models.fusion import GATE
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, expand_for_clients
from fedmm.verification.architecture import gradients_of, has_experts, over, scores_of
from fedmm.verification.checks import Check, Finding, largest_gap, none_of
from fedmm.verification.subject import BACKBONE, Model, Subject


def without(
    model: Model, names: Sequence[str], items: torch.Tensor | None = None, filler: float = float("nan")
) -> Model:
    """The model with modalities masked out for the whole catalogue, or for ``items`` only.

    Masked rows hold ``filler``: NaN shows up wherever one is read.
    """
    tables = {}
    for name, table in model.recommender.tables.items():
        present, values = table.present.clone(), table.values.clone()
        if name in names:
            present[slice(None) if items is None else items.flatten()] = False
        values[~present] = filler
        features = ItemFeatures(values.numpy().astype(np.float32), present.numpy())
        tables[name] = FeatureTable.build(features, values.dtype, values.device)
    recommender = model.recommender.with_tables(tables)
    masked = {name: replace(part, mask=torch.zeros_like(part.present(tables)))
              for name, part in recommender.parts.items() if name in names and not part.per_modality}  # fmt: skip
    return replace(model, recommender=replace(recommender, parts={**recommender.parts, **masked}))


def moved(params: Params, names: Sequence[str]) -> Params:
    """Parameters of the named experts replaced by something else."""
    return {k: v * 3.0 + 1.0 if k.split(".")[0] in names else v for k, v in params.items()}


def effect_of_absent(names: Sequence[str]) -> Callable[[Model], float]:
    """How much an absent modality's parameters and features move a score: 0.0 only where no bit does."""

    def measure(model: Model) -> float:
        absent = without(model, names)
        before = scores_of(absent)
        other_parameters = scores_of(absent, moved(model.params, names))
        other_features = scores_of(without(model, names, filler=7.0))
        return max(largest_gap(before, other_parameters), largest_gap(before, other_features))

    return measure


def gradient_of_absent(names: Sequence[str]) -> Callable[[Model], float]:
    """The largest gradient of an absent modality's parameters."""

    def measure(model: Model) -> float:
        found = gradients_of(without(model, names), model.params)
        return max(float(gradient.abs().max()) for name, gradient in found.items() if name.split(".")[0] in names)

    return measure


def renormalised(names: Sequence[str]) -> Callable[[Model], float]:
    """How far the router's weights are from 0 on the absent and from a sum of 1 over the rest."""

    def measure(model: Model) -> float:
        absent = without(model, names)
        table = model.params[ITEM_TABLE].unsqueeze(0)
        weights = absent.recommender.router_weights(expand_for_clients(model.params), None, table)[0, 1:]
        experts = model.recommender.experts
        columns = [experts.index(name) - len(experts) for name in names]
        gap = float(weights[:, columns].abs().max())
        tables = model.recommender.tables
        left = [part.present(tables)[1:] for name, part in model.recommender.parts.items() if name not in names]
        someone = torch.stack(left).any(0) if left else torch.zeros(len(weights), dtype=torch.bool)
        if model.recommender.config.fusion == "competitive":
            someone = torch.ones_like(someone)
        return max(gap, float((weights.sum(1) - someone.to(weights.dtype)).abs().max()))

    return measure


def backbone_gap(model: Model) -> float:
    """All experts absent, against the backbone: 0.0 only where every bit agrees."""
    return largest_gap(scores_of(without(model, model.recommender.experts)), scores_of(model, experts=False))


def empty_history_gap(model: Model) -> float:
    """A history that holds no modality at all, against the backbone's share of the score."""
    bare = without(model, list(model.recommender.tables), model.history)
    if not bare.recommender.has_gate:
        # Competitive: what is left of a score is the backbone's share, so the experts' own parameters cannot matter.
        names = [*model.recommender.tables]
        return largest_gap(scores_of(bare), scores_of(bare, moved(model.params, names)))
    gap = 0.0
    for gate in (0.1, 3.0):
        params = {**model.params, GATE: torch.full_like(model.params[GATE], gate)}
        gap = max(gap, largest_gap(scores_of(bare, params), scores_of(bare, params, experts=False)))
    return gap


def more_than_the_backbone(subject: Subject) -> Finding:
    """Without any features every fusion has the backbone's parameters and scores, and no others."""
    wrong = []
    for model in subject.models:
        bare = Recommender(model.recommender.config, model.num_items, {})
        params = bare.init(torch.Generator().manual_seed(0), torch.float64)
        if any(not name.startswith(BACKBONE) for name in params) or bare.has_gate:
            wrong.append(model.label)
    return none_of(len(wrong), "; ".join(wrong) or f"{len(subject.models)} models")


def has_modalities_alone(model: Model) -> bool:
    """Whether an item without features says nothing to any expert."""
    return has_experts(model) and all(part.per_modality for part in model.recommender.parts.values())


def _checks() -> list[Check]:
    checks = []
    for label, names in (("visual", ("visual",)), ("text", ("semantic",)), ("both", ("visual", "semantic"))):

        def wanted(model: Model, names: Sequence[str] = names) -> bool:
            return has_experts(model) and set(names) <= set(model.recommender.tables)

        def trained(model: Model, names: Sequence[str] = names) -> bool:
            return wanted(model, names) and not any(model.recommender.parts[name].has_constants for name in names)

        checks += [
            Check("architecture", f"absent {label}: no effect", over(effect_of_absent(names), 0.0, wanted)),
            Check("architecture", f"absent {label}: no gradient", over(gradient_of_absent(names), 0.0, trained)),
            Check("architecture", f"absent {label}: weights renormalised", over(renormalised(names), 1e-12, wanted)),
        ]
    return checks


CHECKS: Sequence[Check] = (
    *_checks(),
    Check("architecture", "all modalities absent: the backbone bit for bit", over(backbone_gap, 0.0, has_experts)),
    Check("architecture", "empty memory: no effect", over(empty_history_gap, 0.0, has_modalities_alone)),
    Check("architecture", "no features: the backbone and nothing else", more_than_the_backbone),
)
