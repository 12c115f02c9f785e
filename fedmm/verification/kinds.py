"""Claims about starts over kinds of items: how items are sorted, what is counted, what it says, and what it costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.item_kinds import item_kinds
from fedmm.federation.kind_start import KindStart, client_kind_pairs, sum_kind_pairs
from fedmm.federation.private_start import OwnNoise, noised_holders, start_noise, step_of, whole
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Subject
from fedmm.verification.wire import size_of

ITEMS, BOUND = 12, 4.0  # the bound on what one client says, written here on purpose
KINDS: IntArray = np.array([0, *[0, 1, 2] * 4])
ROWS = [[1, 4, 7, 10, 1], [2, 3, 1], [5], [3, 1, 2, 3, 1, 2, 3, 1, 2], [1, 4] * 20]


def _counted(step: float) -> FloatArray:
    total = np.zeros((3, 3))
    for row in ROWS:
        own = np.zeros((3, 3))
        for before, after in itertools.pairwise(row):
            own[KINDS[before], KINDS[after]] += 1
        own *= min(1.0, BOUND / max(math.sqrt(float((own**2).sum())), 1e-9))
        total += np.floor(own / step) * step if step else own
    return total


def start(subject: Subject) -> Finding:
    """Without noise: the sums as counted by hand, in whole steps too; scores as probabilities of kinds and of items
    within them; a client's part within its bound; the table alike within a kind; bytes as serialised."""
    del subject
    train, gaps = Ragged.from_rows(ROWS), []
    for step in (0.0, 0.25):
        far = float(np.abs(sum_kind_pairs(train, KINDS, 3, step) - _counted(step)).max())
        gaps += [(f"pairs in steps of {step}", far)]
    for row in ROWS:
        places, values = client_kind_pairs(np.array(row), KINDS, 3)
        gaps.append(("a client's bound", max(0.0, float(np.linalg.norm(values)) - BOUND)))
        gaps.append(("a place twice", float(len(set(places.tolist())) != len(places))))
    own = KindStart(train, ITEMS, 0.0, 0.0, KINDS, 4, 0)
    holders = noised_holders(train, ITEMS, 0.0, 0)
    follows = np.maximum(_counted(0.0), 0.0)
    popular = np.array([sum(holders[t] + 1 for t in range(1, ITEMS + 1) if KINDS[t] == kind) for kind in range(3)])
    follows += 0.01 * (follows.sum(1, keepdims=True) + 1) * popular / popular.sum()
    follows /= follows.sum(1, keepdims=True)
    gaps.append(("follows", float(np.abs(own.counts.follows - follows).max())))
    weighted = own.weighted(2.0)
    if weighted is None or own.weighted(0.0) is not None:
        return at_most(math.inf, 1e-9, "no counts at weight 2, or some at weight 0")
    for history in ([1], [2, 3, 1], list(range(1, 13)), []):
        told = weighted.scores(Ragged.from_rows([history])).toarray()[0]
        recent = history[::-1][:10]
        share = np.zeros(3) if recent else np.full(3, 1 / 3)
        for age, item in enumerate(recent):
            share[KINDS[item]] += 0.2**age
        chances = (share / share.sum()) @ follows
        for t in range(1, ITEMS + 1):
            alike = [other for other in range(1, ITEMS + 1) if KINDS[other] == KINDS[t]]
            within = (holders[t] + 5) / sum(holders[other] + 5 for other in alike)
            gaps.append((f"scores after {history}", abs(told[t] - 2 * math.log(chances[KINDS[t]] * within))))
    table = KindStart(train, ITEMS, 0.0, 0.0, KINDS, 4, 0, 1.0).item_table(6).numpy()
    near = float(np.linalg.norm(table[1] - table[4])), float(np.linalg.norm(table[1] - table[2]))
    gaps.append(("table within a kind", 0.0 if near[0] < 0.1 < near[1] and table.shape == (ITEMS + 1, 6) else 1.0))
    sums = {"holders": torch.zeros(ITEMS + 1)}, {"pairs": torch.zeros(9)}
    gaps.append(("bytes up", float(abs(own.uplink_bytes - size_of(sums[0]) - size_of(sums[1])))))
    gaps.append(("bytes down", float(abs(own.downlink_bytes - size_of({**sums[0], **sums[1]})))))
    gaps.append(("number of kinds", float(own.num_kinds != 3)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(ROWS)} clients, {ITEMS} items of 3 kinds; largest: {label}")


def noise(subject: Subject) -> Finding:
    """The noise on both sums is of the planned size, by whoever sums up and by the clients, whose whole steps it is."""
    del subject
    rows = Ragged.from_rows([[1]] * 3)
    kinds = np.concatenate([[0], np.arange(100)])
    gaps = []
    for own, size in ((None, 1.0), (OwnNoise(10, 5, 0.5), math.sqrt(2))):
        label = "by the clients" if own else "by the server"
        begun = KindStart(rows, 100, 3.0, 2.0, kinds, 4, 0, own_noise=own)
        found = begun.counts.holders
        gaps.append((f"holders {label}", abs(float((found[1:] > 0).mean()) - 0.5) * 10 - 3))
        drawn = start_noise(3.0, 4000, numpy_stream(0, "verify kinds"), own)
        gaps.append((f"size {label}", abs(float(drawn.std()) / (3.0 * size) - 1) * math.sqrt(8000)))
        holders = noised_holders(rows, 4000, 3.0, 0, own)[2:]
        gaps.append((f"holders' noise {label}", abs(float(holders.std()) / (3.0 * size) - 1) * math.sqrt(8000)))
        step = step_of(own)
        gaps.append((f"steps {label}", 100 * float(np.abs(whole(drawn, step) - drawn).max())))
    again = KindStart(rows, 100, 3.0, 2.0, kinds, 4, 1).counts.follows
    quiet = KindStart(rows, 100, 3.0, 0.0, kinds, 4, 1).counts.follows
    gaps.append(("no noise of kinds", 100 * float(np.abs(again - quiet).max() < 0.01)))
    value, label = worst(gaps)
    return at_most(value, 5.0, f"two ways, in standard deviations; largest: {label}")


def sorting(subject: Subject) -> Finding:
    """Items in clouds far apart, by one modality or the other: their kinds are the clouds, whatever a row's length."""
    del subject
    stream = numpy_stream(0, "verify sorting")
    cloud = stream.integers(0, 6, 200)
    faces = [np.zeros((201, 5)), np.zeros((201, 4))]
    for modality, of in ((0, cloud % 3), (1, cloud // 3)):
        corners = np.eye(faces[modality].shape[1])
        near = corners[of] + 0.02 * stream.standard_normal((200, faces[modality].shape[1]))
        faces[modality][1:] = near * stream.uniform(0.5, 9.0, (200, 1))
    offences = 0
    for seed in range(5):
        kinds = item_kinds(faces, 6, numpy_stream(seed, "verify centres"))[1:]
        pairs = {(int(a), int(b)) for a, b in zip(cloud, kinds, strict=True)}
        offences += len(pairs) != 6
    return at_most(float(offences), 1.0, "five draws of centres over six clouds of 200 items")


CHECKS: Sequence[Check] = (
    Check("federation", "a start over kinds is, without its noise, what was counted", start),
    Check("federation", "the noise of a start over kinds is of its size, by server or clients", noise),
    Check("federation", "items of one kind have features alike", sorting),
)
