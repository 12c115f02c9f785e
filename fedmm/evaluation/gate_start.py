"""Where the gate of the residual fusion starts, chosen on validation before training.

Where events are few for the items there are, item features can tell more than all events together, and a gate that
starts low learns that too slowly: the backbone has learned its few events by heart before. Features that say nothing
do harm there as well when they are loud. So neither start is right for all data; validation says which is for these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedmm.data.types import FloatArray

LOUDER = (1.0, 3.0)  # tried beside ``model.gating_init``
QUESTIONS = 200  # of validation; fewer choose nothing
SURE = 2.0  # standard errors of the mean difference that a louder start has to be better by


def choose_gate(start: float, measure: Callable[[float], FloatArray]) -> tuple[float, Mapping[float, float]]:
    """The start that ``measure`` [Q], a metric of each question under a gate, is best for on average: ``start``, or one
    of ``LOUDER`` where it is surely better than that; and the averages that were met.

    >>> choose_gate(0.1, lambda gate: np.full(500, 0.2 if gate == 1.0 else 0.1))
    (1.0, {0.1: 0.1, 1.0: 0.2, 3.0: 0.1})
    >>> choose_gate(0.1, lambda gate: np.full(5, gate))
    (0.1, {})
    """
    before = measure(start)
    if len(before) < QUESTIONS:
        return start, {}
    found, best = {start: float(before.mean())}, start
    for gate in LOUDER:
        values = measure(gate)
        found[gate] = float(values.mean())
        gain = values - before
        error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
        if gain.mean() > SURE * error and found[gate] > found[best]:
            best = gate
    return best, found


def gate_notes(gate: float, found: Mapping[float, float], metric: str) -> list[str]:
    """What was chosen among ``found`` and why; nothing where nothing was.

    >>> gate_notes(1.0, {0.1: 0.1, 1.0: 0.2}, "NDCG@10")
    ['the gate starts at 1: untrained, .1 and 1 reach .1000 and .2000 on validation (NDCG@10; model.gate_start)']
    """
    if not found:
        return []
    gates = _listed([f"{one:g}".removeprefix("0") for one in found])
    values = _listed([f"{value:.4f}".removeprefix("0") for value in found.values()])
    reached = f"{gates} reach {values} on validation"
    return [f"the gate starts at {gate:g}: untrained, {reached} ({metric}; model.gate_start)"]


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]])
