"""What a silo answers where sums are masked or noisy: the exchanges of a masked sum, and the counts of the start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged, Split
from fedmm.deployment import noisy_start, sums
from fedmm.deployment.building import build_local, counts_wanted, private_rounds
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.chained import WORD, hides_cohorts, is_masked
from fedmm.deployment.masks import Purpose, SiloMasks, digest_of_request
from fedmm.deployment.messages import Header, Message, RefusedError, text
from fedmm.deployment.sizes import clients_in, require_head
from fedmm.errors import ConfigError
from fedmm.federation.private_start import OwnNoise
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.privacy.secure_sum import Words
from fedmm.utils.seeding import numpy_stream

ROUNDED = 1e-9  # relative: two machines may round one plan differently
MOST_ENTRIES = 10**8  # of counts that are masked: a number for each pair of items


def require_countable(config: ExperimentConfig, num_items: int) -> None:
    """Raises ConfigError for a catalogue whose pairs of items are too many to be counted under masks."""
    own = config.federation
    started = own.spectral_start or counts_wanted(config)
    if started and not config.privacy.on and (num_items + 1) ** 2 > MOST_ENTRIES:
        raise ConfigError(
            f"Under masks all pairs of the {num_items:,} items would travel, and {MOST_ENTRIES:,} can.",
            "Set federation.spectral_start false and model.succession 0, or leave mask out of "
            "federation.update_transforms.",
        )


@dataclass(frozen=True)
class Part:
    """A silo's part in one sum."""

    clients: int  # whose sum it is
    trainable: int = 1  # clients of this silo that can be trained
    least: int = 0  # as in ``Purpose``
    most: int = 0

    def told(self, config: ExperimentConfig) -> tuple[int, int]:
        """What other silos are told: how many clients, and how many to train, where they add the noise; else whether
        there are any. Of a private cohort they hear whether this silo could have any."""
        if SHARES_OF_NOISE in config.federation.update_transforms:
            return self.clients, self.trainable
        return min(self.trainable if hides_cohorts(config) else self.clients, 1), 0


def answer(masks: SiloMasks, request: Message, config: ExperimentConfig, trainable: int = 1) -> Message:
    """The answer to a request of kind keys, roster, agree or open, of a silo with so many ``trainable`` clients. Raises
    RefusedError."""
    body, attempt = request.body, text(request.body, "attempt")
    if request.kind == "keys":
        return Message("keys", masks.keys(attempt))
    if request.kind == "roster":
        roster, clients = body.get("roster"), clients_in(body, "clients")
        if not isinstance(roster, dict):
            raise RefusedError("a masked sum without neighbours.")
        return Message("shares", {"shares": masks.shares(attempt, roster, *Part(clients, trainable).told(config))})
    sent = body.get("sent")
    if not isinstance(sent, list) or not all(isinstance(own, str) for own in sent):
        raise RefusedError("a request to open a masked sum that does not say who sent.")
    if request.kind == "agree":
        return Message("agreed", {"agreed": masks.agreed(attempt, sent)})
    agreed = body.get("agreed", {})
    if not isinstance(agreed, dict) or not all(isinstance(own, str) for own in agreed.values()):
        raise RefusedError("a request to open a masked sum whose words are none.")
    return Message("opening", {"shares": masks.opening(attempt, sent, agreed)})


def purpose_of(header: Header, config: ExperimentConfig, name: str, part: Part, settings: str = "") -> Purpose:
    """What the sum asked for is for; ``settings`` is the digest of what was agreed."""
    return Purpose(name, request_of(header, settings), part.told(config)[0], part.least, part.most)


def request_of(header: Header, settings: str = "") -> str:
    """Digest of what a request asks for, in whichever session and attempt."""
    told = {name: own for name, own in header.message.body.items() if name not in ("attempt", "shares")}
    return digest_of_request(header.message.kind, header.message.round, settings, sorted(told.items()), header.content)


def hidden(masks: SiloMasks, header: Header, found: Message, words: Words, purpose: Purpose) -> Message:
    """``found`` with its numbers, ``words``, masked. Raises RefusedError where the masks are of another sum."""
    body = header.message.body
    attempt, shares = text(body, "attempt"), body.get("shares")
    if not isinstance(shares, dict) or not all(isinstance(own, str) for own in shares.values()):
        raise RefusedError("a request for a masked sum without shares.", "Silos send no sum in the open here.")
    masked = masks.masked(attempt, purpose, shares, words)
    return Message("masked", found.body, {"masked": torch.from_numpy(masked.view(np.int32).copy())})


@dataclass(frozen=True, eq=False)
class Start:
    """What a silo counts the start by: settings, items, its own data, and the seed of its users' noise (None: they add
    none)."""

    config: ExperimentConfig
    catalogue: Catalogue
    split: Split
    trainable: int
    secret: int | None


def counted(header: Header, own: Start, what: str) -> tuple[Message, Words | None, int]:
    """The sums before the first round, as words where they are to be masked, and how many users' noise must be in
    them. Raises RefusedError for what is not to be told."""
    found, least = _noisy(header, own, what) if own.config.privacy.on else (_plain(own.split, what), 0)
    if not is_masked(own.config.federation):
        return Message("sums", tensors={"sum": found}), None, least
    return Message("sums"), (found.numpy().astype(np.int64) & WORD).astype(np.uint32), least


def _noisy(header: Header, own: Start, what: str) -> tuple[Tensor, int]:
    config, split = own.config.federation, own.split
    if what not in ("holders", "pairs") or not config.spectral_start:
        raise RefusedError(f"a request for {what[:40]!r}, which no noise covers.", "Ask whoever leads it.")
    whole_numbers = is_masked(config)
    if what == "holders":
        found = noisy_start.silo_holders(split.train, split.num_items, whole=whole_numbers)
    else:
        head = header.with_tensors({"head": (torch.int64, (None,))}).tensors["head"].numpy()
        require_head(len(head))
        if not len(head) or head[0] < 1 or head[-1] > split.num_items or (np.diff(head) <= 0).any():
            raise RefusedError(f"{len(head)} items that are not among the {split.num_items} of the catalogue.")
        found = noisy_start.silo_pairs(split.train, split.num_items, head, whole=whole_numbers)
    if SHARES_OF_NOISE not in config.update_transforms or own.secret is None:
        return found, 0
    deviation, noise = _planned(header.message, own, what)
    # The same request over the same data has the same noise in every session: two draws would be two releases.
    request, data = request_of(header), digest_of_request(found.numpy().tobytes())
    stream = numpy_stream(own.secret, "noise of a silo", what, request, data)
    drawn = OwnNoise(len(split.train), noise.least, noise.step).drawn(deviation, found.shape[0], stream)
    return found + torch.from_numpy(np.rint(drawn / noise.step).astype(np.int64)), noise.least


def _planned(request: Message, own: Start, what: str) -> tuple[float, OwnNoise]:
    """How much noise the agreed settings ask for, over as many users as the request says. Raises RefusedError where it
    asks for another."""
    number, trainable = clients_in(request.body, "number"), clients_in(request.body, "trainable")
    if not max(own.trainable, 1) <= trainable <= number or len(own.split.train) > number:
        raise RefusedError(f"noise of {number} users, {trainable} of whom train; {len(own.split.train)} are here.")
    nobody = Ragged(np.zeros(0, np.int64), np.zeros(1, np.int64))
    local = build_local(own.config, own.catalogue, nobody)
    private = private_rounds(own.config, local, trainable, np.zeros(own.split.num_items + 1))
    start = None if private is None else noisy_start.start_of(own.config, local, private, number, 0)
    if start is None or start.own_noise is None:
        raise RefusedError(f"a request for {what[:40]!r}, which the agreed plan does not have.")
    deviation = start.holders_deviation if what == "holders" else start.pairs_deviation
    told: Any = request.body.get("deviation")
    same = isinstance(told, float) and math.isclose(told, deviation, rel_tol=ROUNDED)
    if not same or request.body.get("least") != start.own_noise.least:
        raise RefusedError(
            f"noise of deviation {str(told)[:20]} by {str(request.body.get('least'))[:20]} users, and the agreed plan "
            f"has {deviation:g} by {start.own_noise.least}."
        )
    return deviation, start.own_noise


def _plain(split: Split, what: str) -> Tensor:
    """Counts of a federation that is masked and not private, as whole numbers."""
    if what == "popularity":
        return torch.from_numpy(sums.popularity_of(split))
    if what == "counts" and (split.num_items + 1) ** 2 <= MOST_ENTRIES:
        return sums.counted_densely(split)
    raise RefusedError(f"a request for {what[:40]!r}, which no mask hides.", "Ask whoever leads it.")
