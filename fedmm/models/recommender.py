"""The recommender: backbone, experts, router and fusion, as functions of parameters with a leading client axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.data.types import IntArray, ItemFeatures
from fedmm.models import prototypes, sasrec
from fedmm.models.alignment import alignment_loss
from fedmm.models.experts import memory as memory_expert
from fedmm.models.experts import neighbors as neighbor_expert
from fedmm.models.experts import pooled as pooled_expert
from fedmm.models.experts import transition as transition_expert
from fedmm.models.experts.transition import TransitionTable
from fedmm.models.features import MODALITIES, FeatureTable, gather_candidates
from fedmm.models.fusion import FUSIONS, GATE, Mixture
from fedmm.models.layers import Dropout, lookup, no_dropout, pick_rows
from fedmm.models.personal import USER_VECTOR, apart
from fedmm.models.router import init_router, load_balance_loss, route
from fedmm.models.scores import Scores, Term
from fedmm.utils import params as algebra
from fedmm.utils.params import Params

NORM_FLOOR = 1e-12
POOLING = ("pooled", "hybrid")  # kinds of experts with a pooled part
WITH_GRAPH = ("neighbors", "hybrid")  # kinds with neighbours


@dataclass(frozen=True, eq=False)
class Batch:
    """One local step's rows for C clients: every real position of B windows predicts the next item."""

    items: Tensor  # [C, B, L] histories, padded on the right with 0
    rows: Tensor  # [C, R] positions that predict, flat over B * L
    candidates: Tensor | None = None  # [C, N] item indices; None is the whole catalogue 0..V-1
    candidate_mask: Tensor | None = None  # [C, N] real candidates; None: all but padding
    constants: Mapping[str, Tensor] = field(default_factory=dict)  # [C, R, N] a constant expert; absent: made here


@dataclass(frozen=True, eq=False)
class Output:
    """Scores of one batch with what the model adds to the loss."""

    scores: Scores
    load_balance_loss: Tensor  # [C]
    alignment_loss: Tensor  # [C]; 0 where its weight is

    def penalty(self, config: ModelConfig) -> Tensor:
        """[C]: both, weighted."""
        return config.load_balance_weight * self.load_balance_loss + config.alignment_weight * self.alignment_loss


@dataclass(frozen=True, eq=False)
class Recommender:
    """What never trains: the settings, the catalogue's size and the item features. Parameters are passed in."""

    config: ModelConfig
    num_items: int
    tables: Mapping[str, FeatureTable]
    transition: TransitionTable | None = None
    trained: Tensor | None = None  # [V] bool: the items that training knows of, padding not; None: all
    neighbors: Mapping[str, neighbor_expert.NeighborTable] = field(default_factory=dict)  # by modality

    @classmethod
    def build(
        cls,
        config: ModelConfig,
        num_items: int,
        features: Mapping[str, ItemFeatures],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        transition_counts: csr_matrix | None = None,
    ) -> Recommender:
        """A recommender over ``num_items`` items. With no features and no ``transition_counts`` (directed, [V, V]), or
        fusion "backbone", it is the backbone alone."""
        place = device or torch.device("cpu")
        names = [name for name in MODALITIES if name in features and config.fusion != "backbone"]
        tables = {name: FeatureTable.build(features[name], dtype, place) for name in names}
        graphs = {
            name: neighbor_expert.NeighborTable.build(table, config.neighbors)
            for name, table in (tables.items() if config.experts in WITH_GRAPH else ())
        }
        counted = transition_counts is not None and config.fusion != "backbone"
        transition = TransitionTable.build(transition_counts, dtype, place) if counted else None
        return cls(config, num_items, tables, transition, neighbors=graphs)

    @property
    def experts(self) -> tuple[str, ...]:
        """Experts in the order of the router's outputs: the modalities, then the transition expert."""
        return (*self.tables, *([] if self.transition is None else [transition_expert.NAME]))

    @property
    def has_gate(self) -> bool:
        """Whether there is a learnable gate."""
        return bool(self.experts) and self.config.fusion == "residual"

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Params:
        """Fresh parameters on the CPU. Backbone draws come first: it is the same whatever stands beside it."""
        config = self.config
        params = sasrec.init_backbone(config, self.num_items, generator)
        for name, table in self.tables.items():
            if config.experts in POOLING:
                params |= pooled_expert.init_pooled(config, name, table, generator)
            elif config.experts == "memory":
                width = table.width if name == "visual" else config.hidden_dim
                params |= memory_expert.init_memory(config, name, width, table, generator)
        if self.experts:
            fusion = FUSIONS[config.fusion]
            params |= init_router(self._router_width, len(self.experts) + fusion.routes_backbone)
            if fusion.routes_backbone:
                params["router.bias"][0] = config.router_bias_init
            params |= fusion.init(config)
        for name, table in self.tables.items() if config.memory.num_prototypes else ():
            params |= prototypes.init_prototypes(name, config.memory.num_prototypes, table, generator)
        return {name: value.to(dtype) for name, value in params.items()}

    @staticmethod
    def is_backbone(name: str) -> bool:
        """Whether a parameter belongs to the backbone, all that trains during partial aggregation."""
        return name.startswith(sasrec.PREFIX)

    def forward(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        dropout: Dropout = no_dropout,
        *,
        experts: bool = True,
        embedded: Tensor | None = None,
        only: str | None = None,
    ) -> Output:
        """Scores of ``batch.rows`` against the candidates. ``experts=False`` computes the backbone (partial
        aggregation). ``embedded`` [C, B, L, D] is the histories' rows of the item table, where the caller looked them
        up. ``only`` names the one expert that scores: no gate, no router, no backbone."""
        table = params[sasrec.ITEM_TABLE]
        hidden = sasrec.encode(params, batch.items, self.config, dropout, embedded)
        queries = sasrec.final_norm(params, pick_rows(hidden, batch.rows))
        if USER_VECTOR in params:
            queries = queries + apart(params[USER_VECTOR]).unsqueeze(1)
        item_keys = table if batch.candidates is None else lookup(table, batch.candidates)
        none = queries.new_zeros(len(queries))
        if not (experts and self.experts):
            return Output(self._backbone_scores(queries, item_keys), none, none)
        if only is not None:
            part, mixture = self._alone(only, batch.candidates, item_keys)
            scores = part._fused_scores(params, batch, hidden, queries, item_keys, mixture)
            return Output(scores, none, none)
        weights = self.router_weights(params, batch.candidates, item_keys)
        mixture = FUSIONS[self.config.fusion].mix(params, weights)
        scores = self._fused_scores(params, batch, hidden, queries, item_keys, mixture)
        balance = load_balance_loss(weights, self._candidate_mask(batch, weights))
        if not (self.config.alignment_weight and self.tables):
            return Output(scores, balance, none)
        embedded = lookup(table, batch.items) if embedded is None else embedded
        temperature = self.config.alignment_temperature
        return Output(scores, balance, alignment_loss(params, self.tables, batch.items, embedded, temperature))

    def router_weights(self, params: Mapping[str, Tensor], candidates: Tensor | None, item_keys: Tensor) -> Tensor:
        """[C, N, M]: weights over the experts, after the backbone's own where the fusion routes it.

        The router reads item features, so it works for items never trained; beside memory experts it reads the item
        embedding, as in the original form.
        """
        present = torch.stack([gather_candidates(mask, candidates) for mask in self._presence], dim=-1)
        if FUSIONS[self.config.fusion].routes_backbone:
            present = torch.cat([torch.ones_like(present[..., :1]), present], dim=-1)
        if self.config.experts == "memory":
            return route(params, item_keys, present)
        if not self.tables:
            return route(params, item_keys, present)  # a router without inputs
        inputs = [gather_candidates(table.values, candidates) for table in self.tables.values()]
        return route(params, torch.cat(inputs, dim=-1) / math.sqrt(self._router_width), present)

    def gating_weight(self, params: Mapping[str, Tensor]) -> float | None:
        """The gate's value; None without one."""
        return float(params[GATE]) if self.has_gate else None

    def expert_weights(self, params: Mapping[str, Tensor]) -> dict[str, float]:
        """Each expert's router weight, averaged over the items that have any expert."""
        if not self.experts:
            return {}
        with torch.no_grad():
            table = params[sasrec.ITEM_TABLE].unsqueeze(0)
            weights = self.router_weights(algebra.expand_for_clients(params), None, table)[0, 1:]
            shares = weights[:, -len(self.experts) :]
            counted = shares.sum(-1) > 0
            means = shares[counted].mean(0).tolist()
        return dict(zip(self.experts, means, strict=True))

    @property
    def factorises(self) -> bool:
        """Whether all scores are products of queries and keys, or constants, so that nothing else per (position,
        candidate) is kept."""
        return not self.tables or self.config.experts != "memory"

    @property
    def constants(self) -> tuple[str, ...]:
        """The experts with a part that has no parameters: its scores stay what they are while a client trains."""
        return (*self.neighbors, *([] if self.transition is None else [transition_expert.NAME]))

    def constant_scores(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> dict[str, Tensor]:
        """Scores [C, R, N] of the parts without parameters, by expert, for ``Batch.constants``. ``histories`` [C] are
        the clients' own training histories, whose counts the transition expert leaves out; None leaves out nothing."""
        scores = {
            name: neighbor_expert.neighbor_scores(table, items, rows, candidates)
            for name, table in self.neighbors.items()
        }
        if self.transition is not None:
            own = transition_expert.transition_scores(self.transition, items, rows, candidates, histories)
            scores[transition_expert.NAME] = own
        return scores

    def formed_per_row(self, num_negatives: int) -> int:
        """Numbers that training must form for each predicting position: none but the fused loss's own where all scores
        factorise, a coefficient per entry, head and candidate for each memory expert, a constant per candidate for each
        constant expert."""
        candidates = min(num_negatives or self.num_items, self.num_items)
        constants = len(self.constants) * candidates
        if self.factorises:
            return constants
        memory = self.config.memory
        entries = memory.size + memory.num_prototypes
        return constants + entries * memory.num_heads * candidates * len(self.tables)

    @property
    def _router_width(self) -> int:
        if self.config.experts == "memory":
            return self.config.hidden_dim
        return sum(table.width for table in self.tables.values())

    def _alone(self, name: str, candidates: Tensor | None, item_keys: Tensor) -> tuple[Recommender, Mixture]:
        """This recommender with one expert, and the mixture in which it alone speaks: 1 where an item has it, else
        0."""
        tables = {own: table for own, table in self.tables.items() if own == name}
        graphs = {own: graph for own, graph in self.neighbors.items() if own == name}
        expert = None if tables else self.transition
        alone = replace(self, tables=tables, transition=expert, neighbors=graphs)
        (present,) = alone._presence
        own = gather_candidates(present, candidates).to(item_keys.dtype).expand(item_keys.shape[:-1])
        return alone, Mixture(torch.zeros_like(own), (own,))

    @property
    def _presence(self) -> list[Tensor]:
        """Each expert's mask of the items it can speak of."""
        masks = [table.present for table in self.tables.values()]
        return masks if self.transition is None else [*masks, self.transition.present]

    def _fused_scores(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hidden: Tensor,
        queries: Tensor,
        item_keys: Tensor,
        mixture: Mixture,
    ) -> Scores:
        if self.tables and self.config.experts == "memory":
            scores = self._memory_scores(params, batch, hidden, queries, item_keys, mixture)
        else:
            scores = Scores((Term(queries, item_keys, mixture.backbone),))
        given = batch.constants
        if self.constants and not given:
            given = self.constant_scores(batch.items, batch.rows, batch.candidates, None)
        for name, coefficient in zip(self.experts, mixture.experts, strict=True):
            asked, keys = self._pooled_part(params, batch, name)
            if keys is not None or name in given:
                scores = scores.plus(Term(asked, keys, coefficient, given.get(name)))
        return scores

    def _pooled_part(
        self, params: Mapping[str, Tensor], batch: Batch, name: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """Queries and keys of the expert ``name``, where it pools."""
        if name not in self.tables or self.config.experts not in POOLING:
            return None, None
        table = self.tables[name]
        queries = pooled_expert.pooled_queries(params, name, table, batch.items, batch.rows)
        return queries, gather_candidates(table.values, batch.candidates)

    def _candidate_mask(self, batch: Batch, weights: Tensor) -> Tensor:
        if batch.candidate_mask is not None:
            return batch.candidate_mask
        if batch.candidates is None:
            return self.catalogue_mask(len(weights), weights.device)
        return torch.ones(weights.shape[:2], dtype=torch.bool, device=weights.device)

    def catalogue_mask(self, num_clients: int, device: torch.device) -> Tensor:
        """[C, V]: the whole catalogue's training candidates, the same for ``num_clients`` clients."""
        mask = self.trained
        if mask is None:
            mask = torch.ones(self.num_items + 1, dtype=torch.bool, device=device)
            mask[0] = False
        return mask.expand(num_clients, -1)

    def _backbone_scores(self, queries: Tensor, item_keys: Tensor) -> Scores:
        if self.config.scoring == "dot":
            return Scores((Term(queries, item_keys),))
        return Scores(
            (), self._cosine(torch.matmul(queries, item_keys.mT), queries.square().sum(-1, keepdim=True), item_keys)
        )

    def _memory_scores(
        self,
        params: Mapping[str, Tensor],
        batch: Batch,
        hidden: Tensor,
        queries: Tensor,
        item_keys: Tensor,
        mixture: Mixture,
    ) -> Scores:
        parts = self._memory_representations(params, batch, hidden, item_keys)
        if self.config.scoring == "dot":
            dots = [w.unsqueeze(1) * part.dot(item_keys) for w, part in zip(mixture.experts, parts, strict=False)]
            return Scores((Term(queries, item_keys, mixture.backbone),), torch.stack(dots).sum(0))
        return Scores((), self._mixture_cosine(queries, item_keys, mixture, parts))

    def _mixture_cosine(
        self, queries: Tensor, item_keys: Tensor, mixture: Mixture, parts: list[memory_expert.Representation]
    ) -> Tensor:
        """sqrt(D) cos(w_seq LN(H) + sum_m w_m A_m, E_t), the norm of the mixture from Gram matrices."""
        spans = [part.span() for part in parts]
        basis = torch.cat([basis for basis, _ in spans], dim=2)
        scaled = [c * w[:, None, None, :] for (_, c), w in zip(spans, mixture.experts, strict=True)]
        coefficients = torch.cat(scaled, dim=2)
        w_seq = 1.0 if mixture.backbone is None else mixture.backbone.unsqueeze(1)
        dots = (coefficients * torch.matmul(basis, item_keys.mT.unsqueeze(1))).sum(2)
        cross = (coefficients * torch.matmul(basis, queries.unsqueeze(-1))).sum(2)
        own = (torch.matmul(torch.matmul(basis, basis.mT), coefficients) * coefficients).sum(2)
        squared_norm = w_seq * w_seq * queries.square().sum(-1, keepdim=True) + 2 * w_seq * cross + own
        return self._cosine(w_seq * torch.matmul(queries, item_keys.mT) + dots, squared_norm, item_keys)

    def _memory_representations(
        self, params: Mapping[str, Tensor], batch: Batch, hidden: Tensor, item_keys: Tensor
    ) -> list[memory_expert.Representation]:
        memories = self._select_memories(params, batch.items, batch.rows, hidden)
        candidates = batch.candidates
        if candidates is None:
            candidates = torch.arange(self.num_items + 1, device=item_keys.device).unsqueeze(0)
        parts = []
        for name, table in self.tables.items():
            inputs = gather_candidates(table.values, batch.candidates) if name == "visual" else item_keys
            heads = self.config.memory.num_heads
            own = memories[name]
            parts.append(memory_expert.memory_representation(params, name, table, own, inputs, candidates, heads))
        return parts

    def memories(self, params: Mapping[str, Tensor], items: Tensor, rows: Tensor) -> dict[str, memory_expert.Memory]:
        """By modality, the entries kept at positions ``rows`` [C, R] (flat over B * L) of histories [C, B, L]."""
        return self._select_memories(params, items, rows, sasrec.encode(params, items, self.config, no_dropout, None))

    def _select_memories(
        self, params: Mapping[str, Tensor], items: Tensor, rows: Tensor, hidden: Tensor
    ) -> dict[str, memory_expert.Memory]:
        surprise, config = self._surprise(params, items, hidden), self.config.memory
        return {
            name: memory_expert.select_entries(items, rows, table.present, surprise, config)
            for name, table in self.tables.items()
        }

    def _surprise(self, params: Mapping[str, Tensor], items: Tensor, hidden: Tensor) -> Tensor:
        """Each entry's loss under the backbone, over the whole catalogue; a selection signal, so no gradient."""
        with torch.no_grad():
            C, B, L, _ = hidden.shape
            queries = sasrec.final_norm(params, hidden[:, :, :-1]).flatten(1, 2)
            logits = self._backbone_scores(queries, params[sasrec.ITEM_TABLE]).materialise()
            logits[..., 0] = -math.inf
            if self.trained is not None:
                logits = logits.masked_fill(~self.trained, -math.inf)
            log_probabilities = torch.log_softmax(logits, dim=-1).view(C, B, L - 1, self.num_items + 1)
            taken = log_probabilities.gather(-1, items[:, :, 1:].unsqueeze(-1)).squeeze(-1)
            # Padding has probability 0; it is never kept, and must not bring infinities into the sort.
            taken = taken.masked_fill(items[:, :, 1:] == 0, 0.0)
            return memory_expert.surprise_of_history(taken, self.num_items)

    def _cosine(self, dots: Tensor, squared_norm: Tensor, item_keys: Tensor) -> Tensor:
        """sqrt(D) cos(final, E_t) from the dot product and the square of |final|."""
        own = squared_norm.clamp(min=NORM_FLOOR).rsqrt()
        item = item_keys.square().sum(-1).clamp(min=NORM_FLOOR).rsqrt().unsqueeze(1)
        return math.sqrt(self.config.hidden_dim) * dots * own * item
