"""WordPiece (Schuster and Nakajima, ICASSP 2012; as BERT uses it): a text to numbers of pieces of a vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONGEST_WORD = 100  # characters; a longer word is unknown
CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class WordPiece:
    """A vocabulary of uncased pieces, ``##`` before those that go on a word."""

    place: dict[str, int]

    @classmethod
    def of_file(cls, path: Path) -> WordPiece:
        """A ``vocab.txt``, one piece a line."""
        pieces = path.read_text(encoding="utf-8").split("\n")
        return cls({piece.rstrip("\r"): number for number, piece in enumerate(pieces) if piece})

    def numbers(self, text: str, most: int) -> list[int]:
        """The numbers of a text's pieces between those of [CLS] and [SEP], ``most`` at most in all."""
        found: list[int] = []
        for word in _words(text):
            found += self._pieces(word)
            if len(found) >= most - 2:
                break
        return [self.place["[CLS]"], *found[: most - 2], self.place["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        """The longest pieces from the left; the unknown one alone where a rest has none."""
        found: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self.place.get(("##" if start else "") + word[start:end])
                if number is not None:
                    break
            else:
                return [self.place["[UNK]"]]
            found.append(number)
            start = end
        return found if len(word) <= LONGEST_WORD else [self.place["[UNK]"]]


def _words(text: str) -> Iterator[str]:
    """Lower-case words without accents; every sign of punctuation and every Chinese character is one of its own."""
    for part in "".join(map(_cleaned, text)).split():
        plain = "".join(one for one in unicodedata.normalize("NFD", part) if unicodedata.category(one) != "Mn").lower()
        word = ""
        for one in plain:
            if _is_punctuation(one):
                if word:
                    yield word
                yield one
                word = ""
            else:
                word += one
        if word:
            yield word


def _cleaned(one: str) -> str:
    """White space as a blank, no control characters, blanks around Chinese characters."""
    if one in "\t\n\r" or unicodedata.category(one) == "Zs":
        return " "
    if one in "\0\ufffd" or unicodedata.category(one) in ("Cc", "Cf", "Co", "Cs"):
        return ""
    code = ord(one)
    return f" {one} " if code >= 0x3400 and any(low <= code <= high for low, high in CJK) else one


def _is_punctuation(one: str) -> bool:
    code = ord(one)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(one).startswith("P")
