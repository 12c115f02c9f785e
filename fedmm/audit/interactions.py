"""Which items a client met, by what it sends: one interaction at a time (membership), and all of them (inversion).

Training pulls hardest at the rows of a client's own items (Yuan et al., *Interaction-level Membership Inference Attack
against Federated Recommender Systems*, WWW 2023). The attacker reads the norms of the item table's rows: in one
client's update as it is, in the sum of a cohort, which is all that secure sums show, and in a clipped sum with noise,
as private rounds release it. A sum knows what is popular; what it tells of a client is what lies above that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedmm.audit.canaries import auc
from fedmm.data.types import FloatArray, IntArray
from fedmm.federation.rounds import Federation, draw_cohort
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.privacy.noise import gaussian_noise
from fedmm.utils.seeding import numpy_stream

MOST_CLIENTS = 200
BARE, SUMMED, NOISY = "bare", "summed", "noisy"
NOISE = 1.0  # in clipping bounds, where the run has none of its own


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an attacker reads of one round, and what is true."""

    own: tuple[IntArray, ...]  # [C] the attacked clients' items
    norms: Mapping[str, FloatArray]  # by view, [C, V] of rows; where all clients look alike, [1, V]
    popularity: FloatArray  # [V] clients that hold an item
    cohort_size: int
    noise_multiplier: float

    def of(self, view: str, client: int) -> FloatArray:
        """The evidence [V - 1] about real items of the attacked client in place ``client``."""
        rows = self.norms[view]
        return rows[client if len(rows) > 1 else 0, 1:]


@dataclass(frozen=True)
class MembershipAudit:
    """How often a client's own item shows more than another item, on average over clients."""

    clients: int
    cohort_size: int
    noise_multiplier: float
    auc: dict[str, float]  # by view
    popularity_auc: float  # of who knows how many hold an item, and nothing of the client


@dataclass(frozen=True)
class InversionAudit:
    """How well a client's items are guessed from one update: those of the louder group, where rows fall in two."""

    clients: int
    precision: dict[str, float]  # by view: of the guessed items, how many are the client's
    recall: dict[str, float]  # by view: of the client's items, how many are guessed
    chance: float  # precision of a guess that knows nothing


def read_round(federation: Federation, snapshot: Snapshot, seed: int = 0) -> Evidence | None:
    """One more round after ``snapshot``, overheard; None where the item table does not travel. Without noise of its own
    a run's sums are shown with noise of ``NOISE`` times the clients' median norm, clipped there."""
    config, local, plan = federation.config, federation.local, federation.plan
    number = max(snapshot.round, config.warmup_rounds) + 1
    if ITEM_TABLE not in local.trainable(snapshot.params, number):
        return None
    drawn = draw_cohort(federation, number)
    cohort = drawn if len(drawn) else federation.clients
    attacked = set(numpy_stream(seed, "attacked clients").permutation(cohort)[:MOST_CLIENTS].tolist())
    bound = None if plan is None else config.update_clip
    num_items = local.recommender.num_items
    own, norms = list[IntArray](), list[FloatArray]()
    table = snapshot.params[ITEM_TABLE]
    summed, clipped = torch.zeros_like(table), torch.zeros_like(table)
    for block in federation.engine(local, snapshot.params, cohort, number):
        deltas = block.dense_deltas(num_items)
        rows = deltas[ITEM_TABLE]
        sizes = sum(value.reshape(len(value), -1).square().sum(1) for value in deltas.values()) ** 0.5
        bound = float(torch.as_tensor(sizes).median()) if bound is None else bound
        kept = (bound / torch.as_tensor(sizes).clamp(min=1e-12)).clamp(max=1.0)
        summed, clipped = summed + rows.sum(0), clipped + (rows * kept.view(-1, 1, 1)).sum(0)
        for place, client in enumerate(map(int, block.clients)):
            if client in attacked:
                own.append(np.unique(local.train[client]))
                norms.append(_norms(rows[place]))
    multiplier = NOISE if plan is None else plan.noise_multiplier * plan.contributions
    drawn_noise = gaussian_noise(multiplier * (bound or 0.0), table.numel(), numpy_stream(seed, "noise of an audit"))
    noisy = clipped + torch.from_numpy(drawn_noise).to(clipped).view(clipped.shape)
    views = {BARE: np.stack(norms), SUMMED: _norms(summed)[None], NOISY: _norms(noisy)[None]}
    held = np.bincount(np.concatenate([np.unique(row) for row in local.train]), minlength=num_items + 1)
    return Evidence(tuple(own), views, held.astype(np.float64), len(cohort), multiplier)


def audit_membership(evidence: Evidence) -> MembershipAudit:
    """Own items against all others, by each view's evidence."""
    places = range(len(evidence.own))
    found = {
        view: float(np.mean([_membership(evidence.of(view, place), evidence.own[place]) for place in places]))
        for view in evidence.norms
    }
    popular = [_membership(evidence.popularity[1:] - _held(evidence, place), evidence.own[place]) for place in places]
    return MembershipAudit(
        len(evidence.own), evidence.cohort_size, evidence.noise_multiplier, found, float(np.mean(popular))
    )


def audit_inversion(evidence: Evidence) -> InversionAudit:
    """The louder of two groups of rows, against the client's items."""
    precision, recall = dict[str, float](), dict[str, float]()
    for view in evidence.norms:
        pairs = []
        for place, own in enumerate(evidence.own):
            guessed = louder(evidence.of(view, place)) + 1
            right = len(np.intersect1d(guessed, own))
            pairs.append((right / max(len(guessed), 1), right / len(own)))
        precision[view], recall[view] = (float(value) for value in np.mean(pairs, axis=0))
    chance = np.mean([len(own) for own in evidence.own]) / (len(evidence.popularity) - 1)
    return InversionAudit(len(evidence.own), precision, recall, float(chance))


def louder(norms: FloatArray) -> IntArray:
    """The places of the louder group where log ``norms`` are split in two, with the most variance between the groups
    (Otsu, 1979); zeros are silent.

    >>> louder(np.array([0.1, 5.0, 0.12, 4.0, 0.0])).tolist()
    [1, 3]
    """
    heard = np.flatnonzero(norms > 0)
    if len(heard) < 2:
        return heard
    order = heard[np.argsort(np.log(norms[heard]), kind="stable")]
    logs = np.log(norms[order])
    below = np.arange(1, len(logs))
    sums = np.cumsum(logs)[:-1]
    gap = sums / below - (logs.sum() - sums) / (len(logs) - below)
    best = int(np.argmax(below * (len(logs) - below) * gap**2))
    return np.sort(order[best + 1 :])


def _membership(evidence: FloatArray, own: IntArray) -> float:
    inside = np.zeros(len(evidence), dtype=bool)
    inside[own - 1] = True
    return auc(evidence[inside], evidence[~inside]) if inside.any() and not inside.all() else 0.5


def _held(evidence: Evidence, place: int) -> FloatArray:
    """1 for each item of the client itself, which does not count among those who hold it."""
    own = np.zeros(len(evidence.popularity) - 1)
    own[evidence.own[place] - 1] = 1.0
    return own


def _norms(rows: torch.Tensor) -> FloatArray:
    return np.asarray(torch.linalg.vector_norm(rows, dim=1).detach().cpu().double().numpy(), dtype=np.float64)
