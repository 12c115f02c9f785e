"""How a silo proves its name: the server draws something for this occasion, the silo seals it with its name."""

from __future__ import annotations

import json
import secrets

from fedmm.deployment.messages import RefusedError
from fedmm.deployment.seals import SEAL_BYTES, Seal

SPOKEN = 1  # version of the greeting


def draw() -> str:
    """What a silo has to seal, new for every greeting."""
    return secrets.token_hex(32)


def question(drawn: str) -> bytes:
    """Who are you? As bytes."""
    return json.dumps({"fedmm": SPOKEN, "drawn": drawn}).encode()


def is_question(data: bytes) -> bool:
    """Whether these bytes ask for a name, not for work."""
    return data[:1] == b"{"


def answer(data: bytes, node: str, seal: Seal) -> bytes:
    """The answer of silo ``node`` to a question. Raises RefusedError where it is none of this protocol."""
    try:
        asked = json.loads(data)
        spoken, drawn = asked["fedmm"], asked["drawn"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise RefusedError("a greeting that cannot be read.", "The other side is no server of fedmm.") from None
    if spoken != SPOKEN:
        raise RefusedError("a greeting of another version of fedmm's protocol.", "Use one version on both sides.")
    return seal.close(json.dumps({"node": node, "drawn": drawn}).encode())


def proven(data: bytes, drawn: str, seal: Seal) -> str:
    """The name that an answer proves. Raises RefusedError where it proves none, or was made for another question."""
    try:
        node = json.loads(data[:-SEAL_BYTES])["node"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise RefusedError("a greeting that cannot be read.") from None
    if not isinstance(node, str) or not valid_name(node):
        raise RefusedError("a greeting without a name.")
    if json.loads(seal.open(data, node)) != {"node": node, "drawn": drawn}:
        raise RefusedError(f"a greeting of {node!r} that was not made for this connection.")
    return node


def valid_name(name: str) -> bool:
    """Whether a silo may be called so: 1 to 64 letters, digits, dots, dashes and underscores."""
    return 0 < len(name) <= 64 and all(own.isalnum() or own in "._-" for own in name) and name.isascii()
