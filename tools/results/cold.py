"""The table of cold items: what a model knows of items that nobody trained on, and what chance would reach."""

from __future__ import annotations

from collections.abc import Sequence

from .runs import COLD_ROWS, COLD_SIZES
from .tables import PARTS_ALONE, QUALITY, UNMEASURED, Results, extent, markdown, under

VARIANTS = {"cold items": "with features", "cold items, backbone": "without features"}  # of quality


def cold_table(found: Results) -> str:
    """HR@10 among the cold items of the model with features and of the one without, and of each part alone."""
    places = [(QUALITY, variant) for variant in VARIANTS if found.column(QUALITY, variant, "cold/chance")]
    if not places:
        return UNMEASURED
    heads = [head for _, variant in places for head in (f"HR@10 {VARIANTS[variant]}", "over chance")]
    rows = [
        (_label(name), *(cell for _, variant in places for cell in _cells(found, variant, name)))
        for name in (*COLD_ROWS, "chance")
        if any(_values(found, variant, name) for _, variant in places)
    ]
    sizes = []
    for name in COLD_SIZES:
        values = [value for place in places for value in found.column(*place, f"cold/{name}")]
        sizes.append(extent(values, ",.0f"))
    note = (
        f"{found.setup(*places)}. {sizes[0]} items whose interactions nobody trains on are ranked among themselves, "
        f"for {sizes[1]} pairs of a user and a cold item; means over seeds {found.seeds(*places[0])}, with their "
        "range. Chance is a random order. Without features nothing is known of an item that never trained."
    )
    command = f"{found.command(*places[0])}    # N: {found.seeds(*places[0])}"
    return under(command, markdown(("model", *heads), rows, note))


def _label(name: str) -> str:
    return "**fedmm**" if name == "model" else PARTS_ALONE.get(name, name)


def _values(found: Results, variant: str, name: str) -> list[float]:
    return found.column(QUALITY, variant, "cold/chance" if name == "chance" else f"cold/{name}/hr_at_10")


def _cells(found: Results, variant: str, name: str) -> Sequence[str]:
    """The mean with its range, and how many times chance it is."""
    values, chance = _values(found, variant, name), _values(found, variant, "chance")
    if not values:
        return "", ""
    mean = sum(values) / len(values)
    shown, ratio = f"{mean:.3f} ({extent(values, '.3f')})", f"{mean / (sum(chance) / len(chance)):.1f}x"
    return (f"**{shown}**", f"**{ratio}**") if name == "model" else (shown, ratio)
