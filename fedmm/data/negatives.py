"""Evaluation negatives: the items a target is ranked against under the sampled protocols.

A draw belongs to one question: its noise is a pure function of the seed, the protocol, the split's name, the user and
how many items the user knows at that moment. Validation and test therefore draw independently, and nobody's draw
depends on who else is asked or on what was held out (beyond never drawing an item of the user).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.config import EvaluationConfig
from fedmm.data.splits import training_popularity
from fedmm.data.types import BoolArray, FloatArray, IntArray, Queries, Split
from fedmm.errors import DataError
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.text import counted

Negatives = Mapping[str, NDArray[np.int32]]  # protocol -> [Q, N]
SampledProtocol = Literal["uniform100", "popularity100"]
NUM_NEGATIVES = 100
SHOWN = 3  # users that a note names
NEVER_TRAINED = -1000.0  # log-weight of an item of popularity 0: any popular item comes before it


def evaluation_negatives(
    queries: Queries, split: Split, protocol: SampledProtocol, seed: int, num_negatives: int = NUM_NEGATIVES,
    popularity: IntArray | None = None,
) -> NDArray[np.int32]:  # fmt: skip
    """[Q, N] distinct items a row, ascending, none of them an item of the user; 0 alone in the row of a user who is not
    asked.

    ``uniform100`` draws every candidate alike. ``popularity100`` draws without replacement with probability
    proportional to training popularity (exponential races: Efraimidis & Spirakis, 2006); items that no client trains on
    come last, so they are drawn only where the others run out. Only ``queries.candidates`` are drawn. ``popularity``
    [V] is that of all clients, where the split holds some of them.

    N is ``num_negatives``; where fewer than half of the users leave so many, the fewest that are left by those who
    leave at least half of what the median user does. A user who leaves fewer than N is not asked: its row is 0
    (``shortage_notes`` says so). Raises ``DataError`` where nobody leaves a candidate.
    """
    barred = np.zeros(0, np.int64) if queries.candidates is None else np.flatnonzero(~queries.candidates)[1:]
    num_drawn, asked = _shares(queries, split.num_items, protocol, num_negatives)
    popularity = training_popularity(split) if popularity is None else popularity
    log_weights = np.full(len(popularity), NEVER_TRAINED)
    np.log(popularity, out=log_weights, where=popularity > 0)
    drawn = np.zeros((len(queries), num_drawn), dtype=np.int32)
    for q in np.flatnonzero(asked).tolist():
        stream = numpy_stream(seed, "negatives", protocol, split.name, int(queries.users[q]), len(queries.histories[q]))
        own = np.concatenate([queries.excluded[q], queries.targets[q : q + 1], barred])
        if protocol == "uniform100":
            drawn[q] = _uniform(stream, own, split.num_items, num_drawn)
        else:
            drawn[q] = _weighted(stream, own, log_weights, num_drawn)
    drawn.sort(axis=1)
    return drawn


def _shares(queries: Queries, num_items: int, protocol: str, num_negatives: int) -> tuple[int, BoolArray]:
    """How many negatives each query gets that is asked, and which are [Q]. Raises ``DataError`` where none is."""
    if queries.candidates is not None:
        num_items = int(queries.candidates[1:].sum())
    num_candidates = num_items - queries.excluded.lengths - 1
    num_drawn = _num_drawn(num_candidates, num_negatives)
    if num_drawn < 1:
        raise DataError(
            f"the users asked have met all {num_items} items, which leaves no candidate for {protocol}.",
            "Give data with more items, or evaluate with full ranking only (--eval full).",
        )
    return num_drawn, num_candidates >= num_drawn


def _num_drawn(num_candidates: IntArray, num_negatives: int) -> int:
    """How many negatives everybody gets who is asked: limits are those of many users, never of a single one."""
    if not len(num_candidates):
        return num_negatives
    median = float(np.median(num_candidates))
    if median >= num_negatives:
        return num_negatives
    return int(num_candidates[num_candidates >= max(1.0, median / 2)].min(initial=num_negatives) if median else 0)


def negatives_digest(negatives: Negatives) -> str:
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


def all_negatives(config: EvaluationConfig, split: Split, queries: Queries) -> Negatives:
    """The negatives [Q, N] of every sampled protocol that is measured."""
    return {
        protocol: evaluation_negatives(queries, split, protocol, config.negatives_seed)
        for protocol in config.protocols
        if protocol != "full"
    }


@dataclass(frozen=True, eq=False)
class DrawnNegatives(Mapping[str, Negatives]):
    """``all_negatives`` of every split, each drawn when it is first asked for: on many users a draw takes as long as a
    ranking, and not every command asks of every split."""

    config: EvaluationConfig
    split: Split
    queries: Mapping[str, Queries]  # by the split's name
    _drawn: dict[str, Negatives] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Negatives:
        if name not in self._drawn:
            self._drawn[name] = all_negatives(self.config, self.split, self.queries[name])
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.queries)

    def __len__(self) -> int:
        return len(self.queries)


def shortage_notes(
    queries: Mapping[str, Queries],
    num_items: int,
    protocols: Sequence[str],
    user_ids: NDArray[np.str_],
    num_negatives: int = NUM_NEGATIVES,
) -> list[str]:
    """What is worth knowing of draws under the sampled ``protocols`` that will be short, each once; ``queries`` by
    split. Users are called by their ids. Raises ``DataError`` where nobody leaves a candidate."""
    notes: dict[str, None] = {}
    for name, own in queries.items():
        for protocol in protocols:
            if protocol == "full":
                continue
            size, asked = _shares(own, num_items, protocol, num_negatives)
            if size < num_negatives:
                notes[f"{size} negatives instead of {num_negatives}: users leave no more candidates"] = None
            out = own.users[~asked]
            if len(out):
                names = ", ".join(user_ids[out[:SHOWN]].tolist()) + (", ..." if len(out) > SHOWN else "")
                notes[
                    f"{counted(len(out), 'user')} of {len(own)} asked on {name} met so many items that fewer than "
                    f"{size} negatives are left: not asked among sampled negatives ({names})"
                ] = None
    return list(notes)
