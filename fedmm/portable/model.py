"""A trained model as one module of tensors: histories in, a score of every item out.

It computes what the evaluator computes, by the same formulas (``Recommender.forward``) at the last position of each
history, and holds all it reads: parameters, item features, neighbours and counts as lists. Users' personal parameters
stay with the run: the module is the model that all share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmm.config import ModelConfig
from fedmm.errors import ConfigError
from fedmm.models.experts import Expert, Source
from fedmm.models.features import FeatureTable
from fedmm.models.kinship import Kinship
from fedmm.models.layers import no_dropout
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.succession import DECAY, RECENT, Succession
from fedmm.portable.parts import KINDS
from fedmm.portable.products import INDEX, WEIGHT, as_lists, gathered, rows_as_lists, scattered, times
from fedmm.portable.weights import restored, stored
from fedmm.utils.params import Params

CPU = torch.device("cpu")
PARAMS, FEATURES, PARTS = "params", "features", "parts"
SUCCESSION, KINSHIP = "succession", "kinship"
ALLOWED, TRAINED = "recommendable", "trained"


@dataclass(frozen=True)
class Facts:
    """What the tensors do not say themselves."""

    config: ModelConfig
    num_items: int  # V - 1
    experts: bool  # whether experts speak; False up to the last warm-up round
    weights: str = "float32"
    succession: float = 0.0  # the weight of each addition; 0: there is none
    kinship: float = 0.0


class PortableModel(nn.Module):
    """Scores [B, V] of histories [B, T] of item indices, padded with 0 on the left (or anywhere), T of any length.

    V counts item 0, the padding. What may not be recommended, padding first of all, scores minus infinity; items of the
    history keep their scores.
    """

    def __init__(self, facts: Facts, tensors: Mapping[str, Tensor]) -> None:
        """``tensors`` are those of ``take_apart``, in ``facts.weights`` already."""
        super().__init__()
        self.facts = facts
        self._names = list(tensors)
        for name, value in tensors.items():
            self.register_buffer(_flat(name), value)

    def tensors(self) -> Params:
        """All it holds, by name, as it is kept."""
        return {name: self.get_buffer(_flat(name)) for name in self._names}

    def forward(self, history: Tensor) -> Tensor:
        """[B, V] float32 from ``history`` [B, T] int64."""
        tensors = restored(self.tensors())
        items, last = window(history, self.facts.config.max_length)
        rows = torch.arange(items.shape[0], device=items.device) * items.shape[1] + last
        params = {name: value.unsqueeze(0) for name, value in _under(tensors, PARAMS).items()}
        batch = Batch(items.unsqueeze(0), rows.unsqueeze(0))
        found = self._recommender(tensors).forward(params, batch, no_dropout, experts=self.facts.experts)
        scores = found.scores.materialise()[0] + self._added(tensors, history)
        return scores.masked_fill(~tensors[ALLOWED], -torch.inf)

    def _recommender(self, tensors: Mapping[str, Tensor]) -> Recommender:
        config, num_items, trained = self.facts.config, self.facts.num_items, tensors.get(TRAINED)
        tables = {name: FeatureTable(own["values"], own["present"]) for name, own in _groups(tensors, FEATURES).items()}
        kept = _groups(tensors, PARTS)
        parts: dict[str, Expert] = {}
        for name in (*tables, *(name for name in kept if name not in tables)):
            kind = config.experts if name in tables else name
            source = Source(name, config, num_items, tables.get(name), torch.float32, CPU)
            parts[name] = KINDS[kind].put_together(source, kept.get(name, {}))
        return Recommender(config, num_items, tables, parts, trained)

    def _added(self, tensors: Mapping[str, Tensor], history: Tensor) -> Tensor | float:
        total: Tensor | float = 0.0
        if not (self.facts.succession or self.facts.kinship):
            return total
        recent, last = window(history, RECENT)
        age = last.unsqueeze(1) - torch.arange(RECENT, device=recent.device)
        weights = DECAY ** age.clamp(min=0).to(torch.float32) * ((age >= 0) & (recent > 0))
        if self.facts.succession:
            counted = times(_under(tensors, SUCCESSION), recent, weights)
            total = total + self.facts.succession * torch.log1p(counted.clamp(min=0.0))
        if self.facts.kinship:
            own = _under(tensors, KINSHIP)
            lists = own[INDEX], own[WEIGHT]
            shares = self.facts.kinship * weights / weights.sum(1, keepdim=True).clamp(min=1e-30)
            total = total + gathered(lists, scattered(lists, recent, shares, int(own["width"])))
        return total


def take_apart(
    recommender: Recommender,
    params: Params,
    *,
    experts: bool = True,
    succession: Succession | None = None,
    kinship: Kinship | None = None,
    candidates: Tensor | None = None,
    weights: str = "float32",
) -> PortableModel:
    """The module of a recommender and its parameters, with matrices kept in ``weights`` (``weights.PRECISIONS``).

    ``experts=False`` scores by the backbone alone; ``candidates`` [V] are the items that may be recommended, by default
    all. Raises ConfigError for a kind of expert that is no built-in one, and for unknown ``weights``.
    """
    tensors: Params = {f"{PARAMS}.{name}": value for name, value in params.items()}
    parts = recommender.parts if experts else {}
    for name, part in parts.items():
        kind = recommender.config.experts if part.per_modality else name
        if kind not in KINDS:
            raise ConfigError(f"Experts {kind!r} cannot be exported.", f"Those that can: {', '.join(KINDS)}.")
        if part.per_modality:
            table = recommender.tables[name]
            tensors |= {f"{FEATURES}.{name}.values": table.values, f"{FEATURES}.{name}.present": table.present}
        tensors |= {f"{PARTS}.{name}.{key}": value for key, value in KINDS[kind].take_apart(part).items()}
    if succession is not None:
        lists = as_lists(succession.kernel, symmetric=False)
        tensors |= {f"{SUCCESSION}.{key}": value for key, value in lists.items()}
    if kinship is not None:
        lists = {**rows_as_lists(kinship.vectors), "width": torch.tensor(kinship.vectors.shape[1])}
        tensors |= {f"{KINSHIP}.{key}": value for key, value in lists.items()}
    allowed = torch.ones(recommender.num_items + 1, dtype=torch.bool) if candidates is None else candidates.clone()
    allowed[0] = False
    tensors[ALLOWED] = allowed
    if recommender.trained is not None:
        tensors[TRAINED] = recommender.trained
    facts = Facts(
        recommender.config,
        recommender.num_items,
        bool(parts),
        weights,
        0.0 if succession is None else succession.weight,
        0.0 if kinship is None else kinship.weight,
    )
    own = {name: value.detach().to(CPU).contiguous().clone() for name, value in tensors.items()}
    return PortableModel(facts, stored(own, weights)).eval()


def window(history: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The last ``length`` real items of each history [B, T], wherever its padding stands: [B, length], padded on the
    right with 0, and the position of the last one [B].

    >>> items, last = window(torch.tensor([[0, 5, 6], [7, 8, 9]]), 2)
    >>> items.tolist(), last.tolist()
    ([[5, 6], [8, 9]], [1, 1])
    """
    real = history != 0
    place = real.long().cumsum(1) - 1
    total = place[:, -1:] + 1
    place = place - (total - length).clamp(min=0)
    place = torch.where(real & (place >= 0), place, length)  # what is left over falls into a place that is cut off
    items = history.new_zeros(history.shape[0], length + 1).scatter(1, place, history)[:, :length]
    return items, total.squeeze(1).clamp(min=1, max=length) - 1


def _flat(name: str) -> str:
    return name.replace(".", "__")


def _under(tensors: Mapping[str, Tensor], head: str) -> Params:
    """The tensors whose names begin with ``head.``, without it."""
    return {name.removeprefix(f"{head}."): value for name, value in tensors.items() if name.startswith(f"{head}.")}


def _groups(tensors: Mapping[str, Tensor], head: str) -> dict[str, Params]:
    """Those tensors by the next word of their names, in order."""
    groups: dict[str, Params] = {}
    for name, value in _under(tensors, head).items():
        word, _, rest = name.partition(".")
        groups.setdefault(word, {})[rest] = value
    return groups
