"""Whether two configurations differ, told from the users they were asked about and the seeds they were trained with.

A configuration c trained with seed s gives user u the value y[c, s, u]: the configuration's level, what the user
adds, a **seed effect** that lifts or lowers all users of one training alike, and a residual of its own. The
difference of two configurations, each user's values averaged over seeds first, has the variance

    V = var_u(d) / U + (1/S_a + 1/S_b) * seed_variance,

its first part from which users were asked (the residuals are in it), its second from which seeds were drawn. A sign-
flip test over users sees the first part alone and takes every lucky seed for a difference, the more users the surer.

**The test.** The sign-flip (randomisation) test is the one Smucker, Allan & Carterette (CIKM 2007) recommend for
rankings, and at many users it keeps its level where rank tests do not (Ihemelandu & Ekstrand, SIGIR 2023). Here every
flip also gets a seed effect drawn with the estimated variance, and is stretched by the doubt about that estimate. The
variance is the classical one of two crossed random factors, mean squares of seeds minus those of residuals (Searle,
Casella & McCulloch, 1992), pooled over the two configurations and never below zero; the stretch has the degrees of
freedom of Satterthwaite (1946), and never fewer than the seeds have. Where seeds differ by no more than residuals
explain, what is left is the plain sign-flip test, so a seed effect can only widen. Sakai (SIGIR 2016; Laboratory
Experiments in IR, 2018) is the source for reporting effect sizes and intervals beside p, Bouthillier et al. (MLSys
2021) for counting seeds among the sources of variance.

**The interval.** Users are resampled with replacement (Efron, 1979). Three seeds cannot be: their resamples are too
narrow by a factor (S - 1) / S (Hesterberg, 2015). So seed effects are drawn from a normal of the estimated variance,
stretched in the same way, and interval and test agree.

**One seed each.** The seed variance cannot be estimated then, and an assumption takes its place: a training moves the
log-odds of a metric's mean m by a standard deviation of ``ASSUMED_LOG_ODDS_SD``, so m itself by that times m (1 - m):
.0048 at .2 and .0009 at .03. What was measured is in docs/decisions/evaluation.md. If one of the two has several seeds,
they speak for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedmm.data.types import FloatArray
from fedmm.evaluation.intervals import CONFIDENCE

ASSUMED_LOG_ODDS_SD = 0.03  # of the log-odds of a metric's mean between trainings, where there is one seed only
LEVEL_DIGITS = 14  # of that mean; the order of users must not show in its last ones
NUM_PERMUTATIONS = 10_000
NUM_RESAMPLES = 4_000
BLOCK = 2**22  # flipped or resampled users held at once
MANY_USERS = 2048  # from here on resamples of single users are worth avoiding
BINOMIAL_COST = 32  # users drawn one by one in the time of one binomial draw, and somewhat more
STEPS = 1e12  # of a user's largest difference; what is finer is rounding
ROUNDING = 1e-9  # two sums of the same numbers in another order are equal


@dataclass(frozen=True)
class PairedTest:
    """How A differs from B."""

    difference: float  # mean of A minus mean of B
    ci95: tuple[float, float]  # of the difference, over users and seeds
    p_value: float  # two-sided
    effect_size: float  # Cohen's d of the paired differences; infinite where all users differ by the same amount
    seed_sd: float  # of a configuration's mean between its trainings: estimated, or assumed
    seed_df: int  # degrees of freedom of that estimate; 0 where it was assumed


@dataclass(frozen=True)
class _SeedEffect:
    """Variance of the effect of one seed, the mean square it was told from, and that one's degrees of freedom."""

    variance: float
    mean_square: float
    df: int


def paired_test(
    a: FloatArray,
    b: FloatArray,
    stream: np.random.Generator,
    *,
    num_permutations: int = NUM_PERMUTATIONS,
    num_resamples: int = NUM_RESAMPLES,
    assumed_seed_sd: float | None = None,
    b_is_fixed: bool = False,
) -> PairedTest:
    """Tests values ``a`` [S_a, U] against ``b`` [S_b, U] of the same U users in the same order; all draws come from
    ``stream``. Exchanging a and b changes signs only, and the order of users and seeds changes nothing.

    With ``b_is_fixed`` b is what no seed changes, a baseline that nobody trained: one row, without a seed effect and
    telling nothing of a's. ``assumed_seed_sd`` is what one seed each is given as standard deviation of a mean between
    trainings, in the metric's own unit; without it ``assumed_sd`` of the values.

    p is (1 + draws at least as far out) / (1 + draws), so never 0 (Phipson & Smyth, 2010). Raises ``ValueError`` for
    other shapes, fewer than two users, and values that are not finite.
    """
    for values in (a, b):
        if values.ndim != 2 or not len(values) or values.shape[1] != a.shape[1] or values.shape[1] < 2:
            raise ValueError(f"values of shapes {a.shape} and {b.shape} are not [seeds, users] of the same users")
        if not np.isfinite(values).all():
            raise ValueError("values of a paired test must be finite")
    if b_is_fixed and len(b) != 1:
        raise ValueError(f"values of shape {b.shape} are not those of one baseline, [1, users]")
    differences, sign = _oriented(a.mean(axis=0) - b.mean(axis=0))
    difference = float(differences.mean()) if sign else 0.0
    trained = (a,) if b_is_fixed else (a, b)
    effect = _seed_effect(trained, assumed_sd(trained) if assumed_seed_sd is None else assumed_seed_sd)
    share = sum(1 / len(values) for values in trained)

    shifts, stretches = _seed_draws(effect, share, differences, num_permutations, stream)
    flipped = np.abs(_flipped_means(differences, num_permutations, stream) + shifts) * stretches
    num_beyond = np.count_nonzero(flipped >= difference * (1 - ROUNDING))

    shifts, stretches = _seed_draws(effect, share, differences, num_resamples, stream)
    means = _resampled_means(differences[:, None], num_resamples, stream)[:, 0]
    low, high = _tails(difference + (means - difference + shifts) * stretches)
    if not sign:
        low, high = (low - high) / 2, (high - low) / 2
    spread = float(differences.std(ddof=1))
    with np.errstate(divide="ignore"):
        cohen = float(np.float64(difference) / spread) if difference else 0.0
    return PairedTest(
        difference=sign * difference,
        ci95=(low, high) if sign >= 0 else (-high, -low),
        p_value=(1 + num_beyond) / (1 + num_permutations),
        effect_size=sign * cohen,
        seed_sd=effect.variance**0.5,
        seed_df=effect.df,
    )


def assumed_sd(groups: Sequence[FloatArray]) -> float:
    """Standard deviation of a mean between trainings, where no seeds tell it: from the level of the configurations
    ([S, U] values each, averaged with equal weight). Outside 0 to 1 there are no odds, and it is a share of the level.

    >>> round(assumed_sd([np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])]), 6)
    0.0048
    """
    level = round(sum(float(values.mean()) for values in groups) / len(groups), LEVEL_DIGITS)
    share = all(values.min() >= 0 and values.max() <= 1 for values in groups)
    return ASSUMED_LOG_ODDS_SD * abs(level) * (1 - level if share else 1.0)


def mean_intervals(
    values: Mapping[str, FloatArray], stream: np.random.Generator, *, num_resamples: int = NUM_RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Metric -> 95% interval of its mean over users and seeds, from [S, U] values by metric name, on the same resampled
    users for all. With one seed it is an interval over users alone."""
    means = np.stack([v.mean(axis=0) for v in values.values()], axis=1)  # [U, metrics]
    resampled = _resampled_means(means, num_resamples, stream)
    intervals = {}
    for m, (name, v) in enumerate(values.items()):
        shifts, stretches = _seed_draws(_seed_effect((v,), 0.0), 1 / len(v), means[:, m], num_resamples, stream)
        mean = means[:, m].mean()
        intervals[name] = _tails(mean + (resampled[:, m] - mean + shifts) * stretches)
    return intervals


def _oriented(differences: FloatArray) -> tuple[FloatArray, float]:
    """The [U] differences sorted, in the direction in which their sum is positive, and the sign that was taken out.

    Neither the order of users and seeds nor that of the pair may show, not even in a rounding error: sums are compared
    as integers. The sign is 0 where the sum is; of the two directions the one that sorts lower is taken then.
    """
    scale = float(np.abs(differences).max())
    if not scale:
        return np.zeros(len(differences)), 0.0
    steps = np.sort(np.round(differences / scale * STEPS).astype(np.int64))
    mirrored = -steps[::-1]
    total = int(steps.sum())
    sign = float(np.sign(total)) if abs(total) > len(steps) / 2 else 0.0  # each step was rounded by up to a half
    turned = sign < 0 or (not sign and steps.tolist() > mirrored.tolist())
    return np.asarray((mirrored if turned else steps) * (scale / STEPS), dtype=np.float64), sign


def _seed_effect(groups: Sequence[FloatArray], assumed_sd: float) -> _SeedEffect:
    """Pooled over configurations [S, U] each: seeds and users are crossed, so the mean square of the seeds' means holds
    the seed variance and a U-th of the residual one."""
    num_users = groups[0].shape[1]
    df = sum(len(values) - 1 for values in groups)
    if not df:
        return _SeedEffect(assumed_sd**2, assumed_sd**2, 0)
    seeds = residuals = 0.0
    for values in groups:
        deviations = values.mean(axis=1) - values.mean()
        seeds += float(np.square(deviations).sum()) / df
        rest = values - values.mean(axis=0) - deviations[:, None]
        residuals += float(np.square(rest).sum()) / (df * (num_users - 1))
    variance = seeds - residuals / num_users
    # An estimate of zero must not depend on the order in which its sums were taken.
    return _SeedEffect(variance if variance > ROUNDING * seeds else 0.0, seeds, df)


def _seed_draws(
    effect: _SeedEffect, share: float, per_user: FloatArray, size: int, stream: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """[size] shifts by seeds, and [size] factors for the doubt about their variance; 0 and 1 where there is none.

    ``share`` is the sum of 1/S over the configurations, ``per_user`` [U] what is averaged over users.
    """
    noise, doubt = stream.standard_normal(size), stream.spawn(1)[0]
    if not effect.variance:
        return np.zeros(size), np.ones(size)
    shifts = noise * (share * effect.variance) ** 0.5
    if not effect.df:
        return shifts, np.ones(size)
    total = per_user.var(ddof=1) / len(per_user) + share * effect.variance
    # Never below those of the seeds: Satterthwaite's number for a sum lies between its parts' and their total. The
    # quotient is below 1 where two configurations share their residuals, trained under the same seeds as they are.
    df = effect.df * max(1.0, total / (share * effect.mean_square)) ** 2
    return shifts, np.sqrt(df / doubt.chisquare(df, size))


def _flipped_means(differences: FloatArray, size: int, stream: np.random.Generator) -> FloatArray:
    """[size] means of the [U] differences under random signs; a difference of 0 has none and costs nothing."""
    flippable = differences[differences != 0]
    sums = np.empty(size)
    block = max(1, BLOCK // max(1, len(flippable)))
    for start in range(0, size, block):
        rows = min(block, size - start)
        bits = np.frombuffer(stream.bytes((rows * len(flippable) + 7) // 8), dtype=np.uint8)
        positive = np.unpackbits(bits, count=rows * len(flippable)).reshape(rows, len(flippable))
        sums[start : start + rows] = 2 * (positive.astype(np.float64) @ flippable) - flippable.sum()
    return sums / len(differences)


def _resampled_means(values: FloatArray, size: int, stream: np.random.Generator) -> FloatArray:
    """[size, metrics] means of values [U, metrics] over users drawn with replacement.

    Users of equal values are alike, and a metric of ranks takes few values: where there are many users and values
    repeat enough, how often each is drawn is one multinomial draw, which has the distribution of U single ones.
    """
    num_users = len(values)
    distinct, holders = np.unique(values, axis=0, return_counts=True)
    alike = num_users >= MANY_USERS and len(distinct) * BINOMIAL_COST <= num_users
    means = np.empty((size, values.shape[1]))
    block = max(1, BLOCK // (len(distinct) if alike else num_users))
    for start in range(0, size, block):
        rows = min(block, size - start)
        if alike:
            times = stream.multinomial(num_users, holders / num_users, size=rows)
            means[start : start + rows] = times @ distinct / num_users
            continue
        drawn = stream.integers(num_users, size=(rows, num_users)) + num_users * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * num_users).reshape(rows, num_users)
        means[start : start + rows] = times.astype(np.float64) @ values / num_users
    return means


def _tails(draws: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
