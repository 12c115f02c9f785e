"""Worlds of other folders that the browser's tests draw from."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("comparison", "study")]
