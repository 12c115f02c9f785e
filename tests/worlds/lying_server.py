"""Silos whose messages are changed on their way, and masks that know each other without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmm.deployment.lead import Lead
from fedmm.deployment.masks import SiloMasks
from fedmm.deployment.messages import Message, encode, read_header
from fedmm.deployment.seals import Checksums
from fedmm.deployment.silo import Silo

SEAL = Checksums()


class Between:
    """A silo whose requests and answers of one kind are changed on their way, as a server that lies would."""

    def __init__(
        self,
        silo: Silo,
        kind: str = "",
        request: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
        answer: Callable[[bytes], bytes] = lambda sealed: sealed,
    ) -> None:
        self.silo, self.kind, self.request, self.reply = silo, kind, request, answer
        self.heard: list[Message] = []

    def answer(self, data: bytes) -> bytes:
        """The silo's answer to the changed request, changed."""
        header = read_header(SEAL.open(data, "server"))
        if header.message.kind == self.kind:
            changed = replace(header.message, body=self.request(dict(header.message.body)), tensors={})
            data = SEAL.close(encode(changed) + header.content)
        found = self.silo.answer(data)
        self.heard.append(read_header(SEAL.open(found, self.silo.name)).message)
        return self.reply(found) if header.message.kind == self.kind else found

    def refusals(self) -> list[str]:
        """Why the silo refused."""
        return [own.body["why"] for own in self.heard if own.kind == "refused"]


def hasty(lead: Lead, seconds: float = 0.2) -> Lead:
    """The same server with little patience."""
    lead.options = replace(lead.options, deadline=seconds)
    return lead


def shared(
    names: Sequence[str],
    clients: Sequence[int],
    attempt: str = "one",
    folders: Path | None = None,
    trainable: Sequence[int] = (),
) -> tuple[dict[str, SiloMasks], dict[str, dict[str, str]]]:
    """Masks of silos that know each other, and of how many clients each has told the others."""
    own = {name: SiloMasks(name, folders and folders / name) for name in names}
    keys = {name: list(one.keys(attempt).values()) for name, one in own.items()}
    given = {
        name: one.shares(attempt, {n: keys[n] for n in names if n != name}, number, also)
        for (name, one), number, also in zip(own.items(), clients, trainable or [0] * len(names), strict=True)
    }
    return own, {name: {n: given[n][name] for n in names if n != name} for name in names}
