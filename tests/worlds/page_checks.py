"""What holds of every page of the project, and text that a careless page would stumble over."""

from __future__ import annotations

import re
from html.parser import HTMLParser

NASTY = "<script>alert('1')</script> & \"$x$\" _a --> ]]> #0072B2 0.123456"
VOID = {"meta", "link", "br", "wbr", "hr", "img", "path", "use", "rect"}


class Reader(HTMLParser):
    """Tags, attributes and text; balance of what is opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID or not self.get_starttag_text().endswith("/>"):
            self.open += [] if tag in ("meta", "link", "wbr") else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def check_page(text: str) -> Reader:
    """What holds of every page of the project."""
    reader = Reader(text)
    assert reader.open == []
    assert "script" not in reader.tags
    assert not {"iframe", "object", "embed", "base", "form"} & set(reader.tags)
    loading = [v for name, v in reader.attributes if name in ("src", "href", "srcset", "action", "data", "poster")]
    assert all(value.startswith(("#", "data:")) for value in loading)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "url(http" not in text
    assert "@import" not in text
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = [value[1:] for name, value in reader.attributes if name == "href" and value.startswith("#")]
    assert set(used) <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert any("default-src 'none'" in value for name, value in reader.attributes if name == "content")
    return reader
