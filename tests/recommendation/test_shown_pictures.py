"""Laws of pictures: files of one folder by item id, never anything else, and shown with what they show in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedmm.errors import ConfigError
from fedmm.recommendation.pictures import MOST_BYTES, Pictures
from fedmm.report.run_page import draw_samples, run_page
from fedmm.runs.model import Run
from fedmm.testing import tiny_run
from fedmm_cli.app import main
from worlds.serving_world import served

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def run() -> Run:
    return tiny_run()


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of every item, and beside the folder one file that is nobody's."""
    home = tmp_path_factory.mktemp("pictures") / "posters"
    home.mkdir()
    for item in run.model.item_ids:
        (home / f"{item}.png").write_bytes(PNG)
    (home.parent / "secret.png").write_bytes(PNG)
    (home / "link.png").symlink_to(home.parent / "secret.png")
    (home / "large.png").write_bytes(PNG + b"\0" * MOST_BYTES)
    (home / "page.jpg").write_bytes(b"<svg onload='alert(1)'>")
    (home / "sound.webp").write_bytes(b"RIFF\0\0\0\0WAVE")
    (home / "film.webp").write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    return home


def test_ids_are_names_and_never_paths(folder: Path) -> None:
    pictures = Pictures.of(folder)
    assert pictures.read("i3") == ("image/png", PNG)
    assert pictures.read("film") is not None
    for strange in ("../secret", "link", "..", "", "/etc/passwd", "i3.png", "unknown", str(folder / "i3")):
        assert pictures.path(strange) is None
        assert pictures.read(strange) is None
    assert [pictures.read(name) for name in ("large", "page", "sound")] == [None] * 3
    assert pictures.read("i3", most_bytes=10) is None
    with pytest.raises(ConfigError, match="is no folder"):
        Pictures.of(folder / "i3.png")
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no picture"):
        Pictures.of(folder / "empty")


def test_a_report_shows_them_with_words(run: Run, folder: Path) -> None:
    (sample,) = draw_samples(run.model, 1, 0)
    named = [one.model_copy(update={"title": f'"{EVIL}'}) for one in sample.reasons]
    page = run_page(run, [sample.__class__(sample.user, sample.history, tuple(named))], Pictures.of(folder))
    assert page.count('<img src="data:image/png;base64,') == len(sample.reasons)
    assert len(re.findall(r'alt="Picture of &#34;&lt;script&gt;', page)) == len(sample.reasons)
    assert EVIL not in page
    assert "<img" not in run_page(run, [sample])


def test_the_server_gives_them_and_nothing_else(run: Run, folder: Path) -> None:
    with served(run.folder, pictures=Pictures.of(folder)) as client:
        assert client.raw("GET", "/picture?item_id=i3") == (200, PNG)
        for strange in ("..%2Fsecret", "link", "large", "page", "%2Fetc%2Fpasswd", "i3.png"):
            assert client.raw("GET", f"/picture?item_id={strange}")[0] == 404
        assert client.raw("GET", "/picture")[0] == 422
        assert client.get("/health")[1]["num_pictures"] == len(Pictures.of(folder).files)
    with served(run.folder) as client:
        assert client.raw("GET", "/picture?item_id=i3")[0] == 404


def test_commands_take_a_folder_of_them(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["recommend", str(run.folder), "--history", "i3,i4", "--top", "2", "--quiet"]
    assert main([*asked, "--explain", "--pictures", str(folder), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["recommendations"]
    for item in found["items"]:
        assert item["explanation"]["picture"] == str(folder / f"{item['item_id']}.png")
    assert main([*asked, "--explain", "--pictures", str(folder)]) == 0
    assert capsys.readouterr().out.count("picture:") == 2
    page = tmp_path / "report.html"
    assert main(["report", str(run.folder), "--pictures", str(folder), "--output", str(page), "--quiet"]) == 0
    assert '<img src="data:image/png' in page.read_text()
    for wrong in (
        [*asked, "--pictures", str(folder)],
        [*asked, "--explain", "--pictures", str(tmp_path / "absent")],
        ["report", str(run.folder), "--samples", "0", "--pictures", str(folder)],
        ["serve", str(run.folder), "--port", "0", "--pictures", str(tmp_path / "absent")],
    ):
        assert main(wrong) == 2
