"""Laws of pages and panels: users' text stays text, nothing is loaded, ids are unique, drawings keep their words."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from fedmm.drawing.html import (
    Html,
    bullets,
    code,
    element,
    figure,
    joined,
    page,
    paragraph,
    section,
    table,
    write_page,
)
from fedmm.drawing.panels import VARIABLES, Panel, frame, legend, line_style, literal, room, svg, write_png
from fedmm.errors import StorageError
from worlds.page_checks import NASTY, Reader, check_page


def panel(text: str = NASTY, height: float = 3.3) -> Panel:
    def draw(axes):
        frame(axes, text, text)
        for at in range(3):
            colour, dash = line_style(at)
            axes.plot([1, 2, 3], [at, 2, 1], color=colour, linestyle=dash, marker="o", label=literal(f"{text} {at}"))
        legend(axes)

    return Panel(text, draw, text, height=height)


def test_a_page_of_everything_is_whole_and_keeps_users_text_as_text():
    rows = [[NASTY, NASTY, element("b", NASTY)], ["b", "2", "3"]]
    body = [
        section(NASTY, paragraph(NASTY), bullets([NASTY, "b"]), code(NASTY), name="one"),
        table([NASTY, "n", "m"], rows, caption=NASTY),
        figure([panel(), panel("plain")], "one"),
        figure([panel()], "two"),
    ]
    reader = check_page(page(NASTY, NASTY, *body))
    assert reader.text.count("<script>alert('1')</script>") >= 15
    assert "#0072B2 0.123456" in reader.text  # and neither colours nor numbers are touched in it


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_comes_back_out_of_a_page(a, b):
    text = str(element("p", a, Html("<b>x</b>"), element("i", b), title=b, class_="k"))
    clean = [word.replace("\r\n", "\n").replace("\r", "\n") for word in (a, b)]
    reader = Reader(text)
    if "\0" not in a + b and "\r" not in a + b:
        assert reader.text == f"{clean[0]}x{clean[1]}"
        assert ("title", b) in reader.attributes
    assert escape(escape(a)) == escape(a)
    assert joined([a, b], "&") == escape(a) + escape("&") + escape(b)


def test_a_drawing_has_the_pages_colours_and_no_others_of_its_palette():
    drawn = svg(panel("p"), "n")
    assert all(f"var(--{VARIABLES[line_style(at)[0]]})" in drawn for at in range(3))
    assert not any(colour.lower() in drawn for colour in VARIABLES)
    assert svg(panel("p"), "n") == drawn
    style = page("t", "s").partition("<style>")[2].partition("</style>")[0]
    for variable in {*VARIABLES.values(), *re.findall(r"var\(--(\w+)\)", style)}:
        assert style.count(f"--{variable}:") >= 1, variable


@pytest.mark.parametrize("number", [1, 3, 4, pytest.param(7, marks=pytest.mark.slow)])
def test_a_sheet_has_rows_of_three_and_the_same_bytes_each_time(tmp_path: Path, number: int):
    panels = [panel("p", height=2.0)] * number
    first = write_png(panels, tmp_path / "a.png").read_bytes()
    assert first == write_png(panels, tmp_path / "b.png").read_bytes()
    width, height = struct.unpack(">II", first[16:24])
    assert width == round(150 * 4.6 * min(3, number))
    assert height == round(150 * 2.3 * -(-number // 3))


def test_what_cannot_be_written_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write_page("x", tmp_path / "file" / "a.html")
    with pytest.raises(StorageError):
        write_png([panel("p")], tmp_path / "file" / "a.png")


@given(st.lists(st.floats(-1e6, 1e6), max_size=9))
def test_limits_leave_room_around_all_values(values):
    low, high = room(values)
    assert low < high
    assert all(low < value < high for value in values)


def test_drawing_needs_no_pyplot():
    code = (
        "import sys; from fedmm.drawing.panels import *; assert 'matplotlib' not in sys.modules;"
        "svg(Panel('t', lambda axes: frame(axes)), 'n'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
