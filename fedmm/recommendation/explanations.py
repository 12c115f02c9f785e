"""What an explanation is: shares of a score, weights, the entries that mattered, and a sentence or two."""

from __future__ import annotations

from fedmm.utils.records import Named, Record

SAID = {
    "backbone": "the order in which items were met",
    "visual": "its picture",
    "semantic": "its text",
    "transition": "what usually follows such items",
    "succession": "what has followed recent items",
    "regression": "what the same people meet",
    "kinship": "attributes in common with recent items",
}
NOT_LINEAR = (
    "Under cosine scoring all shares are divided by the length of their sum, which every expert moves: they add up to "
    "the score, but without one expert the others' shares would differ."
)


class Entry(Record):
    """One entry of the history. ``change`` is the score minus the score that the item has without this entry."""

    item_id: str
    title: str
    place: int  # in the history, 1 the oldest
    change: float


class Explanation(Record):
    """Why an item has the score it has after a history.

    ``shares`` are what the backbone, every expert and what is added to the scores contribute: they sum to ``score``.
    ``lifts`` are the shares minus those of the average item after the same history, and ``reason`` names the greatest.
    ``weights`` are the router's for this item. ``entries`` are those that the score can depend on, the one that
    mattered most first; of a history that is longer than the model reads the oldest cannot change it.
    """

    item_id: str
    title: str
    score: float
    reason: str
    shares: Named[float]
    lifts: Named[float]
    weights: Named[float]
    gate: float | None
    entries: tuple[Entry, ...]
    linear: bool
    words: str
    picture: str | None = None  # the file that shows the item, where a folder of pictures was given


def in_words(name: str, score: float, lifts: dict[str, float], entries: tuple[Entry, ...], *, linear: bool) -> str:
    """The explanation as sentences."""
    order = sorted(lifts, key=lambda part: -lifts[part])
    helps = [part for part in order if lifts[part] > 0]
    hurts = [part for part in reversed(order) if lifts[part] < 0]
    text = f"{name} scores {score:.3f}"
    text += f", above the average item by {_listed(helps, lifts)}" if helps else ", below the average item in all parts"
    text += f"; against it speaks {_listed(hurts[:1], lifts)}." if helps and hurts else "."
    held = [entry for entry in entries[:3] if entry.change > 0]
    if held:
        named = ", ".join(f"{entry.title or entry.item_id} ({entry.change:+.3f})" for entry in held)
        text += f" Of the history, what mattered most: {named}."
    return text if linear else f"{text} {NOT_LINEAR}"


def _listed(parts: list[str], lifts: dict[str, float]) -> str:
    return ", ".join(f"{SAID.get(part, part)} ({part} {lifts[part]:+.3f})" for part in parts)
