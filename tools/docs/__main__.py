"""``python -m tools.docs``: writes the generated pages; ``--check`` only says which are out of date."""

from __future__ import annotations

import argparse
from pathlib import Path

from .pages import stale_pages, write_pages


def main() -> int:
    """Returns 0, or with ``--check`` 1 where a page is out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--folder", type=Path, default=Path("docs/reference"))
    options = parser.parse_args()
    if options.check:
        stale = stale_pages(options.folder)
        print("\n".join(f"{path} is out of date: run python -m tools.docs" for path in stale) or "all up to date")
        return int(bool(stale))
    write_pages(options.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
