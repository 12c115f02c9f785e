"""Faults of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import scipy.sparse as sparse
import torch

from fedmm.models import blocks, fusion, recommender, router, sasrec, scores, surprise
from fedmm.models import features as model_features
from fedmm.models.experts import memory, memory_reading, memory_scoring, neighbors, pooled
from worlds.planting import Fault, edited, everywhere


def causal_mask_off_by_one(patch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, *, is_causal: bool) -> Any:
        assert is_causal
        L = query.shape[-2]
        return plain(query, key, value, attn_mask=torch.ones(L, L, dtype=torch.bool).tril(1))

    patch.setattr(blocks.F, "scaled_dot_product_attention", attend)


def memory_of_the_future(patch: pytest.MonkeyPatch) -> None:
    select = memory.select_entries

    def late(items: Any, rows: Any, *rest: Any) -> Any:
        last = items.shape[2] - 1
        return select(items, torch.where(rows % items.shape[2] < last, rows + 1, rows), *rest)

    patch.setattr(memory, "select_entries", late)


def neighbors_of_the_future(patch: pytest.MonkeyPatch) -> None:
    near = neighbors.neighbor_scores

    def late(table: Any, items: Any, rows: Any, candidates: Any) -> Any:
        last = items.shape[2] - 1
        return near(table, items, torch.where(rows % items.shape[2] < last, rows + 1, rows), candidates)

    patch.setattr(neighbors, "neighbor_scores", late)


def an_item_is_its_own_neighbor(patch: pytest.MonkeyPatch) -> None:
    nearest = neighbors._nearest
    patch.setattr(neighbors, "_nearest", lambda *given: nearest(*given) + sparse.eye(given[3]))


def neighbors_of_one_history_alone(patch: pytest.MonkeyPatch) -> None:
    near = neighbors.neighbor_scores

    def first(table: Any, items: Any, rows: Any, candidates: Any) -> Any:
        return near(table, items[:, :1].expand_as(items), rows, candidates)

    patch.setattr(neighbors, "neighbor_scores", first)


def memory_with_the_target(patch: pytest.MonkeyPatch) -> None:
    read = memory.read

    def blind(params: Any, name: Any, entries: Any, inputs: Any, items: Any, heads: Any) -> Any:
        return read(params, name, entries, inputs, torch.full_like(items, -2), heads)

    patch.setattr(memory, "read", blind)


def scores_by_memory_with_the_target(patch: pytest.MonkeyPatch) -> None:
    exponentials = memory_scoring.Scored._exponentials

    def blind(scored: Any, logits: Any, columns: Any) -> Any:
        nobody = torch.full((1, scored.inputs.shape[-2]), -2)
        return exponentials(replace(scored, candidates=nobody), logits, columns)

    patch.setattr(memory_scoring.Scored, "_exponentials", blind)


def scores_of_an_empty_memory(patch: pytest.MonkeyPatch) -> None:
    scores = memory_scoring._scores

    def everything(places: Any, weights: Any, heard: Any, values: Any, constant: Any) -> Any:
        return scores(places, weights + 1e-30, heard, values, constant)

    patch.setattr(memory_scoring, "_scores", everything)


def memory_forgets_surprise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        surprise, "surprise_of_history", lambda taken, num_items: torch.nn.functional.pad(taken * 0.0, (1, 0))
    )


def norm_of_an_empty_memory(patch: pytest.MonkeyPatch) -> None:
    normalise = memory_reading._normalised

    def everything(*given: Any) -> Any:
        found = normalise(*given)
        return replace(found, anything=torch.ones_like(found.anything))

    patch.setattr(memory_reading, "_normalised", everything)


def norm_of_an_empty_pool(patch: pytest.MonkeyPatch) -> None:
    queries = pooled.pooled_queries

    def with_bias(params: Any, name: str, table: Any, items: Any, rows: Any) -> Any:
        found = queries(params, name, table, items, rows)
        bias = params[f"{name}.norm.bias"].unsqueeze(1) @ params[f"{name}.projection.weight"]
        return found + bias * (found == 0).all(-1, keepdim=True)

    patch.setattr(pooled, "pooled_queries", with_bias)


def pooling_reads_absent_rows(patch: pytest.MonkeyPatch) -> None:
    build = recommender.FeatureTable.build

    def unmasked(found: Any, dtype: Any, device: Any) -> Any:
        table = build(found, dtype, device)
        return replace(table, values=torch.from_numpy(found.values).to(dtype))

    patch.setattr(recommender.FeatureTable, "build", staticmethod(unmasked))


def router_weighs_the_absent(patch: pytest.MonkeyPatch) -> None:
    route = router.route
    everywhere(patch, route, lambda params, inputs, present: route(params, inputs, torch.ones_like(present)))


def swapped_expert_weights(patch: pytest.MonkeyPatch) -> None:
    mix = fusion.FUSIONS["residual"].mix
    swapped = replace(fusion.FUSIONS["residual"], mix=lambda params, weights: mix(params, weights.flip(-1)))
    patch.setitem(fusion.FUSIONS.built_in, "residual", swapped)


def residual_lets_the_router_scale_the_backbone(patch: pytest.MonkeyPatch) -> None:
    mix = fusion.FUSIONS["residual"].mix

    def scaled(params: Any, weights: Any) -> Any:
        found = mix(params, weights)
        return replace(found, backbone=1.0 - 0.5 * weights[..., 0])

    patch.setitem(fusion.FUSIONS.built_in, "residual", replace(fusion.FUSIONS["residual"], mix=scaled))


def gate_ignores_its_setting(patch: pytest.MonkeyPatch) -> None:
    fixed = replace(fusion.FUSIONS["residual"], init=lambda config: {fusion.GATE: torch.tensor(0.3).double()})
    patch.setitem(fusion.FUSIONS.built_in, "residual", fixed)


def dead_gate(patch: pytest.MonkeyPatch) -> None:
    mix = fusion.FUSIONS["residual"].mix

    def detached(params: Any, weights: Any) -> Any:
        return mix({**params, fusion.GATE: params[fusion.GATE].detach()}, weights)

    patch.setitem(fusion.FUSIONS.built_in, "residual", replace(fusion.FUSIONS["residual"], mix=detached))


def load_balance_of_one_too_many(patch: pytest.MonkeyPatch) -> None:
    balance = router.load_balance_loss

    def wrong(weights: Any, mask: Any) -> Any:
        return balance(torch.cat([weights, torch.zeros_like(weights[..., :1])], dim=-1), mask)

    everywhere(patch, balance, wrong)


def positions_count_from_the_end(patch: pytest.MonkeyPatch) -> None:
    encode = sasrec.encode

    def reversed_positions(params: Any, items: Any, *rest: Any) -> Any:
        table = params["backbone.position_embedding"]
        L = items.shape[2]
        flipped = torch.cat([table[:, :L].flip(1), table[:, L:]], dim=1)
        return encode({**params, "backbone.position_embedding": flipped}, items, *rest)

    patch.setattr(sasrec, "encode", reversed_positions)


def scores_lose_a_column(patch: pytest.MonkeyPatch) -> None:
    materialise = scores.Scores.materialise
    patch.setattr(scores.Scores, "materialise", lambda self: materialise(self)[..., :-1])


def router_twice_as_sharp(patch: pytest.MonkeyPatch) -> None:
    project = router._project
    patch.setattr(router, "_project", lambda inputs, weight: 2 * project(inputs, weight))


def router_does_not_renormalise(patch: pytest.MonkeyPatch) -> None:
    route = router.route

    def masked_only(params: Any, inputs: Any, present: Any) -> Any:
        return route(params, inputs, torch.ones_like(present)) * present

    everywhere(patch, route, masked_only)


def decay_cannot_learn(patch: pytest.MonkeyPatch) -> None:
    matrix = pooled.decay_matrix
    patch.setattr(pooled, "decay_matrix", lambda logit, length: matrix(logit.detach(), length))


def gate_never_quite_closed(patch: pytest.MonkeyPatch) -> None:
    mix = fusion.FUSIONS["residual"].mix

    def ajar(params: Any, weights: Any) -> Any:
        return mix({**params, fusion.GATE: params[fusion.GATE] + 1e-3}, weights)

    patch.setitem(fusion.FUSIONS.built_in, "residual", replace(fusion.FUSIONS["residual"], mix=ajar))


def load_balance_always_zero(patch: pytest.MonkeyPatch) -> None:
    everywhere(patch, router.load_balance_loss, lambda weights, mask: weights.sum((1, 2)) * 0.0)


def competitive_keeps_half_the_backbone(patch: pytest.MonkeyPatch) -> None:
    mix = fusion.FUSIONS["competitive"].mix

    def half(params: Any, weights: Any) -> Any:
        found = mix(params, weights)
        return replace(found, backbone=0.5 + 0.5 * found.backbone)

    patch.setitem(fusion.FUSIONS.built_in, "competitive", replace(fusion.FUSIONS["competitive"], mix=half))


def attention_to_itself_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks.F, "scaled_dot_product_attention", lambda query, key, value, is_causal: value)


def windows_know_their_number(patch: pytest.MonkeyPatch) -> None:
    encode = sasrec.encode

    def numbered(params: Any, items: Any, *rest: Any) -> Any:
        states = encode(params, items, *rest)
        C, B = items.shape[:2]
        return states * (1 + 0.1 * torch.arange(C * B, dtype=states.dtype).view(C, B, 1, 1)) + 0.01 * B

    patch.setattr(sasrec, "encode", numbered)


def candidates_meet_others_features(patch: pytest.MonkeyPatch) -> None:
    def crossed(table: Any, wanted: Any) -> Any:
        return table if wanted is None else table[wanted.flip(-1)]

    everywhere(patch, model_features.rows_of, crossed)


def memory_without_content(patch: pytest.MonkeyPatch) -> None:
    normalise = memory_reading._normalised

    def empty(params: Any, name: str, entries: Any, basis: Any, weights: Any) -> Any:
        return normalise(params, name, entries, basis * 0.0, weights)

    patch.setattr(memory_reading, "_normalised", empty)


def gate_without_features(patch: pytest.MonkeyPatch) -> None:
    init = recommender.Recommender.init

    def with_gate(self: Any, *rest: Any) -> Any:
        return {**init(self, *rest), fusion.GATE: torch.tensor(self.config.gating_init).double()}

    patch.setattr(recommender.Recommender, "init", with_gate)


gates_read_the_norm = edited("fedmm.models.blocks:_ligr", '.feedforward_gate", x)', '.feedforward_gate", normed)')
rotary_turns_by_the_square = edited(
    "fedmm.models.positions:rotate", "place.unsqueeze(1)", "place.square().unsqueeze(1)"
)


CAUSAL = "causality, evaluation: no later item moves an earlier score"
TRAINING = "causality, training: no later item moves an earlier score"
PREFIX = "all positions at once equal one pass a prefix"
NAIVE = "factorised scores equal the naive ones"
ROUTER = "router: one weight per present expert, summing to 1"
CANDIDATES = "candidates are scored alike alone and in the catalogue"
PERMUTED = "permuting a batch permutes its scores"
EVALUATED = "scores are the same where nothing is differentiated"
SELF = "memory: an item never attends to itself"
ABSENT = tuple(
    f"absent {name}: {claim}" for name in ("visual", "text", "both") for claim in ("no effect", "no gradient")
)
RENORMALISED = tuple(f"absent {name}: weights renormalised" for name in ("visual", "text", "both"))
SCALES = "parameters begin at their scales"
NOTHING_LEFT = "all modalities absent: the backbone bit for bit"
EMPTY = "empty memory: no effect"
UNTOUCHED = "residual: no router can touch the backbone"
FAULTS = (
    Fault("causal mask off by one", (CAUSAL, TRAINING, PREFIX), causal_mask_off_by_one),
    Fault("attention to itself alone", ("an earlier item does move a later score",), attention_to_itself_alone),
    Fault("memory of the future", (CAUSAL,), memory_of_the_future),
    Fault("neighbours of the future", (CAUSAL, TRAINING, NAIVE), neighbors_of_the_future),
    Fault("an item is its own neighbour", (NAIVE,), an_item_is_its_own_neighbor),
    Fault("neighbours of one window alone", (PERMUTED,), neighbors_of_one_history_alone),
    Fault("memory with the target", (SELF,), memory_with_the_target),
    Fault("scores by memory with the target", (EVALUATED,), scores_by_memory_with_the_target),
    Fault("scores of an empty memory", (EVALUATED,), scores_of_an_empty_memory),
    Fault("memory forgets surprise", (NAIVE,), memory_forgets_surprise),
    Fault("memory without content", ("memory: what is remembered does move scores",), memory_without_content),
    Fault("norm of an empty memory", (EMPTY,), norm_of_an_empty_memory),
    Fault("norm of an empty pool", (EMPTY,), norm_of_an_empty_pool),
    Fault("absent rows are read", ABSENT, pooling_reads_absent_rows),
    Fault("router weighs the absent", RENORMALISED, router_weighs_the_absent),
    Fault("router does not renormalise", (ROUTER, NOTHING_LEFT), router_does_not_renormalise),
    Fault("router twice as sharp", (ROUTER,), router_twice_as_sharp),
    Fault("swapped expert weights", (NAIVE,), swapped_expert_weights),
    Fault("router scales the backbone", (UNTOUCHED,), residual_lets_the_router_scale_the_backbone),
    Fault(
        "competitive keeps half the backbone",
        ("competitive: a router can silence the backbone",),
        competitive_keeps_half_the_backbone,
    ),
    Fault("gate ignores its setting", ("the gate is one scalar that starts at gating_init",), gate_ignores_its_setting),
    Fault("dead gate", ("the gate receives a finite non-zero gradient",), dead_gate),
    Fault(
        "gate never quite closed",
        ("at g = 0 the gate alone learns beside the backbone", "g = 0 is the backbone bit for bit"),
        gate_never_quite_closed,
    ),
    Fault("gate without features", ("no features: the backbone and nothing else",), gate_without_features),
    Fault("decay cannot learn", ("every parameter receives a gradient",), decay_cannot_learn),
    Fault("load balance of one too many", ("load balance is zero at equal use",), load_balance_of_one_too_many),
    Fault("load balance always zero", ("load balance grows with unequal use",), load_balance_always_zero),
    Fault("scores lose a column", ("outputs have the shapes promised",), scores_lose_a_column),
    Fault("positions count from the end", ("padding has no effect", PREFIX), positions_count_from_the_end),
    Fault("windows know their number", (PERMUTED,), windows_know_their_number),
    Fault("candidates meet others' features", (CANDIDATES,), candidates_meet_others_features),
    Fault("LiGR's gates stand open", (NAIVE,), edited("fedmm.models.blocks:_gate", "torch.sigmoid(", "1.0 + 0.0 * (")),
    Fault("LiGR's gates read the norm", (NAIVE,), gates_read_the_norm),
    Fault("LiGR's part is a plain ReLU", (NAIVE,), edited("fedmm.models.blocks:_ligr", "F.silu", "F.relu")),
    Fault(
        "LiGR begins as loud as SASRec", (SCALES,), edited("fedmm.models.blocks:_ligr_init", "SHARE / OPEN", "SHARE")
    ),
    Fault("rotary positions turn by the square", (NAIVE,), rotary_turns_by_the_square),
    Fault(
        "rotary pairs of one speed", (NAIVE,), edited("fedmm.models.positions:rotate", "-2.0 * pairs", "-1.0 * pairs")
    ),
)
