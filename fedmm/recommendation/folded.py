"""The scores of a model in one product, where all its parts are products and the catalogue is large.

Coefficients and keys depend on parameters alone, so they are folded together once: the queries of all parts side by
side against one table [V, K1 + K2 + ...]. The sums are those of the model in another order, equal to about 1e-6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedmm.data.types import IntArray, Ragged
from fedmm.evaluation.model_scorer import last_windows, with_additions
from fedmm.evaluation.ranking import Scorer
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models import sasrec
from fedmm.models.layers import pick_rows
from fedmm.models.recommender import Batch
from fedmm.models.scores import scaled_keys
from fedmm.utils.params import expand_for_clients

LARGE = 16_384  # items; below, the evaluator's own sums are quick enough


def quick_scorer(experiment: Experiment, snapshot: Snapshot) -> Scorer:
    """The model's scorer: folded where that can be, else the evaluator's."""
    if experiment.split.num_items < LARGE:
        return experiment.scorer(snapshot)
    folded = folded_scorer(experiment, snapshot)
    return experiment.scorer(snapshot) if folded is None else folded


def folded_scorer(experiment: Experiment, snapshot: Snapshot) -> Scorer | None:
    """One product a history, and what is added to the scores; None where a part is no product, or users have parameters
    of their own."""
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

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del users  # nothing personal
        items, rows = asked(histories)
        question = experiment.recommender.asked(shared, items, rows)
        queries = [sasrec.final_norm(shared, pick_rows(question.hidden, rows))[0]]
        terms = (part.term(shared, question) for part in parts)
        queries += [term[0][0] for term in terms if term is not None]
        return torch.cat(queries, dim=1) @ keys.T

    return with_additions(score, experiment.additions.values())


def _flat(keys: Tensor) -> Tensor:
    """[V, K] of keys [1, V, K] or [V, K]."""
    return keys if keys.ndim == 2 else keys[0]
