"""Pages that need nothing but themselves: one HTML file with its style and its figures in it, no script, no network.

Whatever comes from users is escaped (markupsafe): every function here takes plain text and gives ``Html``, and only
``Html`` is put into a page as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from fedmm.drawing.panels import Panel, svg
from fedmm.drawing.style import STYLE
from fedmm.utils.files import write_atomically

WIDE = 6.5  # inches, from which on a panel has a row of its own, and a phone lets it be moved sideways
STACKED = 5  # from so many columns on, a phone shows a table's rows one below the other
Html = Markup  # text that is HTML already


def breakable(key: str) -> Html:
    """A dotted name or a path in code's type, that may be broken after its dots, dashes and slashes."""
    return element("code", Html(re.sub(r"([._/=-])", r"\1<wbr>", str(escape(key)))))


def joined(parts: Iterable[str], between: str = "") -> Html:
    """All parts, one after the other."""
    return Html(escape(between).join(escape(part) for part in parts))


def element(tag: str, *content: str, **attributes: str) -> Html:
    """``<tag ...>content</tag>``. An attribute's trailing underscore goes (``class_``), others become dashes."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    written = "".join(f' {name}="{escape(value)}"' for name, value in named.items())
    return Html(f"<{tag}{written}>{joined(content)}</{tag}>")


def paragraph(*content: str, kind: str = "") -> Html:
    """A paragraph, perhaps of a kind (``note``, ``lead``)."""
    return element("p", *content, **({"class_": kind} if kind else {}))


def image(uri: str, alt: str) -> Html:
    """A picture that is in the page itself (a data URI); ``alt`` says what it shows."""
    return Html(f'<img src="{escape(uri)}" alt="{escape(alt)}">')


def bullets(entries: Sequence[str], kind: str = "") -> Html:
    """A list; nothing without entries."""
    if not entries:
        return Html("")
    return element("ul", *(element("li", entry) for entry in entries), **({"class_": kind} if kind else {}))


def code(text: str) -> Html:
    """Commands, one a line, to be copied."""
    return element("pre", element("code", text), tabindex="0")


def section(title: str, *content: str, name: str) -> Html:
    """A heading and what belongs under it; nothing without content."""
    return element("section", element("h2", title), *content, id=name) if any(content) else Html("")


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Sequence[int] = (0,),
    caption: str = "",
    stacked: bool | None = None,
) -> Html:
    """A table whose columns are numbers, aligned to the right, but for those of ``words`` (their indices). ``stacked``
    says whether a phone shows its rows one below the other; unset: where it has five columns or more."""
    kinds = ["words" if at in words else "number" for at in range(len(head))]
    top = element(
        "tr", *(element("th", name, scope="col", class_=kind) for name, kind in zip(head, kinds, strict=True))
    )
    body = [element("tr", *(_cell(at, head[at], kinds[at], cell) for at, cell in enumerate(row))) for row in rows]
    parts = [element("caption", caption)] if caption else []
    parts += [element("thead", top), element("tbody", *body)]
    kind = "stacked" if (len(head) >= STACKED if stacked is None else stacked) else "plain"
    return element("div", element("table", *parts, class_=kind), class_="scroll", tabindex="0")


def figure(panels: Sequence[Panel], name: str) -> Html:
    """Panels that stand side by side where there is room. ``name`` begins the ids in them; unique in the page."""
    drawn = []
    for at, panel in enumerate(panels):
        picture = Html(svg(panel, f"{name}{at}"))
        caption = [element("b", panel.title)] + ([Html(" "), escape(panel.caption)] if panel.caption else [])
        kind = {"class_": "wide"} if panel.width > WIDE else {}
        drawn.append(element("figure", element("figcaption", *caption), element("div", picture), **kind))
    return element("div", *drawn, class_="panels") if drawn else Html("")


def swatch(colour: str, dash: str) -> Html:
    """A piece of a figure's line, for a table: ``colour`` is a CSS variable's name, ``dash`` matplotlib's."""
    dashes = {"-": "", "--": "6 3", "-.": "6 2 2 2", ":": "2 2"}[dash]
    line = f'<path d="M1 5H25" stroke="var(--{escape(colour)})" stroke-width="3" stroke-dasharray="{dashes}"/>'
    return Html(f'<svg class="swatch" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>')


def page(title: str, subtitle: str, *content: str) -> str:
    """The whole document. Its policy forbids the browser to load anything."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    header = element("header", element("h1", title), paragraph(subtitle, kind="lead"))
    body = element("main", header, *content)
    return f'<!doctype html>\n<html lang="en-GB"><head>{head}</head><body>{body}</body></html>\n'


def write_page(text: str, path: Path) -> None:
    """Replaces the file atomically. Raises StorageError."""
    write_atomically(path, text.encode())


def _cell(at: int, name: str, kind: str, content: str) -> Html:
    inner = element("span", content)
    if at == 0:
        return element("th", inner, scope="row", class_=kind, data_label=name)
    return element("td", inner, class_=kind, data_label=name)
