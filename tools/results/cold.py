"""The README's table of cold items: what a model knows of items that nobody trained on, beside chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .runs import COLD_ROWS, COLD_SIZES
from .tables import PARTS_ALONE, QUALITY, UNMEASURED, Results, extent, markdown

VARIANTS = {"cold items": "with features", "cold items, backbone": "without features"}  # of quality
BAR = 3.0  # times chance


def cold_table(found: Results) -> str:
    """HR@10 among the cold items: the model with features and the one without, and each part alone."""
    places = [(QUALITY, variant) for variant in VARIANTS if found.column(QUALITY, variant, "cold/chance")]
    if not places:
        return UNMEASURED
    rows = [row for _, variant in places for row in _rows(found, variant)]
    sizes = []
    for name in COLD_SIZES:
        values = [value for place in places for value in found.column(*place, f"cold/{name}")]
        sizes.append(extent(values, ",.0f"))
    note = (
        f"{found.setup(*places)}; {sizes[0]} items whose interactions nobody trains on are ranked among themselves, "
        f"for {sizes[1]} pairs of a user and a cold item; means over the seeds, with their range. Chance is who orders "
        f"them at random. The bar for features is {BAR:g} times chance; without features nothing is known of an item "
        "that never trained."
    )
    return markdown(("model", "HR@10 among cold items", "times chance", f"bar, {BAR:g}x", "command"), rows, note)


def _rows(found: Results, variant: str) -> Iterator[Sequence[str]]:
    chance = found.column(QUALITY, variant, "cold/chance")
    level = sum(chance) / len(chance)
    first, command = f"{VARIANTS[variant]}, seeds {found.seeds(QUALITY, variant)}", found.command(QUALITY, variant)
    for name in COLD_ROWS:
        values = found.column(QUALITY, variant, f"cold/{name}/hr_at_10")
        if not values:
            continue
        value = sum(values) / len(values)
        own = name == "model"
        label = f"{first}: **fedmm**" if own else PARTS_ALONE.get(name, name)
        met = ("met" if value >= BAR * level else "not met") if own and VARIANTS[variant] == "with features" else ""
        shown = f"{value:.3f} ({extent(values, '.3f')})"
        yield label, f"**{shown}**" if own else shown, f"{value / level:.1f}", met, command if own else "the same"
    yield "chance", f"{level:.3f} ({extent(chance, '.3f')})", "1.0", "", "the same"
