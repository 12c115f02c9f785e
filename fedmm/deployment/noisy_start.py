"""The start of a private federation: silos count bounded contributions, the sums get their noise, and everybody is told
what was made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.deployment.messages import Expected, RefusedError
from fedmm.evaluation.model_scorer import Addition
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_parts import noisy_start
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.federation.private_start import CLIP, PrivateStart, sum_holders, sum_pairs
from fedmm.models.noisy_counts import PREFIX, NoisyCounts
from fedmm.privacy.plan import START_STEPS

STEP = CLIP / START_STEPS  # of counts that are masked: they must be whole


def start_of(
    config: ExperimentConfig, local: LocalTraining, private: PrivateRounds, num_users: int, seed: int
) -> PrivateStart | None:
    """The start over ``num_users`` users whose histories are with their silos; None where there is none."""
    nobody = Ragged(np.zeros(0, np.int64), np.broadcast_to(np.int64(0), num_users + 1))
    found = noisy_start(private.plan, local.config, config, nobody, local.recommender, seed)
    assert found is None or isinstance(found, PrivateStart), "kinds are refused"
    return found


def silo_holders(train: Ragged, num_items: int, *, whole: bool) -> Tensor:
    """[V]: a silo's sum of holders; ``whole``: in whole numbers of steps, int64."""
    return _sent(sum_holders(train, num_items, STEP if whole else 0.0), whole)


def silo_pairs(train: Ragged, num_items: int, head: IntArray, *, whole: bool) -> Tensor:
    """[K (K - 1) / 2]: a silo's sum of pairs of the ``head``, row by row."""
    pairs = sum_pairs(train, num_items, head, STEP if whole else 0.0)
    return _sent(pairs[np.triu_indices(len(head), 1)], whole)


def square(upper: FloatArray, size: int) -> FloatArray:
    """[K, K] with ``upper`` above its diagonal."""
    found = np.zeros((size, size))
    found[np.triu_indices(size, 1)] = upper
    return found


def _sent(values: FloatArray, whole: bool) -> Tensor:
    return torch.from_numpy(np.rint(values / STEP).astype(np.int64) if whole else values)


def expected_counts(num_items: int) -> Expected:
    """What the tensors of ``NoisyCounts`` are."""
    return {
        f"{PREFIX}holders": (torch.float64, (num_items + 1,)),
        f"{PREFIX}head": (torch.int64, (None,)),
        f"{PREFIX}factor": (torch.float64, (None, None)),
        f"{PREFIX}pairs": (torch.float64, (None, None)),
        f"{PREFIX}softening": (torch.float64, ()),
    }


def told_counts(begin: Mapping[str, Tensor]) -> NoisyCounts | None:
    """The noisy counts among what silos are told as they begin; None where there are none. Raises RefusedError where
    parts do not fit."""
    try:
        return NoisyCounts.from_tensors(begin)
    except ValueError as error:
        raise RefusedError(f"{error}.") from None


def noisy_addition(config: ExperimentConfig, counts: NoisyCounts | None) -> Addition | None:
    """The counts at the weight of the settings; None where they add nothing."""
    return (
        counts.weighted(config.privacy.counts_weight) if counts is not None and config.privacy.counts_weight else None
    )
