"""Lists of a trained model: for whom, from which items, in which order, a batch of histories at a time."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedmm.data.ragged import take_rows
from fedmm.data.types import BoolArray, IntArray, Ragged
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.ranking import BLOCK, Scorer
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.recommendation import similar
from fedmm.recommendation.diversity import Diversity, require_weight
from fedmm.recommendation.explain import Explainer
from fedmm.recommendation.explanations import Explanation
from fedmm.recommendation.folded import LARGE, Folded, fold
from fedmm.recommendation.recommend import (
    NOBODY,
    ItemId,
    Names,
    Quickly,
    Recommendation,
    blocks_of,
    named,
    rank,
    score_all,
)
from fedmm.recommendation.shortlist import Shortlist
from fedmm.utils.devices import has_bfloat16
from fedmm.utils.lists import require_list
from fedmm.utils.text import counted

Warn = Callable[[str], None]
History = Sequence[ItemId]
BATCH = 4096  # histories whose lists are made before the next ones are looked at
BLOCK_NUMBERS = 2**24  # scores at once, a thread: 64 MB in float32
FEW_LISTS = 512  # below, rounded keys would cost more than they save


@dataclass(frozen=True)
class Choice:
    """What a list may hold, and in which order. Raises ConfigError for what no list can be."""

    k: int = 10
    exclude: Sequence[ItemId] = ()
    only: Sequence[ItemId] | None = None
    keep_seen: bool = False
    min_score: float | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k cannot be {self.k}.", "Ask for at least one item.")
        require_weight(self.diversity)
        if self.min_score is not None and math.isnan(self.min_score):
            raise ConfigError("min_score is not a number.", "Give the least score of a list.")


@dataclass(frozen=True, eq=False)
class Asked:
    """Who is asked for: the rows of users, ``NOBODY`` for somebody new, and where their histories lie."""

    users: IntArray  # [n]
    rows: IntArray  # [n] of ``histories``
    histories: Ragged  # perhaps mapped from a file: only what is asked for is read

    def __len__(self) -> int:
        return len(self.users)

    def some(self, rows: IntArray) -> tuple[IntArray, Ragged]:
        """Users and histories of the rows named."""
        return self.users[rows], take_rows(self.histories, self.rows[rows])


@dataclass(frozen=True, eq=False)
class Chooser:
    """A model that is asked for lists."""

    experiment: Experiment
    snapshot: Snapshot
    fold_from: int = LARGE  # items from which scores are folded: 0 where one model answers many single questions

    @cached_property
    def names(self) -> Names:
        """Ids and indices."""
        return Names(self.experiment.dataset)

    @cached_property
    def folded(self) -> Folded | None:
        """The model in one product, where that can be and is worth it."""
        worth_it = self.experiment.split.num_items >= self.fold_from
        return fold(self.experiment, self.snapshot) if worth_it else None

    @cached_property
    def scorer(self) -> Scorer:
        """The model's scores: folded where that can be, else the evaluator's."""
        return self.experiment.scorer(self.snapshot) if self.folded is None else self.folded.scorer

    @cached_property
    def shortlist(self) -> Shortlist | None:
        """The quick way to the same lists, where the machine has one."""
        device = self.experiment.device
        if self.folded is None or not self.folded.is_product or device.type != "cpu" or not has_bfloat16(device):
            return None
        return Shortlist(self.folded)

    def asked(
        self,
        history: History | None,
        histories: Sequence[History] | None,
        user: ItemId | None,
        users: Sequence[ItemId] | None,
        warn: Warn | None,
    ) -> Asked:
        """Who is asked for, given one of the four ways to say it. Raises ConfigError for none or several, DataError for
        an unknown user or a history of which nothing is known."""
        if sum(way is not None for way in (history, histories, user, users)) != 1:
            raise ConfigError("One of history, histories, user and users is needed.", "Give exactly one of them.")
        require_list(users, "users")
        if user is not None or users is not None:
            found = self.names.users([user] if user is not None else [] if users is None else users)
            return Asked(found, found, self.experiment.dataset.interactions.histories)
        given = [history] if history is not None else [] if histories is None else histories
        for what, ids in (("history", history), ("histories", histories)):
            require_list(ids, what)
        for row in given:
            require_list(row, "a history")
        rows, unknown = self.names.histories(given)
        tell_unknown(unknown, warn)
        return Asked(np.full(len(rows), NOBODY, np.int64), np.arange(len(rows)), rows)

    def each(self, asked: Asked, choice: Choice, warn: Warn | None) -> Iterator[list[Recommendation]]:
        """A list for each of ``asked``, made in batches as they are taken. Raises DataError where no id of
        ``choice.only`` is known."""
        candidates = self.candidates(choice.only, choice.exclude, warn)
        number = self.experiment.split.num_items
        diversity = None
        if choice.diversity:
            table = self.snapshot.params[ITEM_TABLE]
            diversity = Diversity.of(choice.diversity, self.experiment.recommender.tables, table)
        pool = choice.k if diversity is None else diversity.pool(choice.k)
        for rows in blocks_of(len(asked), BATCH):
            users, histories = asked.some(rows)
            quickly, size = self._quickly(len(asked), min(pool, number))
            items, scores = rank(
                self.scorer,
                users,
                histories,
                min(choice.k, number),
                excluded=Ragged.from_rows([[]] * len(rows)) if choice.keep_seen else histories,
                candidates=candidates,
                min_score=choice.min_score,
                diversity=diversity,
                quickly=quickly,
                block_size=size,
                device=self.experiment.device,
            )
            yield from (self.names.listed(*pair) for pair in zip(items, scores, strict=True))

    def _quickly(self, num_lists: int, keep: int) -> tuple[Quickly | None, int]:
        """The quick way where it is worth it, and how many histories are scored at once."""
        size = max(1, min(BLOCK, BLOCK_NUMBERS // (self.experiment.split.num_items + 1)))
        if num_lists < FEW_LISTS or self.shortlist is None or not self.shortlist.worth_it(keep):
            return None, size
        return self.shortlist.best, self.shortlist.block_size

    def similar(self, item: ItemId, by: str, choice: Choice, warn: Warn | None) -> list[Recommendation]:
        """The items most like ``item``. Raises DataError where it is unknown or has nothing to compare by, ConfigError
        for a way to compare that there is not."""
        (index, *_), unknown = self.names.items([item]) if str(item) in self.names.item_index else ((0,), [str(item)])
        if unknown:
            raise DataError(f"There is no item {named(unknown)}.", "Give an id as it stands in the data.")
        trained, tables = self.experiment.split.candidates, self.experiment.recommender.tables
        vectors, known = similar.vectors_by(by, self.snapshot.params[ITEM_TABLE], trained, tables)
        allowed = self.candidates(choice.only, choice.exclude, warn)
        allowed = np.ones(len(known), dtype=bool) if allowed is None else allowed
        items, scores = similar.nearest(vectors, known, index, min(choice.k, self.experiment.split.num_items), allowed)
        kept = items if choice.min_score is None else np.where(scores >= choice.min_score, items, 0)
        return self.names.listed(kept, scores)

    def explain(self, asked: Asked, items: Sequence[ItemId] | None, k: int, warn: Warn | None) -> list[Explanation]:
        """Explanations of ``items``, or of the ``k`` best, for the one who is ``asked`` for. Raises DataError for an
        unknown item."""
        require_list(items, "items")
        if items is None:
            (found,) = self.each(asked, Choice(k), warn)
            items = [one.item_id for one in found]
        indices, unknown = self.names.items(items)
        if unknown:
            raise DataError(f"There is no item {named(unknown)}.", "Give ids as they stand in the data.")
        return self._explainer.explain(int(asked.users[0]), asked.histories[int(asked.rows[0])], indices)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.experiment, self.snapshot, self.scorer, self.names)

    def score(self, histories: Sequence[History], warn: Warn | None) -> NDArray[np.float32]:
        """[n, V - 1]: every item's score after each history."""
        asked = self.asked(None, histories, None, None, warn)
        number, device = self.experiment.split.num_items, self.experiment.device
        return score_all(self.scorer, asked.users, asked.histories, number, device)

    def candidates(
        self, only: Sequence[ItemId] | None, exclude: Sequence[ItemId], warn: Warn | None
    ) -> BoolArray | None:
        """[V] the items that a list may hold, None for all: those of ``only``, else those that the model trained on,
        without ``exclude``."""
        require_list(only, "only")
        require_list(exclude, "exclude")
        mask = self.experiment.split.candidates
        if only is not None:
            known, unknown = self.names.items(only)
            if not known:
                shown = named(unknown) or "the list is empty"
                raise DataError(f"None of the items to choose from is known ({shown}).", "Give ids of the data.")
            tell_unknown(unknown, warn)
            mask = np.zeros(self.experiment.split.num_items + 1, dtype=bool)
            mask[known] = True
        left_out, unknown = self.names.items(exclude)
        tell_unknown(unknown, warn)
        if left_out:
            mask = np.ones(self.experiment.split.num_items + 1, dtype=bool) if mask is None else mask.copy()
            mask[left_out] = False
        return mask


def tell_unknown(unknown: Sequence[str], warn: Warn | None) -> None:
    """Counts and names ``unknown`` ids to ``warn``, or as a warning."""
    if not unknown:
        return
    number = counted(len(unknown), "unknown item id")
    text = f"{number} {'is' if len(unknown) == 1 else 'are'} passed over: {named(unknown)}."
    if warn is None:
        warnings.warn(text, stacklevel=_callers_level())
    else:
        warn(text)


def _callers_level() -> int:
    """The ``stacklevel`` at which a warning names the line, outside fedmm, that called into it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "fedmm":
        frame, level = frame.f_back, level + 1
    return level
