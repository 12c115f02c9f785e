"""What happened in a federation, one JSON object a line: which silo, which round, how many, how large; never who."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmm.utils.files import append_line

EVENTS_FILE = "events.jsonl"
KEPT = 1000


@dataclass(eq=False)
class Events:
    """The log of one process; ``path`` None keeps the last ones in memory alone."""

    path: Path | None = None
    last: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    number: Counter[str] = field(default_factory=Counter)

    def add(self, event: str, **facts: Any) -> None:
        """Notes an event. What cannot be written does not stop the federation."""
        entry = {"time": round(time.time(), 3), "event": event, **facts}
        self.number[event] += 1
        self.last.append(entry)
        if self.path is not None:
            try:
                append_line(self.path, entry)
            except OSError:
                self.path = None  # the disk is full, which the next checkpoint says aloud
