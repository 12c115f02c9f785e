"""The pages in a real browser, as wide as a desk's and a phone's: nothing overflows, fails or is loaded."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from fedmm.recommendation.pictures import Pictures
from fedmm.report.comparison_page import write_report
from fedmm.report.run_page import draw_samples, write_run_page
from fedmm.report.study_page import write_study_page
from fedmm.study import Changes, load_study
from fedmm.testing import tiny_run
from fedmm_cli.app import main
from worlds import chromium
from worlds.readable import FAINT, WORDLESS
from worlds.report_world import usual
from worlds.run_world import write_data
from worlds.trials_world import sweep_result, trials_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.find() is None, reason="there is no Chromium here")]
# One red dot.
GIF = base64.b64decode("R0lGODlhAQABAIAAAP8AAAAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")
IMPORTANCES = {"federation.learning_rate": 0.6, "model.hidden_dim": 0.3, "model.gating_init": 0.1}
OVERFLOWING = """[...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, figure, pre") &&
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML.slice(0, 120))"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll("figure:not(.wide) svg")].map(s =>
  s.getBoundingClientRect().width / s.viewBox.baseVal.width))"""


@pytest.fixture(scope="module", params=["compare", "study", "everything", "run", "data"])
def page(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    if request.param == "compare":
        write_report(usual(), path)
    elif request.param == "run":
        run = tiny_run()
        for item in run.model.item_ids:
            (path.parent / f"{item}.gif").write_bytes(GIF)
        write_run_page(run, draw_samples(run.model, 2, 0), path, Pictures.of(path.parent))
    elif request.param == "data":
        write_data(path.parent)
        assert main(["data", "describe", "--data", str(path.parent / "own.csv"), "--html", str(path)]) == 0
    elif request.param == "study":
        study = load_study("default", Changes(plan={"minimize": "communication", "pruner": "none"}))
        write_study_page(study, trials_of(study, 40), IMPORTANCES, sweep_result(study), path)
    else:
        study = load_study("combined")
        write_study_page(study, trials_of(study, 120), None, None, path)
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 1280, 390])
def test_a_page_fits_the_screen_and_asks_for_nothing(page, width, dark, tmp_path):
    with chromium.Page(tmp_path / "profile", width, dark=dark) as browser:
        browser.open(page.as_uri())
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(OVERFLOWING) == []
        assert browser.value("document.querySelectorAll('figure svg').length") >= 2
        assert browser.value(FAINT) == []
        assert browser.value(WORDLESS) == []
        assert browser.value("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert browser.value(SMALLEST_TEXT) >= 0.95  # 8.5 points of a drawing are at least 8 pixels
        background = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        assert browser.screenshot(tmp_path / "page.png").stat().st_size > 10_000
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]


def test_a_page_fits_on_paper_and_prints_in_light_colours(page, tmp_path):
    with chromium.Page(tmp_path / "profile", 670, dark=True) as browser:  # A4 less its margins, at 96 dots an inch
        browser.print_media()
        browser.open(page.as_uri())
        assert browser.value("document.documentElement.scrollWidth") <= 670
        assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
