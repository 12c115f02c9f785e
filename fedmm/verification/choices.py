"""Claims about what is chosen before a round is trained: settings by the data's shape, what is said of them, what a
private run leaves unset, and the parameters of a warm start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.errors import CheckpointError
from fedmm.evaluation.gate_start import choose_gate
from fedmm.federation.data_rules import settled, training_notes
from fedmm.federation.private_parts import private_federation
from fedmm.federation.warm_start import WarmStart
from fedmm.verification.checks import Check, Finding, none_of
from fedmm.verification.little_world import little_config
from fedmm.verification.subject import Subject

SHORT = Ragged.from_rows([[1, 2, 3], list(range(1, 21)), list(range(1, 41))])  # the median has 20 items
LONG = Ragged.from_rows([[1, 2, 3], list(range(1, 22)), list(range(1, 41))])  # and here 21
FEW, SOME, MANY = 5000, 5001, 33_333_334  # items; with three users the last is beyond 100 million scores
SPARSE: Mapping[str, Any] = {
    "federation.recipe": "sparse", "federation.local_steps": 1, "federation.num_negatives": 512,
    "federation.server_learning_rate": 0.01, "federation.server_epsilon": 1e-8, "model.succession": 6.0,
}  # fmt: skip
STANDARD: Mapping[str, Any] = {
    "federation.recipe": "standard", "federation.local_steps": None, "federation.num_negatives": None,
    "federation.server_learning_rate": None, "federation.server_epsilon": None, "model.succession": 2.0,
}  # fmt: skip
# What is given, the histories, the items and what must come of it.
CASES: Sequence[tuple[Mapping[str, Any], Ragged, int, Mapping[str, Any]]] = (
    ({}, SHORT, SOME, {**SPARSE, "evaluation.every": 1, "federation.count_sums": "grouped"}),
    ({}, SHORT, FEW, {**STANDARD, "evaluation.every": 1, "federation.count_sums": "dense"}),
    ({}, SHORT, FEW, {"federation.counts_received": "largest"}),
    ({}, LONG, SOME, {**STANDARD, "evaluation.every": 1}),
    ({}, SHORT, MANY - 1, {"evaluation.every": 1}),
    ({}, SHORT, MANY, {"evaluation.every": 5}),
    ({"evaluation.every": 3}, SHORT, MANY, {"evaluation.every": 3}),
    ({"federation.recipe": "standard"}, SHORT, SOME, {**STANDARD, "model.succession": 6.0}),
    ({"federation.recipe": "sparse"}, LONG, FEW, {**SPARSE, "model.succession": 2.0}),
    ({"federation.local_epochs": 2}, SHORT, SOME, {**SPARSE, "federation.local_steps": None}),
    ({"federation.local_steps": 4}, SHORT, SOME, {**SPARSE, "federation.local_steps": 4}),
    ({"federation.num_negatives": 7}, SHORT, SOME, {**SPARSE, "federation.num_negatives": 7}),
    ({"federation.server_learning_rate": 0.3}, SHORT, SOME, {**SPARSE, "federation.server_learning_rate": 0.3}),
    ({"federation.server_epsilon": 0.3}, SHORT, SOME, {**SPARSE, "federation.server_epsilon": 0.3}),
    ({"federation.server_optimizer": "sgd"}, SHORT, SOME, {**STANDARD, "model.succession": 6.0}),
    ({"federation.server_optimizer": "sgd", "federation.recipe": "sparse"}, SHORT, SOME,
     {**SPARSE, "federation.server_learning_rate": None, "federation.server_epsilon": None}),
    ({"federation.local_optimizer": "adam"}, SHORT, SOME, {**STANDARD, "model.succession": 6.0}),
    ({"federation.local_algorithm": "scaffold"}, SHORT, SOME, {**STANDARD, "model.succession": 6.0}),
    ({"federation.loss": "bpr"}, SHORT, SOME, {**SPARSE, "federation.num_negatives": None}),
    ({"model.experts": "memory"}, SHORT, SOME, {**SPARSE, "federation.num_negatives": None}),
    ({"model.fusion": "backbone"}, SHORT, SOME, {**SPARSE, "model.succession": None, "model.gate_start": "auto"}),
    ({}, SHORT, 3, {"model.gate_start": "given"}),
    ({}, SHORT, 4, {"model.gate_start": "validation"}),
    ({"model.gating_init": 0.1}, SHORT, 4, {"model.gate_start": "given"}),
    ({"model.succession": 3.0}, LONG, FEW, {**STANDARD, "model.succession": 3.0}),
    ({"federation.spectral_sketch_size": 8}, SHORT, SOME, {"model.succession": 0.0}),
    ({"federation.spectral_start": False}, LONG, FEW, {"federation.count_sums": "dense"}),
    ({"federation.spectral_start": False}, LONG, 999, {"federation.count_sums": "auto", "model.succession": 0.0}),
    ({"federation.spectral_start": False}, SHORT, SOME, {"federation.count_sums": "grouped"}),
    ({"federation.spectral_start": False, "model.transition": True}, LONG, FEW,
     {"federation.count_sums": "dense", "federation.counts_received": "all"}),
    ({"federation.count_sums": "open"}, LONG, FEW, {"federation.count_sums": "open"}),
    ({"federation.mode": "centralized"}, SHORT, SOME,
     {"federation.recipe": "auto", "federation.local_steps": None, "federation.count_sums": "auto"}),
    ({"privacy.epsilon": 8.0}, SHORT, SOME, {"federation.recipe": "standard", "evaluation.every": 1}),
    ({"privacy.epsilon": 8.0}, SHORT, MANY, {"federation.recipe": "standard", "evaluation.every": 5}),
    ({"privacy.epsilon": 8.0, "evaluation.every": 2}, SHORT, MANY, {"evaluation.every": 2}),
)  # fmt: skip


def by_data(subject: Subject) -> Finding:
    """What stays open is chosen by the median history, the number of items and that of scores, on both sides of every
    edge; what is given stays; what was chosen is said, and nothing else is."""
    del subject
    offences = []
    for given, train, items, expected in CASES:
        before = ExperimentConfig().with_values(dict(given))
        after = settled(before, train, items)
        flat = after.flat()
        offences += [
            f"{dict(given)}, {items} items: {key} = {flat[key]}, not {value}"
            for key, value in expected.items()
            if flat[key] != value
        ]
        said = list(training_notes(before, after, items))
        chose = before.federation.recipe == "auto" and flat["federation.recipe"] == "sparse"
        seldom = before.evaluation.every is None and after.evaluation.every not in (None, 1)
        offences += [f"{dict(given)}, {items} items: {said}"] if len(said) != chose + seldom else []
        offences += [f"{said}"] if chose and "sparse recipe" not in said[0] else []
        offences += [f"{said}"] if seldom and f"every {after.evaluation.every}th" not in said[-1] else []
    # Attributes count by 30 beside no counts, by half of the counts' weight beside them.
    attributes = csr_matrix(np.ones((FEW + 1, 2)))
    without, beside = (settled(ExperimentConfig(), LONG, FEW, given).model.kinship for given in (None, attributes))
    offences += [f"attributes: {without}, {beside}"] if without is not None or not beside else []
    given_too = ExperimentConfig().with_values({"model.kinship": 0.5})
    offences += (
        ["a given weight of attributes"] if settled(given_too, LONG, FEW, attributes).model.kinship != 0.5 else []
    )
    # A louder start is taken where each of 200 questions or more gains, and not where all gain nothing on the whole.
    steady, even = np.ones(200), np.tile([1.0, -1.0], 100)
    for values, gate in (({3.0: steady}, 3.0), ({1.0: steady, 3.0: steady / 2}, 1.0), ({1.0: even}, 0.1),
                         ({1.0: even + 0.1}, 0.1), ({3.0: steady[1:]}, 0.1)):  # fmt: skip
        got, _ = choose_gate(0.1, partial(_met, values))
        offences += [f"start of the gate: {got}, not {gate}"] if got != gate else []
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(CASES)} settings")


def _met(values: Mapping[float, NDArray[np.float64]], gate: float) -> NDArray[np.float64]:
    """What a gate reaches on each question; nothing where ``values`` do not say."""
    return values.get(gate, np.zeros(min(len(own) for own in values.values())))


def private_defaults(subject: Subject) -> Finding:
    """A private run freezes what no noise can be afforded on, sends no row by its number, and keeps what was given."""
    del subject
    plain = ExperimentConfig()
    offences = [] if private_federation(plain.federation, plain, experts=True) is plain.federation else ["a plain run"]
    chain = ("clip", "noise")
    for given, experts, expected in (
        ({}, True, ("frozen", "frozen", 1000, chain, "all")),
        ({}, False, ("frozen", "trained", None, chain, "all")),
        ({"federation.backbone": "trained"}, True, ("frozen", "trained", None, chain, "all")),
        ({"federation.backbone": "frozen"}, False, ("frozen", "frozen", 1000, chain, "all")),
        ({"federation.item_table": "trained"}, True, ("trained", "frozen", 1000, chain, "all")),
        ({"federation.trained_size": 50}, True, ("frozen", "frozen", 50, chain, "all")),
        ({"federation.update_transforms": ("clip", "rotate", "noise")}, True,
         ("frozen", "frozen", 1000, ("clip", "rotate", "noise"), "all")),
    ):  # fmt: skip
        config = ExperimentConfig().with_values({"privacy.epsilon": 8.0, **given})
        own = private_federation(config.federation, config, experts=experts)
        found = (own.item_table, own.backbone, own.trained_size, tuple(own.update_transforms), own.item_rows)
        offences += [f"{given}, experts={experts}: {found}"] if found != expected else []
    return none_of(len(offences), "; ".join(offences[:2]) or "seven settings, and a run that is not private")


def warm(subject: Subject) -> Finding:
    """A warm start over a catalogue that has grown: rows go by ids wherever they now stand, new ones stay fresh, all
    else is what was trained; and another model is refused."""
    del subject
    from fedmm.data.datasets import load_dataset

    with little_config({}) as config:
        dataset = load_dataset(config.data)
    ids = np.array(["", "b", "new", "a", "d", "c"])
    histories = Ragged.from_rows([[1, 2], [3, 4, 5]])
    events = replace(dataset.interactions, item_ids=ids, histories=histories, timestamps=np.zeros(5))
    grown = replace(dataset, interactions=replace(events, user_ids=np.array(["u", "v"])))
    table, own = "backbone.item_embedding", {"norm": torch.tensor([5.0, 6.0])}
    old = torch.arange(10.0).view(5, 2)
    start = WarmStart(grown, {table: old, **own}, np.array(["", "a", "b", "c", "gone"]))
    fresh = {table: torch.full((6, 2), -1.0), "norm": torch.zeros(2)}
    found = start.begin(fresh)
    expected = torch.stack([old[0], old[2], fresh[table][2], old[1], fresh[table][4], old[3]])
    offences = [] if torch.equal(found[table], expected) else [f"rows {found[table].tolist()}"]
    offences += [] if torch.equal(found["norm"], own["norm"]) else ["what is no row"]
    offences += [] if set(found) == set(fresh) else [f"parameters {set(found)}"]
    for name, value in ((table, torch.zeros(6, 3)), ("norm", torch.zeros(3)), ("other", torch.zeros(2))):
        try:
            start.begin({**fresh, name: value})
            offences.append(f"{name} of another shape is taken")
        except CheckpointError:
            pass
    return none_of(len(offences), "; ".join(offences[:2]) or "three items kept, two new, one gone")


CHECKS: Sequence[Check] = (
    Check("federation", "what the data's shape decides is as documented, and said", by_data),
    Check("federation", "a private run leaves out what it cannot afford", private_defaults),
    Check("federation", "a warm start goes by ids", warm),
)
