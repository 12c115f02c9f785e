"""What a run's own numbers suggest: a few sentences, each with the figures it rests on.

Whether the model is above or below a row of its report is for the paired test to say, not for two means.
"""

from __future__ import annotations

import shlex

from fedmm.config import ExperimentConfig
from fedmm.runs.continuing import may_grow
from fedmm.runs.own_parts import part_origins, parts_words, sources_of
from fedmm.runs.result import Advice, ModelFacts, TrainResult
from fedmm.utils.text import ALPHA, PROTOCOLS, probability, share

ZERO_GATE = 0.01
LARGE_GATE = 2.0
STILL_GATE = 1e-4
DOMINANT_EXPERT = 0.9
FEW_ROUNDS = 10
USUAL_ROUNDS = ExperimentConfig().federation.rounds
MUST_BEAT = {"popularity": "popularity", "round_0": "its own round 0"}


def advise(config: ExperimentConfig, result: TrainResult) -> tuple[Advice, ...]:
    """Sentences on a run that was measured on test, drawn from the result alone."""
    return (
        *_on_gate(config, result.model),
        *_on_experts(result.model),
        *_on_baselines(config, result),
        *_on_rounds(config, result),
        *_on_parts(config, result),
        *_on_protocols(config, result),
        *_on_disagreement(config, result),
    )


def _on_gate(config: ExperimentConfig, model: ModelFacts) -> list[Advice]:
    gate, start = model.gating_weight, config.model.gating_init
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


def _on_experts(model: ModelFacts) -> list[Advice]:
    weights = {"visual": model.w_vis, "semantic": model.w_sem}
    shares = {name: share for name, share in weights.items() if share is not None}
    return [
        _info(f"The {name} expert holds {share:.0%} of the router: fine, but the other may not be useful.")
        for name, share in shares.items()
        if len(shares) > 1 and share > DOMINANT_EXPERT
    ]


def _on_baselines(config: ExperimentConfig, result: TrainResult) -> list[Advice]:
    """Popularity and round 0 are what any trained model has to beat."""
    protocol, metric = config.evaluation.selection_metric.split("/")
    own = result.metrics.test[protocol][metric]
    advice: list[Advice] = []
    for name, meaning in MUST_BEAT.items():
        value, p = result.baselines[name].test[protocol][metric], _p_value(result, name, protocol, metric)
        figures = _figures(metric, own, value, p)
        if p is not None and p >= ALPHA:
            text = f"The model cannot be told from {meaning} on test ({figures}): training has shown no sure gain."
            advice.append(_info(text))
        elif own < value:
            advice.append(_warning(f"The model is below {meaning} on test ({figures}): something is wrong."))
    return advice


def _on_rounds(config: ExperimentConfig, result: TrainResult) -> list[Advice]:
    """More rounds where the best one is the last; where no gain is sure, more of them where they were few, or a lower
    rate where the best came early."""
    best, rounds = result.best_round, result.rounds
    if config.privacy.on:  # it keeps its last round, whatever validation says, and more rounds spend more
        return []
    if best == rounds:
        start = f"fedmm train --resume --output {shlex.quote(result.output)} --rounds {2 * rounds}"
        command = start + parts_words(sources_of(part_origins(config.flat())))
        how = f"go on with {command}" if may_grow(config) else f"train with --rounds {2 * rounds}"
        last = f"The best round is the last of {rounds}" if rounds > 1 else "One round is few"
        return [_info(f"{last}: validation was still rising, so more may help ({how}).")]
    protocol, metric = config.evaluation.selection_metric.split("/")
    p_values = [_p_value(result, name, protocol, metric) for name in MUST_BEAT]
    if not any(p is not None and p >= ALPHA for p in p_values):
        return []
    if rounds < FEW_ROUNDS:
        return [_info(f"{rounds} rounds are few: train for more (--rounds {USUAL_ROUNDS}) before you judge.")]
    if 4 * best <= rounds:
        rate = config.federation.learning_rate
        text = (
            f"The best round is {best} of {rounds}: longer training does not help here. Try a --learning-rate below "
            f"{rate:g}, and --fusion backbone to see what the features do."
        )
        return [_info(text)]
    return []


def _on_parts(config: ExperimentConfig, result: TrainResult) -> list[Advice]:
    """A part that does better alone shows that the fusion loses what it knows."""
    protocol, metric = config.evaluation.selection_metric.split("/")
    own = result.metrics.test[protocol][metric]
    advice: list[Advice] = []
    for name, entry in result.parts.items():
        value, p = entry.test[protocol][metric], _p_value(result, name, protocol, metric)
        if value <= own:
            continue
        what = "The backbone alone" if name == "backbone" else f"The {name} expert alone"
        figures = _figures(metric, value, own, p)
        if p is not None and p >= ALPHA:
            advice.append(_info(f"{what} is ahead of the whole model, within noise ({figures})."))
        else:
            lost = "the experts cost more than they add" if name == "backbone" else "the fusion loses what it knows"
            advice.append(_warning(f"{what} beats the whole model on test ({figures}): {lost}."))
    return advice


def _on_protocols(config: ExperimentConfig, result: TrainResult) -> list[Advice]:
    """Where round 0 is ahead under a protocol that does not select."""
    selected, metric = config.evaluation.selection_metric.split("/")
    start = result.baselines.round_0.test
    advice: list[Advice] = []
    for protocol, own in result.metrics.test.items():
        if protocol == selected or own[metric] >= start[protocol][metric]:
            continue
        p = _p_value(result, "round_0", protocol, metric)
        figures = _figures(metric, start[protocol][metric], own[metric], p)
        if p is not None and p >= ALPHA:
            advice.append(_info(f"{_asked(protocol)} round 0 is ahead of the model, within noise ({figures})."))
        else:
            advice.append(_warning(f"{_asked(protocol)} round 0 beats the model ({figures}): there training has hurt."))
    return advice


def _on_disagreement(config: ExperimentConfig, result: TrainResult) -> list[Advice]:
    """Sampled metrics can reorder models (Krichene & Rendle, KDD 2020): say so when they did."""
    metric = config.evaluation.selection_metric.partition("/")[2]
    own, counts = result.metrics.test, result.baselines.transition_counts.test
    if "full" not in own:
        return []
    ahead = own["full"][metric] > counts["full"][metric]
    return [
        _info(
            f"Full ranking and ranking {PROTOCOLS[protocol]} disagree on whether the model beats transition counts "
            f"({metric.replace('_at_', '@').upper()}): believe full ranking."
        )
        for protocol in own
        if protocol != "full" and (own[protocol][metric] > counts[protocol][metric]) != ahead
    ]


def _p_value(result: TrainResult, opponent: str, protocol: str, metric: str) -> float | None:
    """Of the paired test on test; None where there was none (one user, or a run of before)."""
    tests = result.paired.test.get(opponent) if "test" in result.paired else None
    found = None if tests is None else tests.get(f"{protocol}/{metric}")
    return None if found is None else found.p_value


def _asked(protocol: str) -> str:
    """A protocol at the head of a sentence: "Against 100 uniform negatives"."""
    words = PROTOCOLS[protocol]
    return f"In {words}" if protocol == "full" else f"{words[0].upper()}{words[1:]}"


def _figures(metric: str, first: float, second: float, p: float | None) -> str:
    label = metric.replace("_at_", "@").upper()
    return f"{label} {share(first, 3)} against {share(second, 3)}" + ("" if p is None else f", p {probability(p)}")


def _info(text: str) -> Advice:
    return Advice(level="info", text=text)


def _warning(text: str) -> Advice:
    return Advice(level="warning", text=text)
