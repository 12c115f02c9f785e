"""Film titles as people say them."""

from __future__ import annotations

import re

_ARTICLES = "The|A|An|Les|Le|La|L'|Il|Lo|I|Gli|El|Los|Las|Der|Die|Das|Den|Det|De|Het|O|Os|As|Un|Une|Una|Ein|Eine"
_INVERTED = re.compile(rf"(?P<before>^|\((?:a\.k\.a\. )?)(?P<rest>[^()]*?), (?P<article>{_ARTICLES})(?=$| ?\(|\))")


def natural_title(title: str) -> str:
    """The article back in front: ``Usual Suspects, The (1995)`` becomes ``The Usual Suspects (1995)``.

    Alternative titles in parentheses are treated alike; whatever has no trailing article stays as it is.
    """

    def turn(match: re.Match[str]) -> str:
        article = match["article"]
        space = "" if article.endswith("'") else " "
        return f"{match['before']}{article}{space}{match['rest'].strip()}"

    return _INVERTED.sub(turn, " ".join(title.split()))


def item_text(title: str, genres: str) -> str:
    """What a text encoder reads of an item: title and genres (``Comedy, Drama``), "" when neither is known."""
    title, genres = title.strip(), genres.strip()
    sentences = [title, f"Genres: {genres}" if genres else ""]
    return "".join(f"{sentence}. " for sentence in sentences if sentence).strip()
