"""The server's page in a real browser: it asks, lists titles and says why, on a desk and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmm.recommendation.pictures import Pictures
from fedmm.runs.train import run_training
from worlds import chromium
from worlds.readable import FAINT, WORDLESS
from worlds.run_world import Watcher, tiny, write_data
from worlds.serving_world import Client, served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium.find() is None, reason="there is no Chromium here")]
GIF = base64.b64decode("R0lGODlhAQABAIAAAP8AAAAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")  # one red dot
EVIL = "<script>document.title='broken'</script><b>i5"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over data in which an item's id is HTML."""
    folder = tmp_path_factory.mktemp("page")
    write_data(folder)
    text = (folder / "own.csv").read_text()
    (folder / "own.csv").write_text(text.replace(",i5,", f",{EVIL},"))
    run_training(tiny(folder, folder / "run", {"federation.rounds": 1}), Watcher())
    (folder / "pictures").mkdir()
    for item in (*(f"i{number}" for number in range(40)), "i5"):
        (folder / "pictures" / f"{item}.gif").write_bytes(GIF)
    with served(folder / "run", token="secret", pictures=Pictures.of(folder / "pictures")) as found:
        yield found


def fill(browser: chromium.Page, name: str, value: str) -> None:
    browser.value(f"document.getElementById('{name}').value = {value!r}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_recommends_and_says_why(client: Client, width: int, dark: bool, tmp_path: Path) -> None:
    with chromium.Page(tmp_path / "profile", width, dark=dark) as browser:
        browser.open(client.url)
        browser.wait_for("document.getElementById('about').textContent.includes('30 items')")
        fill(browser, "history", "i1, i2, unheard")
        browser.value("document.querySelector('#form button').click()")
        browser.wait_for("!document.getElementById('secret').hidden")  # the token is asked for
        assert "token" in browser.value("document.getElementById('status').textContent")
        fill(browser, "token", "secret")
        browser.value("document.querySelector('#form button').click()")
        browser.wait_for("document.querySelectorAll('#items > li').length == 10")
        assert browser.value("document.getElementById('status').textContent") == "Unknown: unheard"
        browser.wait_for("document.querySelector('#items .note')?.textContent.includes('scores')")  # the first one's
        browser.value("[...document.querySelectorAll('#items button')].forEach(button => button.click())")
        browser.wait_for("document.querySelectorAll('#items .note').length == 10")
        wanted = client.post("/recommend", {"history": ["i1", "i2"]}, Authorization="Bearer secret")[1]["items"]
        shown = browser.value("[...document.querySelectorAll('#items b')].map(one => one.textContent)")
        assert shown == [item["title"] or item["item_id"] for item in wanted]
        fill(browser, "history", "i1")
        fill(browser, "user", "u1")
        browser.value("document.querySelector('#form button').click()")
        browser.wait_for("document.querySelectorAll('#items > li').length == 10")
        browser.wait_for("document.querySelectorAll('#items img').length == 10")
        browser.wait_for("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert browser.value("document.title") == "Recommendations"
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(FAINT) == []
        assert browser.value(WORDLESS) == []
        assert browser.screenshot(tmp_path / "page.png").stat().st_size > 10_000
    assert [text for text in browser.errors if "401" not in text] == []
    assert all(url.startswith((client.url, "data:", "blob:")) for url in browser.requests)


def test_markup_of_the_data_is_text(client: Client, tmp_path: Path) -> None:
    with chromium.Page(tmp_path / "profile", 800) as browser:
        browser.open(client.url)
        fill(browser, "history", "i1")
        fill(browser, "token", "secret")
        browser.value("document.querySelector('#form button').click()")
        browser.wait_for("document.querySelectorAll('#items > li').length == 10")
        only = {"history": ["i1"], "only": [EVIL]}
        assert client.post("/recommend", only, Authorization="Bearer secret")[1]["items"][0]["item_id"] == EVIL
        added = f"const item = make('li', {EVIL!r}); at('items').append(item)"
        browser.value(f"(() => {{ {added} }})()")
        assert browser.value("document.title") == "Recommendations"
        assert browser.value("document.querySelectorAll('#items script, main b b').length") == 0
