"""Claims about what must not matter to a score: the future, padding, the order of a batch, the item itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedmm.federation.dropout import step_dropout
from fedmm.models.experts.memory import MemoryExpert
from fedmm.models.features import FeatureTable
from fedmm.models.layers import Dropout, no_dropout
from fedmm.models.recommender import Batch
from fedmm.utils.params import expand_for_clients
from fedmm.utils.seeding import torch_stream
from fedmm.verification.architecture import all_rows, over, scores_of
from fedmm.verification.checks import Check, largest_gap
from fedmm.verification.subject import DTYPE, Model

EXACT = 1e-9
TRAIN_DROPOUT = 0.3


def other_items(model: Model, items: Tensor) -> Tensor:
    """Different items in every place."""
    return items % model.num_items + 1


def training_dropout(model: Model, length: int) -> Dropout:
    """The same masks whenever it is asked for."""
    config = model.recommender.config
    return step_dropout(
        TRAIN_DROPOUT,
        [torch_stream(0, "verify dropout")],
        np.array([1]),
        np.array([length]),
        config.num_blocks,
        config.hidden_dim,
        DTYPE,
        torch.device("cpu"),
    )


def future_leak(model: Model, *, training: bool) -> float:
    """The largest change of a score when every later item of the history changes, from any place on."""
    L = model.history.shape[2]
    parameters, rows = expand_for_clients(model.params), all_rows(model.history)

    def scores(items: Tensor) -> Tensor:
        dropout = training_dropout(model, L) if training else no_dropout
        return model.recommender.forward(parameters, Batch(items, rows), dropout).scores.materialise()[0]

    before = scores(model.history)
    gap = 0.0
    for place in range(1, L):
        changed = model.history.clone()
        changed[:, :, place:] = other_items(model, changed[:, :, place:])
        gap = max(gap, largest_gap(before[:place], scores(changed)[:place]))
    return gap


def past_matters(model: Model) -> float:
    """1 where changing the first item leaves the last score as it was, which would make causality trivial."""
    changed = model.history.clone()
    changed[:, :, 0] = other_items(model, changed[:, :, 0])
    return float(largest_gap(scores_of(model)[-1], scores_of(model, items=changed)[-1]) == 0.0)


def prefix_gap(model: Model) -> float:
    """All positions at once against one pass for each prefix."""
    whole = scores_of(model)
    return max(
        largest_gap(whole[end - 1], scores_of(model, items=model.history[:, :, :end])[-1])
        for end in range(1, model.history.shape[2] + 1)
    )


def padding_gap(model: Model) -> float:
    """The effect of padding after the history."""
    L = model.history.shape[2]
    room = model.recommender.config.max_length - L
    padded = torch.nn.functional.pad(model.history, (0, min(3, room)))
    return largest_gap(scores_of(model), scores_of(model, items=padded)[:L])


def permutation_gap(model: Model) -> float:
    """Windows of a batch in another order, and clients in another order."""
    other = other_items(model, model.history)
    third = other_items(model, other)
    windows = torch.cat([model.history, other, third], dim=1)
    order = torch.tensor([2, 0, 1])
    L = model.history.shape[2]
    straight = scores_of(model, items=windows).view(3, L, -1)
    gap = largest_gap(straight[order], scores_of(model, items=windows[:, order]).view(3, L, -1))
    clients = windows.transpose(0, 1)
    batch = Batch(clients[order], all_rows(clients))
    together = model.recommender.forward(expand_for_clients(model.params, 3), batch).scores.materialise()
    return max(gap, largest_gap(straight[order], together))


def candidate_gap(model: Model) -> float:
    """Scores of gathered candidates, in any order, against the same columns of the whole catalogue."""
    L = model.history.shape[2]
    candidates = torch.linspace(model.num_items, 1, 9).round().long().unsqueeze(0)
    batch = Batch(model.history, all_rows(model.history), candidates, torch.ones_like(candidates, dtype=torch.bool))
    some = model.recommender.forward(expand_for_clients(model.params), batch).scores.materialise()[0]
    return largest_gap(some, scores_of(model)[:L][:, candidates[0]])


def evaluation_gap(model: Model) -> float:
    """The same scores where nothing is differentiated, which may be formed another way: of the history, of one item
    that comes back, and of some candidates."""
    again = model.history[:, :, :1].expand(-1, -1, 2)
    candidates = torch.cat([model.history[:, 0, :3], torch.tensor([[model.num_items]])], dim=1)

    def found() -> list[Tensor]:
        some = Batch(model.history, all_rows(model.history), candidates, torch.ones_like(candidates, dtype=torch.bool))
        asked = model.recommender.forward(expand_for_clients(model.params), some).scores.materialise()[0]
        return [scores_of(model), scores_of(model, items=again), asked]

    with torch.enable_grad():
        training = found()
    with torch.no_grad():
        evaluation = found()
    return max(map(largest_gap, training, evaluation))


def has_memory(model: Model) -> bool:
    """Whether there is a memory expert that can read text."""
    return isinstance(model.recommender.parts.get("semantic"), MemoryExpert)


def self_attention_gap(model: Model) -> float:
    """What an item's own entry adds to its score: its text features may not matter where it is only remembered.

    The semantic expert asks with the item's embedding, so an item's own text reaches its score through memory alone.
    """
    table = model.recommender.tables["semantic"]
    own = [item for item in model.history[0, 0].tolist() if table.present[item]]
    gap = 0.0 if own else float("inf")
    for item in own[-3:]:
        values = table.values.clone()
        values[item] += 1.0
        tables = {**model.recommender.tables, "semantic": FeatureTable(values, table.present)}
        changed = replace(model, recommender=replace(model.recommender, tables=tables))
        gap = max(gap, largest_gap(scores_of(model)[:, item], scores_of(changed)[:, item]))
    return gap


def remembered_items_matter(model: Model) -> float:
    """1 where an item's text features move no score at all, which would make the claim above trivial."""
    table = model.recommender.tables["semantic"]
    values = table.values.clone()
    values[model.history.flatten()] += 1.0
    tables = {**model.recommender.tables, "semantic": FeatureTable(values, table.present)}
    changed = replace(model, recommender=replace(model.recommender, tables=tables))
    return float(largest_gap(scores_of(model), scores_of(changed)) == 0.0)


CHECKS: Sequence[Check] = tuple(
    Check("architecture", name, measure)
    for name, measure in (
        (
            "causality, evaluation: no later item moves an earlier score",
            over(lambda m: future_leak(m, training=False), EXACT),
        ),
        (
            "causality, training: no later item moves an earlier score",
            over(lambda m: future_leak(m, training=True), EXACT),
        ),
        ("an earlier item does move a later score", over(past_matters, 0.0)),
        ("all positions at once equal one pass a prefix", over(prefix_gap, EXACT)),
        ("padding has no effect", over(padding_gap, EXACT)),
        ("permuting a batch permutes its scores", over(permutation_gap, EXACT)),
        ("candidates are scored alike alone and in the catalogue", over(candidate_gap, EXACT)),
        ("scores are the same where nothing is differentiated", over(evaluation_gap, EXACT)),
        ("memory: an item never attends to itself", over(self_attention_gap, EXACT, has_memory)),
        ("memory: what is remembered does move scores", over(remembered_items_matter, 0.0, has_memory)),
    )
)
