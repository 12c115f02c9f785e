"""The generated pages by name, written or compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .api import api_page
from .commands import commands_page
from .parts import parts_page
from .schemas import schemas_page
from .settings import settings_page

PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "cli.md": commands_page,
    "api.md": api_page,
    "parts.md": parts_page,
    "results-json.md": schemas_page,
}


def write_pages(folder: Path) -> None:
    """Writes every page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


def stale_pages(folder: Path) -> list[Path]:
    """The pages that differ from what the code says, or are not there."""
    paths = {folder / name: make for name, make in PAGES.items()}
    return [path for path, make in paths.items() if not path.exists() or path.read_text(encoding="utf-8") != make()]
