"""Evaluation negatives: the items a target is ranked against under the sampled protocols.

A draw belongs to one question: its noise is a pure function of the seed, the protocol, the split's name, the user and
how many items the user knows at that moment. Validation and test therefore draw independently, and nobody's draw
depends on who else is asked or on what was held out (beyond never drawing an item of the user).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.config import EvaluationConfig
from fedmm.data.splits import training_popularity
from fedmm.data.types import FloatArray, IntArray, Queries, Split
from fedmm.errors import DataError
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.text import counted

SampledProtocol = Literal["uniform100", "popularity100"]
NUM_NEGATIVES = 100
SHOWN = 3  # users that a note names
NEVER_TRAINED = -1000.0  # log-weight of an item of popularity 0: any popular item comes before it


def evaluation_negatives(
    queries: Queries, split: Split, protocol: SampledProtocol, seed: int, num_negatives: int = NUM_NEGATIVES
) -> NDArray[np.int32]:
    """[Q, N] distinct items a row, ascending, none of them an item of the user; 0 alone in the row of a user who is not
    asked.

    ``uniform100`` draws every candidate alike. ``popularity100`` draws without replacement with probability
    proportional to training popularity (exponential races: Efraimidis & Spirakis, 2006); items that no client trains on
    come last, so they are drawn only where the others run out. Only ``queries.candidates`` are drawn.

    N is ``num_negatives``; where fewer than half of the users leave so many, the fewest that are left by those who
    leave at least half of what the median user does. A user who leaves fewer than N is not asked: its row is 0
    (``shortage_notes`` says so). Raises ``DataError`` where nobody leaves a candidate.
    """
    barred = np.zeros(0, np.int64) if queries.candidates is None else np.flatnonzero(~queries.candidates)[1:]
    num_items = split.num_items - len(barred)
    num_candidates = num_items - queries.excluded.lengths - 1
    num_drawn = _num_drawn(num_candidates, num_negatives)
    if num_drawn < 1:
        raise DataError(
            f"the users asked have met all {num_items} items, which leaves no candidate for {protocol}.",
            "Give data with more items, or evaluate with full ranking only (--eval full).",
        )
    popularity = training_popularity(split)
    log_weights = np.full(len(popularity), NEVER_TRAINED)
    np.log(popularity, out=log_weights, where=popularity > 0)
    drawn = np.zeros((len(queries), num_drawn), dtype=np.int32)
    for q in np.flatnonzero(num_candidates >= num_drawn).tolist():
        stream = numpy_stream(seed, "negatives", protocol, split.name, int(queries.users[q]), len(queries.histories[q]))
        own = np.concatenate([queries.excluded[q], queries.targets[q : q + 1], barred])
        if protocol == "uniform100":
            drawn[q] = _uniform(stream, own, split.num_items, num_drawn)
        else:
            drawn[q] = _weighted(stream, own, log_weights, num_drawn)
    drawn.sort(axis=1)
    return drawn


def _num_drawn(num_candidates: IntArray, num_negatives: int) -> int:
    """How many negatives everybody gets who is asked: limits are those of many users, never of a single one."""
    if not len(num_candidates):
        return num_negatives
    median = float(np.median(num_candidates))
    if median >= num_negatives:
        return num_negatives
    return int(num_candidates[num_candidates >= max(1.0, median / 2)].min(initial=num_negatives) if median else 0)


def negatives_digest(negatives: Mapping[str, NDArray[np.int32]]) -> str:
    """Twelve hex digits over all protocols' draws: equal digests mean equal candidates."""
    digest = hashlib.sha256()
    for protocol in sorted(negatives):
        rows = negatives[protocol]
        digest.update(f"{protocol}:{rows.shape}:".encode())
        digest.update(rows.astype("<i4").tobytes())
    return digest.hexdigest()[:12]


def _uniform(stream: np.random.Generator, own: IntArray, num_items: int, num_drawn: int) -> IntArray:
    """Draw ranks among the items that are not the user's, then find the item of each rank."""
    own = np.unique(own)
    ranks = stream.choice(num_items - len(own), num_drawn, replace=False, shuffle=False)
    gaps = own - np.arange(1, len(own) + 1)  # candidates below each own item
    return ranks + 1 + np.searchsorted(gaps, ranks, side="right")


def _weighted(stream: np.random.Generator, own: IntArray, log_weights: FloatArray, num_drawn: int) -> IntArray:
    """Item i finishes a race at time e_i / w_i, e_i exponential; the first ones are the draw."""
    times = np.log(stream.standard_exponential(len(log_weights))) - log_weights
    times[0] = np.inf
    times[own] = np.inf
    return np.argpartition(times, num_drawn - 1)[:num_drawn]


def all_negatives(config: EvaluationConfig, split: Split, queries: Queries) -> Mapping[str, NDArray[np.int32]]:
    """The negatives [Q, N] of every sampled protocol that is measured."""
    return {
        protocol: evaluation_negatives(queries, split, protocol, config.negatives_seed)
        for protocol in config.protocols
        if protocol != "full"
    }


def shortage_notes(
    drawn: Mapping[str, Mapping[str, NDArray[np.int32]]],
    queries: Mapping[str, Queries],
    user_ids: NDArray[np.str_],
    num_negatives: int = NUM_NEGATIVES,
) -> list[str]:
    """What is worth knowing of draws that are short, each once; ``drawn`` and ``queries`` by split. Users are called by
    their ids."""
    notes: dict[str, None] = {}
    for split, own in drawn.items():
        for rows in own.values():
            size = rows.shape[1]
            if size < num_negatives:
                notes[f"{size} negatives instead of {num_negatives}: users leave no more candidates"] = None
            out = queries[split].users[rows[:, 0] == 0] if size else queries[split].users
            if len(out):
                names = ", ".join(user_ids[out[:SHOWN]].tolist()) + (", ..." if len(out) > SHOWN else "")
                notes[
                    f"{counted(len(out), 'user')} of {len(rows)} asked on {split} met so many items that fewer than "
                    f"{size} negatives are left: not asked among sampled negatives ({names})"
                ] = None
    return list(notes)
