"""The scores of a model in one product, where all its parts are products and the catalogue is large.

Coefficients and keys depend on parameters alone, so they are folded together once: the queries of all parts side by
side against one table [V, K1 + K2 + ...]. The sums are those of the model in another order, equal to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.data.types import IntArray, Ragged
from fedmm.evaluation.model_scorer import Addition, last_windows, with_additions
from fedmm.evaluation.ranking import Scorer
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models import sasrec
from fedmm.models.layers import pick_rows
from fedmm.models.recommender import Batch
from fedmm.models.scores import scaled_keys
from fedmm.utils.params import expand_for_clients

LARGE = 16_384  # items; below, the evaluator's own sums are quick enough


@dataclass(frozen=True, eq=False)
class Folded:
    """A model as queries of histories and keys of items, and what is added to their products."""

    keys: Tensor  # [V, K]
    queries: Callable[[Ragged], Tensor]  # histories [n] -> [n, K]
    additions: tuple[Addition, ...]

    @property
    def scorer(self) -> Scorer:
        """The scores of the whole catalogue."""

        def score(users: IntArray, histories: Ragged) -> Tensor:
            del users  # nothing personal
            return self.queries(histories) @ self.keys.T

        return with_additions(score, self.additions)


def fold(experiment: Experiment, snapshot: Snapshot) -> Folded | None:
    """The model as products; None where a part is no product, or users have parameters of their own."""
    if snapshot.clients.personal().entries:
        return None
    shared = expand_for_clients(snapshot.params)
    experts = snapshot.round > experiment.config.federation.warmup_rounds
    length = experiment.config.model.max_length

    def asked(histories: Ragged) -> tuple[Tensor, Tensor]:
        items, rows = (torch.from_numpy(own).unsqueeze(0) for own in last_windows(histories, length))
        return items.to(experiment.device), rows.to(experiment.device)

    with torch.no_grad():
        some = Batch(*asked(Ragged.from_rows([[1]])))
        found = experiment.recommender.forward(shared, some, experts=experts).scores
        if found.dense is not None or any(term.constants is not None for term in found.terms):
            return None
        keys = torch.cat([_flat(scaled_keys(term)) for term in found.terms], dim=1).contiguous()
    parts = experiment.recommender.parts.values() if experts else ()

    def queries(histories: Ragged) -> Tensor:
        items, rows = asked(histories)
        question = experiment.recommender.asked(shared, items, rows)
        own = [sasrec.final_norm(shared, pick_rows(question.hidden, rows))[0]]
        terms = (part.term(shared, question) for part in parts)
        return torch.cat([*own, *(term[0][0] for term in terms if term is not None)], dim=1)

    return Folded(keys, queries, tuple(experiment.additions.values()))


def _flat(keys: Tensor) -> Tensor:
    """[V, K] of keys [1, V, K] or [V, K]."""
    return keys if keys.ndim == 2 else keys[0]
