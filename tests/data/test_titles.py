"""Titles get their article back in front, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.titles import item_text, natural_title


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)"),
        ("Good, the Bad and the Ugly, The (Il buono) (1966)", "The Good, the Bad and the Ugly (Il buono) (1966)"),
        ("Cité des enfants perdus, La (City of Lost Children, The) (1995)",
         "La Cité des enfants perdus (The City of Lost Children) (1995)"),
        ("Avventura, L' (a.k.a. Adventure, The) (1960)", "L'Avventura (a.k.a. The Adventure) (1960)"),
        ("I, Robot (2004)", "I, Robot (2004)"),
        ("Me, Myself & Irene (2000)", "Me, Myself & Irene (2000)"),
    ],
)  # fmt: skip
def test_articles(listed, said):
    assert natural_title(listed) == said
    assert natural_title(said) == said


@given(st.text("abc '", min_size=1).filter(str.strip), st.sampled_from(["The", "A", "Les"]))
def test_inverse_of_inverting(name, article):
    name = " ".join(name.split())
    assert natural_title(f"{name}, {article} (1999)") == f"{article} {name} (1999)"


def test_text_of_an_item():
    assert item_text("Heat (1995)", "Action, Crime") == "Heat (1995). Genres: Action, Crime."
    assert item_text("Heat (1995)", "") == "Heat (1995)."
    assert item_text("", " ") == ""
