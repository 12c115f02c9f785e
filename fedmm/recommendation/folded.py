"""The scores of a model in one product and what parts without parameters say, with all that depends on items made once.

Coefficients and keys depend on parameters alone, so they are folded together once: the queries of all parts side by
side against one table [V, K1 + K2 + ...]. The sums are those of the model in another order, equal to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.data.types import IntArray, Ragged
from fedmm.evaluation.model_scorer import Addition, last_windows, with_additions
from fedmm.evaluation.ranking import Scorer
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models import sasrec
from fedmm.models.experts import Expert
from fedmm.models.fusion import FUSIONS
from fedmm.models.layers import pick_rows
from fedmm.models.recommender import Recommender
from fedmm.models.scores import SparseScores, Term, scaled_keys
from fedmm.utils.params import Params, expand_for_clients

LARGE = 16_384  # items; below, the evaluator's own sums are quick enough


Spoken = Callable[
    [Ragged, Tensor], Tensor
]  # histories and scores [1, n, V] to scores with more added, perhaps in place


@dataclass(frozen=True, eq=False)
class Folded:
    """A model as queries of histories and keys of items, and what is added to their products."""

    keys: Tensor  # [V, K]
    queries: Callable[[Ragged], Tensor]  # histories [n] -> [n, K]
    additions: tuple[Addition, ...]
    constants: tuple[Spoken, ...] = ()  # scores of the experts' parts without parameters

    @property
    def is_product(self) -> bool:
        """Whether the product is all that the model itself says."""
        return not self.constants

    @property
    def scorer(self) -> Scorer:
        """The scores of the whole catalogue."""

        def score(users: IntArray, histories: Ragged) -> Tensor:
            del users  # nothing personal
            total = (self.queries(histories) @ self.keys.T).unsqueeze(0)
            for spoken in self.constants:
                total = spoken(histories, total)
            return total[0]

        return with_additions(score, self.additions)


def fold(experiment: Experiment, snapshot: Snapshot) -> Folded | None:
    """The model as products; None where a part is neither a product nor without parameters, where scores are cosines,
    or users have parameters of their own."""
    if snapshot.clients.personal().entries:
        return None
    shared = expand_for_clients(snapshot.params)
    recommender, config = experiment.recommender, experiment.config
    parts = recommender.parts if snapshot.round > config.federation.warmup_rounds else {}
    if config.model.scoring != "dot" or not all(part.factorises for part in parts.values()):
        return None

    def asked(histories: Ragged) -> tuple[Tensor, Tensor]:
        items, rows = (torch.from_numpy(own).unsqueeze(0) for own in last_windows(histories, config.model.max_length))
        return items.to(experiment.device), rows.to(experiment.device)

    with torch.no_grad():
        keys, scales = _keys(recommender, shared, parts, *asked(Ragged.from_rows([[1]])))

    def queries(histories: Ragged) -> Tensor:
        items, rows = asked(histories)
        question = recommender.asked(shared, items, rows)
        own = [sasrec.final_norm(shared, pick_rows(question.hidden, rows))[0]]
        terms = (part.term(shared, question) for part in parts.values())
        return torch.cat([*own, *(term[0][0] for term in terms if term is not None)], dim=1)

    def spoken(part: Expert, scale: Tensor) -> Spoken:
        def add(histories: Ragged, total: Tensor) -> Tensor:
            found = part.constants(*asked(histories), None, None)
            if isinstance(found, SparseScores):
                return found.add_to(total, scale)
            return total if found is None else total.addcmul_(found.to(total), scale)

        return add

    constants = tuple(spoken(part, scales[name]) for name, part in parts.items() if part.has_constants)
    return Folded(keys, queries, tuple(experiment.additions.values()), constants)


def _keys(
    recommender: Recommender, shared: Params, parts: Mapping[str, Expert], items: Tensor, rows: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The keys [V, K] of the backbone and of all ``parts``, coefficients folded in, and the coefficients [1, V] by
    part. Any history [1, 1, L] and row [1, 1] will do."""
    table = shared[sasrec.ITEM_TABLE]
    if not parts:
        return table[0], {}
    mixture = FUSIONS[recommender.config.fusion].mix(shared, recommender.router_weights(shared, None, table))
    scales = dict(zip(recommender.experts, mixture.experts, strict=True))
    question = recommender.asked(shared, items, rows)
    terms = [Term(None, table, mixture.backbone)]
    for name, part in parts.items():
        found = part.term(shared, question)
        if found is not None:
            terms.append(Term(None, found[1], scales[name]))
    return torch.cat([_flat(scaled_keys(term)) for term in terms], dim=1).contiguous(), scales


def _flat(keys: Tensor) -> Tensor:
    """[V, K] of keys [1, V, K] or [V, K]."""
    return keys if keys.ndim == 2 else keys[0]
