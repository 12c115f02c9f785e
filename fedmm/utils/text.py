"""Numbers and names as a person reads them, the same in every report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

PROTOCOLS = {
    "full": "full ranking",
    "uniform100": "against 100 uniform negatives",
    "popularity100": "against 100 popular negatives",
}
REFERENCES = {"ease": "EASE", "item_knn": "item-kNN"}
_SMALLEST_P = 1e-4
ALPHA = 0.05  # below it a difference counts


def metric_words(name: str) -> str:
    """``full/ndcg_at_10`` -> ``NDCG@10, full ranking``; a ``val/`` before it goes."""
    protocol, _, measure = name.removeprefix("val/").rpartition("/")
    kind, _, cutoff = measure.partition("_at_")
    title = kind.upper() if len(kind) <= 4 else kind.replace("_", " ")
    return f"{title}@{cutoff}, {PROTOCOLS.get(protocol, protocol)}" if cutoff else name


def as_measured(words: str, num_negatives: float | None) -> str:
    """A protocol's ``words`` with as many negatives as were measured, where those are fewer (None: they are not).

    >>> as_measured("against 100 uniform negatives", 7), as_measured("full ranking", None)
    ('against 7 uniform negatives', 'full ranking')
    """
    return words if num_negatives is None else words.replace("100", f"{num_negatives:.0f}")


def in_bytes(number: float) -> str:
    """``312 B``, ``4.2 MB``: powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def in_time(seconds: float) -> str:
    """``48.3 s``, ``4 min 08 s``, ``2 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def share(value: float, digits: int = 4) -> str:
    """A metric between 0 and 1, without the zero before its point."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float, digits: int = 4) -> str:
    """A difference: its sign always stands there, and the minus is one."""
    return ("\u2212" if value < 0 else "+") + share(abs(value), digits)


def probability(p: float) -> str:
    """A p-value: two significant digits from .01 down, three decimals above, ``<.0001`` at the end."""
    if p < _SMALLEST_P:
        return "<.0001"
    return share(p, 3 if p >= 0.01 else 4)


def told_apart(difference: float, ci95: Sequence[float], p: float) -> str:
    """What a paired test came to: ``better``, ``worse`` or ``cannot be told apart``, and why where the interval seems
    to say something else.

    >>> told_apart(0.02, (0.002, 0.038), 0.01)
    'better'
    >>> told_apart(0.02, (0.001, 0.04), 0.053)
    'cannot be told apart (the interval just leaves out 0; the test decides)'
    """
    apart = p < ALPHA and difference != 0
    word = "cannot be told apart" if not apart else "better" if difference > 0 else "worse"
    leaves_out = ci95[0] > 0 or ci95[1] < 0
    if apart == leaves_out:
        return word
    return f"{word} (the interval just {'leaves out' if leaves_out else 'reaches'} 0; the test decides)"


def setting(value: Any) -> str:
    """A setting's value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isclose(value, float(f"{value:.4g}"), rel_tol=1e-3) else f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(setting(entry) for entry in value)
    return str(value)


def called(name: str) -> str:
    """What people call a reference model.

    >>> called("item_knn"), called("transition_counts")
    ('item-kNN', 'transition counts')
    """
    return REFERENCES.get(name, name.replace("_", " "))


def counted(number: int, noun: str, nouns: str = "") -> str:
    """``1 run``, ``3 runs``."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def one_line(text: str, most: int = 200) -> str:
    """What somebody else said, cut to ``most`` characters, with a space for what is no character of a line: it can
    neither begin another line nor steer a terminal.

    >>> one_line("no\\nround 3: all is well\\x1b[2J"), one_line("seven", 3)
    ('no round 3: all is well [2J', 'sev')
    """
    return "".join(own if own.isprintable() else " " for own in text[:most])


def listed(names: Sequence[str]) -> str:
    """``A, B and C``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 2 else names)
