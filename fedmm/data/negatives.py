"""Evaluation negatives: the items a target is ranked against under the sampled protocols.

A draw belongs to one question: its noise is a pure function of the seed, the protocol, the split's name, the user and
how many items the user knows at that moment. Validation and test therefore draw independently, and nobody's draw
depends on who else is asked or on what was held out (beyond never drawing an item of the user).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.config import EvaluationConfig
from fedmm.data.splits import training_popularity
from fedmm.data.types import FloatArray, IntArray, Queries, Split
from fedmm.errors import DataError
from fedmm.utils.seeding import numpy_stream

SampledProtocol = Literal["uniform100", "popularity100"]
NUM_NEGATIVES = 100
NEVER_TRAINED = -1000.0  # log-weight of an item of popularity 0: any popular item comes before it


def evaluation_negatives(
    queries: Queries, split: Split, protocol: SampledProtocol, seed: int, num_negatives: int = NUM_NEGATIVES
) -> NDArray[np.int32]:
    """[Q, N] distinct items a row, ascending, none of them an item of the user.

    ``uniform100`` draws every candidate alike. ``popularity100`` draws without replacement with probability
    proportional to training popularity (exponential races: Efraimidis & Spirakis, 2006); items that no client trains on
    come last, so they are drawn only where the others run out. Only ``queries.candidates`` are drawn.

    N is ``num_negatives``, or for everybody as many as the user with the fewest candidates leaves
    (``shortage_note`` says so). Raises ``DataError`` if a user leaves none.
    """
    barred = np.zeros(0, np.int64) if queries.candidates is None else np.flatnonzero(~queries.candidates)[1:]
    num_candidates = split.num_items - len(barred) - queries.excluded.lengths - 1
    num_drawn = min(num_negatives, int(num_candidates.min(initial=num_negatives)))
    if num_drawn < 1:
        raise DataError(
            f"user {int(queries.users[num_candidates.argmin()])} has met all {split.num_items - len(barred)} items "
            f"(users are counted from 0), which leaves no candidate for {protocol}.",
            "Give data with more items, or evaluate with full ranking only (--eval full).",
        )
    popularity = training_popularity(split)
    log_weights = np.full(len(popularity), NEVER_TRAINED)
    np.log(popularity, out=log_weights, where=popularity > 0)
    drawn = np.empty((len(queries), num_drawn), dtype=np.int32)
    for q in range(len(queries)):
        stream = numpy_stream(seed, "negatives", protocol, split.name, int(queries.users[q]), len(queries.histories[q]))
        own = np.concatenate([queries.excluded[q], queries.targets[q : q + 1], barred])
        if protocol == "uniform100":
            drawn[q] = _uniform(stream, own, split.num_items, num_drawn)
        else:
            drawn[q] = _weighted(stream, own, log_weights, num_drawn)
    drawn.sort(axis=1)
    return drawn


def shortage_note(negatives: NDArray[np.int32], num_negatives: int = NUM_NEGATIVES) -> str | None:
    """What to tell the user where the catalogue was too small for the negatives asked for; None where it was not."""
    if negatives.shape[1] >= num_negatives:
        return None
    return f"{negatives.shape[1]} negatives instead of {num_negatives}: a user leaves no more candidates"


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


def shortage_notes(drawn: Iterable[Mapping[str, NDArray[np.int32]]]) -> list[str]:
    """What is worth knowing of draws that are short, each once."""
    return sorted({note for own in drawn for note in map(shortage_note, own.values()) if note})
