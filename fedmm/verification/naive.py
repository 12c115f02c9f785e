"""The model once more, written as its definition reads: one position, one head, one candidate at a time.

It shares no code with ``fedmm.models`` and forms everything the fast path avoids. Slow on purpose: it is the oracle.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.experts import EXPERTS
from fedmm.models.experts.hybrid import HybridExpert
from fedmm.models.experts.memory import MemoryExpert
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.experts.pooled import PooledExpert
from fedmm.models.experts.transition import TransitionExpert, TransitionTable
from fedmm.models.recommender import Recommender

EPSILON = 1e-6
HALF_LIFE = 10.0
LOWEST_SQUARE = 1e-12
NEIGHBOR_SCALE = 16.0


def naive_scores(
    recommender: Recommender, params: Mapping[str, Tensor], history: Sequence[int], candidates: Sequence[int]
) -> Tensor:
    """Scores [L, N] of ``candidates`` after each prefix of ``history``, by the configured fusion and scoring."""
    states = naive_states(params, history, recommender.config)
    rows = []
    for position in range(len(history)):
        scores = [_score(recommender, params, history[: position + 1], states, t) for t in candidates]
        rows.append(torch.stack(scores))
    return torch.stack(rows)


def naive_states(params: Mapping[str, Tensor], history: Sequence[int], config: ModelConfig) -> Tensor:
    """The backbone's states [L, D] before the last norm: SASRec's blocks (Kang & McAuley, 2018; pre-norm, no key bias)
    or LiGR's, whose parts pass gates that read what comes in (Borisyuk et al., 2025)."""
    table = params["backbone.item_embedding"]
    x = torch.stack([table[item] * math.sqrt(config.hidden_dim) for item in history])
    if config.positions == "learned":
        x = x + params["backbone.position_embedding"][: len(history)]
    for block in range(config.num_blocks):
        name = f"backbone.block{block}"
        said = _attention(_norm(x, params, f"{name}.attention_norm"), params, name, config)
        x = x + said * _gate(x, params, f"{name}.attention_gate", config)
        said = _feedforward(_norm(x, params, f"{name}.feedforward_norm"), params, name, config)
        x = x + said * _gate(x, params, f"{name}.feedforward_gate", config)
    return x


def naive_router_weights(recommender: Recommender, params: Mapping[str, Tensor], t: int) -> dict[str, float]:
    """The router's weight of the backbone ("backbone", competitive fusion alone) and of each modality for one item."""
    names = list(recommender.tables)
    inputs: Tensor | None
    if EXPERTS[recommender.config.experts].routes_by_items:
        inputs = params["backbone.item_embedding"][t]
    else:
        parts = [recommender.tables[name].values[t] for name in names]
        width = sum(len(part) for part in parts)
        inputs = torch.cat(parts) / math.sqrt(width) if parts else None
    logits = params["router.bias"] if inputs is None else params["router.weight"] @ inputs + params["router.bias"]
    outputs = [*(["backbone"] if recommender.config.fusion == "competitive" else []), *recommender.experts]
    present = {"backbone": True} | {name: bool(recommender.tables[name].present[t]) for name in names}
    for name, table in _counted(recommender).items():
        present[name] = bool(table.counts[:, [t]].sum() > 0)
    masses = {
        name: math.exp(float(logit)) if present[name] else 0.0 for name, logit in zip(outputs, logits, strict=True)
    }
    total = sum(masses.values())
    return {name: mass / total if total else 0.0 for name, mass in masses.items()}


def _score(
    recommender: Recommender, params: Mapping[str, Tensor], prefix: Sequence[int], states: Tensor, t: int
) -> Tensor:
    config, item = recommender.config, params["backbone.item_embedding"][t]
    backbone = _norm(states[len(prefix) - 1], params, "backbone.norm")
    weights = naive_router_weights(recommender, params, t) if recommender.experts else {}
    share = weights.get("backbone", 1.0)
    gate = params["fusion.gate"] if recommender.has_gate else 1.0
    counted = torch.zeros_like(item[0])
    for name, table in _counted(recommender).items():
        counted = counted + gate * weights[name] * _transition_score(table, prefix, t)
    if recommender.experts and recommender.factorises:
        total = share * (backbone @ item) + counted
        for name, part in recommender.parts.items():
            if isinstance(part, PooledExpert | HybridExpert):
                total = total + gate * weights[name] * _pooled_score(recommender, params, name, prefix, t)
            if isinstance(part, NeighborExpert | HybridExpert):
                total = total + gate * weights[name] * _neighbor_score(recommender, name, prefix, t)
        return total
    final = share * backbone
    for name, part in recommender.parts.items():
        if isinstance(part, MemoryExpert):
            final = final + gate * weights[name] * _memory_vector(recommender, params, name, prefix, states, t)
    return _similarity(final, item, config) + counted


def _counted(recommender: Recommender) -> dict[str, TransitionTable]:
    return {name: part.counted for name, part in recommender.parts.items() if isinstance(part, TransitionExpert)}


def _transition_score(table: TransitionTable, prefix: Sequence[int], t: int) -> float:
    """2 ln(1 + sum_o 0.8^o C[h_(last-o), t] / sqrt(n_t) / A_0) over the last ten items; 0 for an item never counted."""
    total = float(table.counts[:, [t]].sum())
    found = sum(0.8**age * float(table.counts[item, t]) for age, item in enumerate(list(prefix)[::-1][:10]))
    return 2.0 * math.log1p(found / math.sqrt(total) / table.softening) if total > 0 else 0.0


def _neighbor_score(recommender: Recommender, name: str, prefix: Sequence[int], t: int) -> float:
    """16 sum_j d^(l-j) A[h_j, t]; A[i, t] = (K[i, t] + K[t, i]) / 2 over the roots of i's and t's sums of the same."""
    near, sums = _neighbors(recommender, name)
    total = 0.0
    for j, item in enumerate(prefix):
        both = (near[item].get(t, 0.0) + near[t].get(item, 0.0)) / 2
        if both:
            age = len(prefix) - 1 - j
            total += recommender.config.neighbors.decay**age * both / math.sqrt(sums[item] * sums[t])
    return NEIGHBOR_SCALE * total


@functools.lru_cache(maxsize=4)
def _neighbors(recommender: Recommender, name: str) -> tuple[list[dict[int, float]], list[float]]:
    """K's rows, {neighbour: max(cosine, 0)^p} of each item's nearest others, and each item's sum of (K + K') / 2."""
    table, own = recommender.tables[name], recommender.config.neighbors
    held = [item for item in range(len(table.values)) if table.present[item]]
    vectors = table.values[held]
    lengths = (vectors**2).sum(1).sqrt().clamp(min=LOWEST_SQUARE)
    near: list[dict[int, float]] = [{} for _ in table.values]
    for place, item in enumerate(held):
        cosines = vectors @ vectors[place] / (lengths * lengths[place])
        cosines[place] = -2.0  # an item is no neighbour of itself
        for other in cosines.argsort(descending=True)[: min(own.count, len(held) - 1)].tolist():
            near[item][held[other]] = max(float(cosines[other]), 0.0) ** own.sharpness
    sums = [sum(row.values()) / 2 for row in near]
    for row in near:
        for other, weight in row.items():
            sums[other] += weight / 2
    return near, sums


def _similarity(final: Tensor, item: Tensor, config: ModelConfig) -> Tensor:
    if config.scoring == "dot":
        return final @ item
    lengths = (final @ final).clamp(min=LOWEST_SQUARE).sqrt() * (item @ item).clamp(min=LOWEST_SQUARE).sqrt()
    return math.sqrt(config.hidden_dim) * (final @ item) / lengths


def _pooled_score(
    recommender: Recommender, params: Mapping[str, Tensor], name: str, prefix: Sequence[int], t: int
) -> Tensor:
    """<LN(W pool), W f_t> / sqrt(P); 0 where nothing in the prefix, or not the candidate, has the modality."""
    table, weight = recommender.tables[name], params[f"{name}.projection.weight"]
    decay = torch.sigmoid(params[f"{name}.decay_logit"])
    held = [
        (decay ** (len(prefix) - 1 - j), table.values[item]) for j, item in enumerate(prefix) if table.present[item]
    ]
    if not held or not table.present[t]:
        return torch.zeros((), dtype=weight.dtype)
    pool = sum(w * f for w, f in held) / sum(w for w, _ in held)
    return _norm(weight @ pool, params, f"{name}.norm") @ (weight @ table.values[t]) / math.sqrt(len(weight))


def _memory_vector(
    recommender: Recommender, params: Mapping[str, Tensor], name: str, prefix: Sequence[int], states: Tensor, t: int
) -> Tensor:
    """LN of the attention of candidate ``t`` over the entries kept and the prototypes with any member; 0 where there is
    none to attend to."""
    config, table = recommender.config, recommender.tables[name]
    D, heads = config.hidden_dim, config.memory.num_heads
    kept = [item for item in _kept_entries(recommender, params, name, prefix, states) if item != t]
    entries = [table.values[item] for item in kept]
    if config.memory.num_prototypes:
        counted = zip(params[f"{name}.prototypes"], params[f"{name}.prototype_counts"], strict=True)
        entries += [centre for centre, count in counted if count > 0]
    if not entries or not table.present[t]:
        return torch.zeros(D, dtype=states.dtype)
    asking = table.values[t] if name == "visual" else params["backbone.item_embedding"][t]
    width, parts = D // heads, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        query = (params[f"{name}.query.weight"] @ asking)[own]
        keys = torch.stack([(params[f"{name}.key.weight"] @ entry)[own] for entry in entries])
        values = torch.stack([(params[f"{name}.value.weight"] @ entry)[own] for entry in entries])
        parts.append(torch.softmax(keys @ query / math.sqrt(width), dim=0) @ values)
    return _norm(params[f"{name}.output.weight"] @ torch.cat(parts), params, f"{name}.norm")


def _kept_entries(
    recommender: Recommender, params: Mapping[str, Tensor], name: str, prefix: Sequence[int], states: Tensor
) -> list[int]:
    """The items of highest utility: surprise and recency, by position; the later wins a tie."""
    memory, present = recommender.config.memory, recommender.tables[name].present
    utilities = []
    for j, item in enumerate(prefix):
        if present[item]:
            recency = 0.5 ** ((len(prefix) - 1 - j) / HALF_LIFE)
            surprise = _surprise(recommender, params, prefix, states, j)
            utility = memory.surprise_weight * surprise + memory.recency_weight * recency
            utilities.append((utility, j))
    return [prefix[j] for _, j in sorted(utilities, reverse=True)[: memory.size]]


def _surprise(
    recommender: Recommender, params: Mapping[str, Tensor], prefix: Sequence[int], states: Tensor, place: int
) -> float:
    """-ln p(item) / ln V under the backbone alone, given the items before it; 1 for the first."""
    if place == 0:
        return 1.0
    backbone = _norm(states[place - 1], params, "backbone.norm").detach()
    table = params["backbone.item_embedding"].detach()
    scores = table[1:] @ backbone
    if recommender.config.scoring == "cosine":
        lengths = (table[1:] ** 2).sum(1).clamp(min=LOWEST_SQUARE).sqrt()
        length = (backbone**2).sum().clamp(min=LOWEST_SQUARE).sqrt()
        scores = math.sqrt(recommender.config.hidden_dim) * scores / (lengths * length)
    loss = torch.logsumexp(scores, 0) - scores[prefix[place] - 1]
    return float(loss) / math.log(max(recommender.num_items, 2))


def _gate(x: Tensor, params: Mapping[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    """1 / (1 + exp(-(W x + b))) of LiGR's blocks, 1 of SASRec's: [L, D]."""
    if config.block == "sasrec":
        return torch.ones_like(x)
    return 1 / (1 + torch.exp(-(x @ params[f"{name}.weight"].T + params[f"{name}.bias"])))


def _feedforward(x: Tensor, params: Mapping[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    """W2 max(W1 x + b1, 0) + b2 of SASRec's blocks, W3 (s W2 x) of LiGR's, s = a / (1 + exp(-a)) of a = W1 x."""
    inner, outer = params[f"{name}.inner.weight"], params[f"{name}.outer.weight"]
    if config.block == "sasrec":
        return (x @ inner.T + params[f"{name}.inner.bias"]).clamp(min=0) @ outer.T + params[f"{name}.outer.bias"]
    swish = x @ params[f"{name}.swish.weight"].T
    return (swish / (1 + torch.exp(-swish)) * (x @ inner.T)) @ outer.T


def _turned(vector: Tensor, place: int, config: ModelConfig) -> Tensor:
    """Rotary positions: every pair of numbers of a head turned by its angle (Su et al., 2021, equation 15)."""
    if config.positions == "learned":
        return vector
    parts = []
    for j in range(len(vector) // 2):
        angle = place / 10_000 ** (2 * j / len(vector))
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=vector.dtype
        )
        parts.append(turn @ vector[2 * j : 2 * j + 2])
    return torch.cat(parts)


def _attention(x: Tensor, params: Mapping[str, Tensor], name: str, config: ModelConfig) -> Tensor:
    """Each position looks at itself and what came before it, head by head."""
    L, D = x.shape
    width = D // config.num_heads
    query = x @ params[f"{name}.query.weight"].T + params[f"{name}.query.bias"]
    key = x @ params[f"{name}.key.weight"].T
    value = x @ params[f"{name}.value.weight"].T + params[f"{name}.value.bias"]
    rows = []
    for place in range(L):
        parts = []
        for head in range(config.num_heads):
            own = slice(head * width, (head + 1) * width)
            asks = _turned(query[place, own], place, config)
            logits = torch.stack([asks @ _turned(key[j, own], j, config) for j in range(place + 1)])
            logits = logits / math.sqrt(width)
            parts.append(torch.softmax(logits, dim=0) @ value[: place + 1, own])
        rows.append(torch.cat(parts))
    return torch.stack(rows) @ params[f"{name}.output.weight"].T + params[f"{name}.output.bias"]


def _norm(x: Tensor, params: Mapping[str, Tensor], name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPSILON) * params[f"{name}.weight"] + params[f"{name}.bias"]
