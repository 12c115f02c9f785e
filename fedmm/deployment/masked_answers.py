"""What a silo answers where sums are masked or noisy: the exchanges of a masked sum, and the counts of the start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import Split
from fedmm.deployment import noisy_start, sums
from fedmm.deployment.building import counts_wanted
from fedmm.deployment.chained import WORD, is_masked
from fedmm.deployment.masks import SiloMasks, digest_of_request
from fedmm.deployment.messages import Header, Message, RefusedError, text, whole
from fedmm.errors import ConfigError
from fedmm.federation.private_start import OwnNoise
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.privacy.secure_sum import Words
from fedmm.utils.seeding import numpy_stream

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


def answer(masks: SiloMasks, request: Message) -> Message:
    """The answer to a request of kind keys, roster or open. Raises RefusedError."""
    body, attempt = request.body, text(request.body, "attempt")
    if request.kind == "keys":
        return Message("keys", masks.keys(attempt))
    if request.kind == "roster":
        roster = body.get("roster")
        if not isinstance(roster, dict):
            raise RefusedError("a masked sum without neighbours.")
        return Message("shares", {"shares": masks.shares(attempt, roster)})
    sent = body.get("sent")
    if not isinstance(sent, list) or not all(isinstance(own, str) for own in sent):
        raise RefusedError("a request to open a masked sum that does not say who sent.")
    return Message("opening", {"shares": masks.opening(attempt, sent)})


def hidden(masks: SiloMasks, header: Header, found: Message, words: Words) -> Message:
    """``found`` with its numbers, ``words``, masked. Raises RefusedError where the masks are of another sum."""
    body = header.message.body
    attempt, shares = text(body, "attempt"), body.get("shares")
    if not isinstance(shares, dict) or not all(isinstance(own, str) for own in shares.values()):
        raise RefusedError("a request for a masked sum without shares.", "Silos send no sum in the open here.")
    told = {name: own for name, own in body.items() if name not in ("attempt", "shares")}
    what = digest_of_request(header.message.kind, header.message.round, sorted(told.items()), header.content)
    masked = masks.masked(attempt, what, shares, words)
    return Message("masked", found.body, {"masked": torch.from_numpy(masked.view(np.int32).copy())})


def counted(
    header: Header, config: ExperimentConfig, split: Split, what: str, secret: int | None
) -> tuple[Message, Words | None]:
    """The sums before the first round, and as words where they are to be masked. ``secret`` is the seed of the noise
    that this silo's users add, where they do. Raises RefusedError for what is not to be told."""
    found = _noisy(header, config, split, what, secret) if config.privacy.on else _plain(split, what)
    if not is_masked(config.federation):
        return Message("sums", tensors={"sum": found}), None
    return Message("sums"), (found.numpy().astype(np.int64) & WORD).astype(np.uint32)


def _noisy(header: Header, config: ExperimentConfig, split: Split, what: str, secret: int | None) -> Tensor:
    own = config.federation
    if what not in ("holders", "pairs") or not own.spectral_start:
        raise RefusedError(f"a request for {what[:40]!r}, which no noise covers.", "Ask whoever leads it.")
    whole_numbers = is_masked(own)
    if what == "holders":
        found = noisy_start.silo_holders(split.train, split.num_items, whole=whole_numbers)
    else:
        head = header.with_tensors({"head": (torch.int64, (None,))}).tensors["head"].numpy()
        if not len(head) or head[0] < 1 or head[-1] > split.num_items or (np.diff(head) <= 0).any():
            raise RefusedError(f"{len(head)} items that are not among the {split.num_items} of the catalogue.")
        found = noisy_start.silo_pairs(split.train, split.num_items, head, whole=whole_numbers)
    if SHARES_OF_NOISE not in own.update_transforms or secret is None:
        return found
    return found + _shares(header.message, len(split.train), found.shape[0], what, secret)


def _shares(request: Message, users: int, size: int, what: str, secret: int) -> Tensor:
    """The noise of this silo's users, whole numbers of steps. Raises RefusedError where the request does not say how
    much is needed."""
    deviation: Any = request.body.get("deviation")
    if not isinstance(deviation, float) or not 0 < deviation < math.inf:
        raise RefusedError(f"a deviation of noise of {str(deviation)[:40]!r}.")
    number, least = whole(request.body, "number", 2**40), whole(request.body, "least", 2**40)
    if not 0 < least <= number or users > number:
        raise RefusedError(f"noise of {least} of {number} users, of whom {users} are here.")
    stream = numpy_stream(secret, "noise of a silo", what, request.session)
    drawn = OwnNoise(users, least, noisy_start.STEP).drawn(deviation, size, stream)
    return torch.from_numpy(np.rint(drawn / noisy_start.STEP).astype(np.int64))


def _plain(split: Split, what: str) -> Tensor:
    """Counts of a federation that is masked and not private, as whole numbers."""
    if what == "popularity":
        return torch.from_numpy(sums.popularity_of(split))
    if what == "counts" and (split.num_items + 1) ** 2 <= MOST_ENTRIES:
        return sums.counted_densely(split)
    raise RefusedError(f"a request for {what[:40]!r}, which no mask hides.", "Ask whoever leads it.")
