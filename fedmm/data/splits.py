"""Which part of a history a client trains on and what it is asked about.

Histories are in time order, so every question is a place in one: the items before the place are known, the item at the
place is the target, and all the user's other items are excluded from the candidates. One rule for every split. Where
repeats are kept (``data.repeats = "keep"``) any item may come again and nothing is excluded: were the target alone left
of what a user has met, that would give it away.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedmm.config import DataConfig
from fedmm.config.schema import moment
from fedmm.data.cold_items import choose_cold_items, cold_queries, without_items
from fedmm.data.ragged import keep_values, prefixes, take_rows
from fedmm.data.types import BoolArray, Dataset, FloatArray, IntArray, Interactions, Queries, Ragged, Split
from fedmm.errors import DataError

FEWEST_ITEMS = 3  # leave-one-out: one to train on, one to validate, one to test


def make_split(dataset: Dataset, config: DataConfig) -> Split:
    """Split the interactions as ``config.split`` says; ``notes`` count who is not asked and why.

    ``leave_one_out``: a user's last item is its test target, the last but one its validation target. Users with fewer
    than three items train and are not asked. ``temporal``: two cuts through all events, with ``temporal_fraction`` of
    them after the second and as many between the two; a target is a user's first item after a cut, clients train on
    what lies before the first, and only users with a history are asked. Events at the moment of a cut lie after it.
    With ``validation_from`` and ``test_from`` the cuts are these moments. ``user_ratio``: the two cuts lie in each
    history, ``temporal_fraction`` of it after the second and as much between the two, never less than one event.
    ``files``: clients train on the events of the training file; a target is a user's first event of the validation or
    test file, known are all that the files before it hold.

    With ``cold_item_fraction`` all this is said of the interactions without the cold items, which are no candidates
    either; the split's ``cold`` asks about them (``cold_items.py``).

    Raises ``DataError`` where nobody can be asked.
    """
    interactions = dataset.interactions
    if not config.cold_item_fraction:
        return _split_of(interactions, config)
    cold = choose_cold_items(interactions.item_ids, config.cold_item_fraction, config.cold_item_seed)
    split = _split_of(without_items(interactions, cold), config, _real(~cold))
    queries, notes = cold_queries(interactions, cold, split.train)
    if config.repeats == "keep":
        queries = replace(queries, excluded=prefixes(queries.excluded, np.zeros_like(queries.users)))
    return replace(split, cold=queries, notes=(*notes, *split.notes))


def training_popularity(split: Split) -> IntArray:
    """[V]: how many training events each item has (one a history, unless repeats are kept); padding has 0."""
    return np.bincount(split.train.values, minlength=split.num_items + 1).astype(np.int64)


def _split_of(interactions: Interactions, config: DataConfig, candidates: BoolArray | None = None) -> Split:
    """``candidates`` [V]: the items that are asked about; None: all."""
    repeats = config.repeats == "keep"
    if config.split == "leave_one_out":
        return _leave_one_out(interactions, candidates, repeats=repeats)
    if config.split == "user_ratio":
        return _user_ratio(interactions, config.temporal_fraction, candidates, repeats=repeats)
    if config.split == "files":
        return _premade(interactions, repeats=repeats)
    return _temporal(interactions, _cuts(interactions.timestamps, config), candidates, repeats=repeats)


def _real(items: BoolArray) -> BoolArray:
    """The mask [V] without padding."""
    real = items.copy()
    real[0] = False
    return real


def _leave_one_out(interactions: Interactions, candidates: BoolArray | None, *, repeats: bool) -> Split:
    lengths = interactions.histories.lengths
    asked = lengths >= FEWEST_ITEMS
    if not asked.any():
        longest = int(lengths.max(initial=0))
        raise DataError(
            f"no user has {FEWEST_ITEMS} items (the longest history has {longest}), so leave-one-out can ask nobody.",
            "Give data with longer histories or loosen the filters.",
        )
    notes = []
    if not asked.all():
        notes.append(f"{int((~asked).sum())} users with fewer than {FEWEST_ITEMS} items train but are not asked")
    train_lengths = np.where(asked, lengths - 2, lengths)
    places = lengths - 2, lengths - 1
    return _split(
        "leave_one_out", interactions, train_lengths, places, (asked, asked), candidates, notes, repeats=repeats
    )


def _user_ratio(interactions: Interactions, fraction: float, candidates: BoolArray | None, *, repeats: bool) -> Split:
    lengths = interactions.histories.lengths
    share = np.maximum(1, np.rint(fraction * lengths).astype(np.int64))
    asked = lengths > 2 * share
    if not asked.any():
        longest = int(lengths.max(initial=0))
        raise DataError(
            f"no user has more than two events (the longest history has {longest}), so the user_ratio split can ask "
            "nobody.",
            "Give data with longer histories or loosen the filters.",
        )
    places = np.where(asked, lengths - 2 * share, 0), np.where(asked, lengths - share, 0)
    notes = [] if asked.all() else [f"{int((~asked).sum())} users with too few events train but are not asked"]
    train = np.where(asked, places[0], lengths)
    return _split("user_ratio", interactions, train, places, (asked, asked), candidates, notes, repeats=repeats)


def _premade(interactions: Interactions, *, repeats: bool) -> Split:
    if interactions.parts is None:
        raise DataError("these interactions are of no split that is made.", "Give the files, or another data.split.")
    train, validation, test = interactions.parts.T
    places = train, train + validation
    asked = (train > 0) & (validation > 0), (train + validation > 0) & (test > 0)
    notes = []
    for stage, own, users in zip(("validation", "test"), (validation, test), asked, strict=True):
        if not users.any():
            raise DataError(
                f"no user of the {stage} events has events before them, so nobody can be asked ({int((own > 0).sum())} "
                f"users have {stage} events, {int((train > 0).sum())} have training events).",
                "Ids must be the same in all files; or lower data.min_user_interactions, which may have dropped users.",
            )
        alone, later = int(((own > 0) & ~users).sum()), int((own - 1)[users].sum())
        if alone:
            notes.append(f"{alone} users with {stage} events and none before them are not asked on {stage}")
        if later:
            notes.append(f"each user is asked about its first {stage} event; {later} later ones are not asked about")
    untested = int(((train > 0) & (test == 0)).sum())
    if untested:
        notes.append(f"{untested} users without test events train and are not asked on test")
    return _split("files", interactions, train, places, asked, None, notes, repeats=repeats)


def _cuts(timestamps: FloatArray, config: DataConfig) -> tuple[float, float]:
    """The moments at which validation and test begin."""
    if config.validation_from is not None and config.test_from is not None:
        return moment(config.validation_from), moment(config.test_from)
    ordered = np.sort(timestamps)
    share = max(1, round(config.temporal_fraction * len(ordered)))
    if len(ordered) < 2 * share + 1:
        raise DataError(
            f"{len(ordered)} events are too few for a temporal split.",
            "Give more data or use data.split leave_one_out.",
        )
    return float(ordered[-2 * share]), float(ordered[-share])


def _temporal(
    interactions: Interactions, cuts: tuple[float, float], candidates: BoolArray | None, *, repeats: bool
) -> Split:
    histories, timestamps = interactions.histories, interactions.timestamps
    owner = histories.row_of_value
    first, second = (
        np.bincount(owner[timestamps < cut], minlength=len(histories)) for cut in cuts
    )  # [U] events before
    lengths = histories.lengths
    late = second < lengths
    asked = (first > 0) & (first < second), (second > 0) & late
    for stage, users in zip(("validation", "test"), asked, strict=True):
        if not users.any():
            raise DataError(
                f"the temporal split leaves no {stage} user: nobody has events on both sides of the cut "
                f"({len(np.unique(timestamps))} distinct timestamps in {len(timestamps)} events, from "
                f"{timestamps.min():.0f} to {timestamps.max():.0f}; cuts at {cuts[0]:.0f} and {cuts[1]:.0f}).",
                "Check the timestamp column, change data.temporal_fraction or the moments of the cuts, or use "
                "data.split leave_one_out.",
            )
    notes = [
        f"temporal cuts at {cuts[0]:.0f} and {cuts[1]:.0f}: {int(first.sum())} events before the first, "
        f"{int((second - first).sum())} between, {int((lengths - second).sum())} after the second",
        f"{int(asked[1].sum())} warm test users remain of {int(late.sum())} with events after the second cut",
    ]
    return _split("temporal", interactions, first, (first, second), asked, candidates, notes, repeats=repeats)


def _split(
    name: str,
    interactions: Interactions,
    train_lengths: IntArray,
    places: tuple[IntArray, IntArray],
    asked: tuple[BoolArray, BoolArray],
    candidates: BoolArray | None,
    notes: list[str],
    *,
    repeats: bool,
) -> Split:
    """``places`` and ``asked``, [U] each: the validation's, then the test's."""
    histories = interactions.histories
    train = prefixes(histories, train_lengths)
    validation, test = (
        _queries(histories, place, users, candidates, repeats=repeats)
        for place, users in zip(places, asked, strict=True)
    )
    untrained = int((~np.isin(test.targets, train.values)).sum())
    if untrained:
        notes = [*notes, f"{untrained} of {len(test)} test targets are items that no client trains on"]
    num_candidates = interactions.num_items if candidates is None else int(candidates.sum())
    alone = int((test.excluded.lengths == num_candidates - 1).sum())
    if alone:
        notes = [
            *notes,
            f"{alone} of {len(test)} test users met every other item: full ranking cannot miss their target",
        ]
    return Split(name, interactions.num_items, train, validation, test, tuple(notes))


def _queries(
    histories: Ragged, places: IntArray, asked: BoolArray, candidates: BoolArray | None, *, repeats: bool
) -> Queries:
    users = np.flatnonzero(asked).astype(np.int64)
    own, places = take_rows(histories, users), places[users]
    at = own.offsets[:-1] + places
    targets = own.values[at]
    others = own.values != np.repeat(targets, own.lengths)
    excluded = prefixes(own, np.zeros_like(places)) if repeats else keep_values(own, others)
    return Queries(users, prefixes(own, places), targets, excluded, candidates)
