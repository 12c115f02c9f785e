"""The contract kit: what ships passes it, and parts that are wrong in one way fail with that law."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import fedmm.testing as kit
from fedmm.evaluation.metrics import METRICS
from fedmm.federation.aggregation import AGGREGATIONS, weighted_mean
from fedmm.federation.cohorts import COHORT_SAMPLERS
from fedmm.federation.optimizers import LOCAL_OPTIMIZERS
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS, median
from fedmm.federation.schedules import SCHEDULES
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS
from fedmm.federation.transforms import UPDATE_TRANSFORMS
from fedmm.models.blocks import BLOCKS
from fedmm.models.experts import EXPERTS, Expert
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.fusion import FUSIONS, Fusion, Mixture
from fedmm.models.losses.registry import LOSSES
from fedmm.models.positions import POSITION_ENCODINGS, PositionEncoding
from fedmm.utils.registry import Registry
from worlds.encoder_world import letters, mean_colour

FLOATS = Registry("update_transform", {name: UPDATE_TRANSFORMS[name] for name in ("clip", "rotate", "round", "noise")})
OF_THE_CATALOGUE = [name for name in EXPERTS.built_in if not EXPERTS[name].per_modality]
BATTERIES: list[tuple[Callable[..., None], Registry[Any], dict[str, Any]]] = [
    (kit.check_aggregation, AGGREGATIONS, {"mean": True}),
    (kit.check_aggregation, ROBUST_AGGREGATIONS, {"mean": True, "single_updates": True}),
    (kit.check_server_optimizer, SERVER_OPTIMIZERS, {}),
    (kit.check_local_optimizer, LOCAL_OPTIMIZERS, {}),
    (kit.check_schedule, SCHEDULES, {"falling": True}),
    (kit.check_cohort_sampler, COHORT_SAMPLERS, {}),
    (kit.check_update_transform, FLOATS, {}),
    (kit.check_update_transform, Registry("update_transform", {"mask": UPDATE_TRANSFORMS["mask"]}), {"integers": True}),
    (kit.check_metric, METRICS, {}),
    (kit.check_block, BLOCKS, {}),
    (kit.check_position_encoding, POSITION_ENCODINGS, {}),
    (kit.check_fusion, FUSIONS, {}),
    (kit.check_expert, EXPERTS, {}),
    (kit.check_loss, LOSSES, {}),
]
ENCODERS = {
    "mean colour": (mean_colour, "images"),
    "letters": (letters, "texts"),
    "lengths": (lambda texts: np.array([[float(len(one))] for one in texts]), "texts"),
}
SHIPPED = [(check, part, options, f"{registry.kind}-{name}") for check, registry, options in BATTERIES
           for name, part in registry.built_in.items() if name not in OF_THE_CATALOGUE]  # fmt: skip


@pytest.mark.parametrize(("check", "part", "options"), [entry[:3] for entry in SHIPPED], ids=[e[3] for e in SHIPPED])
def test_what_ships_passes(check: Callable[..., None], part: Any, options: dict[str, Any]) -> None:
    check(part, **options)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_that_are_right_pass(name: str) -> None:
    kit.check_encoder(*ENCODERS[name])


def test_it_needs_no_test_framework() -> None:
    code = "import sys, fedmm.testing; sys.exit(bool({'pytest', 'hypothesis'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def painted(pictures: Any) -> Any:
    for one in pictures:
        one.putpixel((0, 0), (1, 2, 3))
    return mean_colour(pictures)


def first_client(blocks: Any, train: Any, num_items: int, config: Any) -> Any:
    return {name: value[0] for name, value in blocks[0].deltas.items()}


def greedy(total: Any, config: Any) -> Any:
    for value in total.deltas.values():
        value.div_(total.weight)
    return total.deltas


def leaky_state(value: Any, gradient: Any, key: str, state: Any, config: Any) -> Any:
    state[f"kept/{key}"] = gradient
    return value - gradient, {}


def neighbours_state(value: Any, gradient: Any, key: str, state: Any, config: Any) -> Any:
    level = sum((own.abs().sum() for own in state.values()), torch.zeros(()).double())
    return value - gradient * (1 + level), {f"kept/{key}": gradient.clone()}


def shared_norm(params: Any, config: Any) -> Any:
    def update(value: Any, gradient: Any, key: str, num_active: int, step: int) -> None:
        value.sub_(gradient / gradient.norm())

    return update


class Sees(Expert):
    """Sees the whole window, what comes later too."""

    def init(self, generator: torch.Generator) -> Any:
        return {f"{self.name}.scale": torch.ones((), dtype=torch.float64)}

    def term(self, params: Any, asked: Any) -> Any:
        table = asked.tables[self.name]
        pool = table.at(asked.items).values.mean(2, keepdim=True).expand(-1, -1, asked.items.shape[2], -1)
        rows = pool.flatten(1, 2)
        return params[f"{self.name}.scale"].view(-1, 1, 1) * rows, table.values


class Loud(NeighborExpert):
    """Speaks of items that lack its modality."""

    def constants(self, items: Any, rows: Any, candidates: Any, histories: Any) -> Any:
        return super().constants(items, rows, candidates, histories) + 1.0  # type: ignore[operator]

    def present(self, *given: Any) -> Any:
        return torch.ones_like(super().present(*given))


SASREC = BLOCKS["sasrec"]
WRONG: list[tuple[str, Callable[[], None], str]] = [
    ("aggregation that reads the order", lambda: kit.check_aggregation(first_client, single_updates=True), "order"),
    ("aggregation that adds a parameter",
     lambda: kit.check_aggregation(lambda t, c: {**t.deltas, "x": t.weight}), "other parameters"),
    ("aggregation that is no mean", lambda: kit.check_aggregation(lambda t, c: dict(t.deltas), mean=True), "identical"),
    ("aggregation that is not finite",
     lambda: kit.check_aggregation(lambda t, c: {k: v / 0 for k, v in t.deltas.items()}), "not finite"),
    ("aggregation that shifts", lambda: kit.check_aggregation(
        lambda t, c: {k: v + 1 for k, v in weighted_mean(t, c).items()}, mean=True), "identical"),
    ("aggregation of low precision",
     lambda: kit.check_aggregation(lambda t, c: {k: v.float() for k, v in t.deltas.items()}), "precision"),
    ("median of floats", lambda: kit.check_aggregation(
        lambda b, t, n, c: {k: v * b[0].deltas[k].flatten()[0] for k, v in median(b, t, n, c).items()},
        single_updates=True), "order"),
    ("optimizer that climbs", lambda: kit.check_server_optimizer(lambda v, g, k, s, c: (v + g, {})), "against"),
    ("optimizer that drifts",
     lambda: kit.check_server_optimizer(lambda v, g, k, s, c: (v - g - 1, {})), "nothing pushes"),
    ("optimizer that writes into its state", lambda: kit.check_server_optimizer(leaky_state), "changes its arguments"),
    ("optimizer with a nameless state",
     lambda: kit.check_server_optimizer(lambda v, g, k, s, c: (v - g, {"m": g})), "no tensor named"),
    ("optimizer that reads others", lambda: kit.check_server_optimizer(neighbours_state), "state of another"),
    ("local optimizer that mixes clients", lambda: kit.check_local_optimizer(shared_norm), "beside it"),
    ("schedule that ends early", lambda: kit.check_schedule(lambda p: 0.5 - p), "0 or below"),
    ("schedule that rises", lambda: kit.check_schedule(lambda p: 1.0 + p, falling=True), "rises"),
    ("sampler that repeats", lambda: kit.check_cohort_sampler(lambda c, n, s, r: np.repeat(c[:1], n)), "twice"),
    ("sampler that invents", lambda: kit.check_cohort_sampler(lambda c, n, s, r: np.arange(n)), "no client"),
    ("sampler that is too small", lambda: kit.check_cohort_sampler(lambda c, n, s, r: c[: n // 2]), "size"),
    ("sampler of chance", lambda: kit.check_cohort_sampler(
        lambda c, n, s, r: np.random.default_rng().permutation(c)[:n]), "two cohorts"),
    ("metric that rewards the bottom", lambda: kit.check_metric(lambda p: np.minimum(1.0, 0.5 + p / 200)), "top"),
    ("metric that rises", lambda: kit.check_metric(lambda p: np.where(p == 1, 0.0, 1.0)), "worse place"),
    ("metric of its batch",
     lambda: kit.check_metric(lambda p: 1.0 / (1.0 + np.argsort(np.argsort(p)))), "other places"),
    ("block that sees the future", lambda: kit.check_block(
        replace(SASREC, apply=lambda p, n, x, c, d: SASREC.apply(p, n, x, c, d) + x.mean(2, keepdim=True))), "after a"),
    ("block of all clients", lambda: kit.check_block(
        replace(SASREC, apply=lambda p, n, x, c, d: SASREC.apply(p, n, x, c, d) + x.mean(0))), "mixes clients"),
    ("block of all windows", lambda: kit.check_block(
        replace(SASREC, apply=lambda p, n, x, c, d: SASREC.apply(p, n, x, c, d) + x[:, :1])), "mixes windows"),
    ("block with an idle parameter", lambda: kit.check_block(
        replace(SASREC, init=lambda c, n: {**SASREC.init(c, n), "idle": torch.ones(3).double()})), "idle does not"),
    ("block that halves gradients", lambda: kit.check_block(replace(
        SASREC, apply=lambda p, n, x, c, d: SASREC.apply(p, n, (x + x.detach()) / 2, c, d))), "finite differences"),
    ("block that drops out often", lambda: kit.check_block(
        replace(SASREC, apply=lambda p, n, x, c, d: SASREC.apply(p, n, d(x), c, d))), "more than twice"),
    ("positions that say nothing", lambda: kit.check_position_encoding(
        PositionEncoding(lambda c, n: {}, lambda p, x: x, lambda heads: heads)), "does not tell orders apart"),
    ("positions from the end", lambda: kit.check_position_encoding(PositionEncoding(
        lambda c, n: {}, lambda p, x: x + torch.arange(x.shape[2]).flip(0)[:, None], lambda heads: heads)), "padding"),
    ("fusion that hears the absent", lambda: kit.check_fusion(
        Fusion(False, lambda c: {}, lambda p, w: Mixture(None, tuple(own + 1 for own in w.unbind(-1))))), "lacks"),
    ("fusion that silences", lambda: kit.check_fusion(replace(
        FUSIONS["competitive"], mix=lambda p, w: Mixture(0 * w[..., 0], tuple(w[..., 1:].unbind(-1))))), "silenced"),
    ("fusion with an idle parameter", lambda: kit.check_fusion(replace(
        FUSIONS["residual"], init=lambda c: {**FUSIONS["residual"].init(c), "fusion.idle": torch.ones(())})), "idle"),
    ("expert that sees the future", lambda: kit.check_expert(Sees), "after its position"),
    ("expert that speaks of the absent", lambda: kit.check_expert(Loud), "speaks of padding"),
    ("loss that forgets the mask", lambda: kit.check_loss(
        lambda s, t: cross_entropy(s.nan_to_num(neginf=0.0), t, reduction="none")), "differ|say|finite"),
    ("encoder by chance", lambda: kit.check_encoder(
        lambda texts: np.random.default_rng().normal(size=(len(texts), 3)), "texts"), "equal calls"),
    ("encoder of its batch", lambda: kit.check_encoder(
        lambda pictures: mean_colour(pictures) - mean_colour(pictures).mean(0), "images"), "beside it"),
    ("encoder of the order", lambda: kit.check_encoder(
        lambda texts: letters(texts) + np.arange(len(texts))[:, None], "texts"), "beside it|order"),
    ("encoder that paints", lambda: kit.check_encoder(painted, "images"), "changes what it reads"),
    ("encoder of one vector", lambda: kit.check_encoder(lambda texts: np.ones((len(texts), 3)), "texts"), "same vec"),
    ("loss of the whole client", lambda: kit.check_loss(
        lambda s, t: cross_entropy(s, t, reduction="none").detach() + 0 * s[:, 1]), "gradients"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "law"), [entry[1:] for entry in WRONG], ids=[entry[0] for entry in WRONG])
def test_a_wrong_part_is_found(check: Callable[[], None], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check()
