"""What a run's own numbers suggest: a few sentences, each with the figures it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmm.config import ExperimentConfig

ZERO_GATE = 0.01
LARGE_GATE = 2.0
STILL_GATE = 1e-4
DOMINANT_EXPERT = 0.9


def advise(config: ExperimentConfig, result: Mapping[str, Any]) -> list[dict[str, str]]:
    """``[{"level": "info" | "warning", "text": ...}]``, drawn from the result object alone."""
    return [*_on_gate(config, result["model"]), *_on_experts(result["model"]), *_on_baselines(config, result)]


def _on_gate(config: ExperimentConfig, model: Mapping[str, Any]) -> list[dict[str, str]]:
    gate, start = model["gating_weight"], config.model.gating_init
    if gate is None or not config.model.learn_gating:
        return []
    if abs(gate - start) < STILL_GATE:
        text = (
            f"The gate did not move from {start:g}: is learning_rate too small, do the features cover the items, "
            "are the experts' outputs zero, or did the best round lie within the warm-up?"
        )
        return [_warning(text)]
    if abs(gate) < ZERO_GATE:
        return [_info(f"The gate went to zero ({gate:.4f}): the features do not help here.")]
    if abs(gate) > LARGE_GATE:
        return [_info(f"The gate grew large ({gate:.2f}): consider regularising (weight_decay, fewer rounds).")]
    return []


def _on_experts(model: Mapping[str, Any]) -> list[dict[str, str]]:
    shares = {name: model[key] for name, key in (("visual", "w_vis"), ("semantic", "w_sem")) if model[key] is not None}
    return [
        _info(f"The {name} expert holds {share:.0%} of the router: fine, but the other may not be useful.")
        for name, share in shares.items()
        if len(shares) > 1 and share > DOMINANT_EXPERT
    ]


def _on_baselines(config: ExperimentConfig, result: Mapping[str, Any]) -> list[dict[str, str]]:
    protocol, metric = config.evaluation.selection_metric.split("/")
    own = result["metrics"]["test"][protocol][metric]
    values = {name: entry["test"][protocol][metric] for name, entry in result["baselines"].items()}
    advice = []
    for name, meaning in (("popularity", "popularity"), ("round_0", "its own round 0")):
        if own < values[name]:
            figures = f"{metric} {own:.3f} against {values[name]:.3f}"
            advice.append(_warning(f"The model is below {meaning} on test ({figures}): something is wrong."))
    return advice + _on_disagreement(result, metric)


def _on_disagreement(result: Mapping[str, Any], metric: str) -> list[dict[str, str]]:
    """Sampled metrics can reorder models (Krichene & Rendle, KDD 2020): say so when they did."""
    own, counts = result["metrics"]["test"], result["baselines"]["transition_counts"]["test"]
    if "full" not in own:
        return []
    ahead = own["full"][metric] > counts["full"][metric]
    return [
        _info(
            f"Full ranking and {protocol} disagree on whether the model beats transition counts ({metric}): "
            "believe full ranking."
        )
        for protocol in own
        if protocol != "full" and (own[protocol][metric] > counts[protocol][metric]) != ahead
    ]


def _info(text: str) -> dict[str, str]:
    return {"level": "info", "text": text}


def _warning(text: str) -> dict[str, str]:
    return {"level": "warning", "text": text}
