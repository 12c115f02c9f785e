"""Two yardsticks of pooled data: what a model of items alone reaches where every history lies in one place.

EASE (Steck, WWW 2019) is the linear model of items with the least squared error and a ridge penalty, in closed form:

    P = (X'X + lambda I)^-1,  B[i, t] = -P[i, t] / P[t, t],  B[t, t] = 0          X: who has met what, 0 or 1
    score(h, t) = sum over items i of h of B[i, t]

Item-kNN (Sarwar et al., WWW 2001, as measured by Dacrema et al., RecSys 2019) takes B[i, t] = the cosine of the columns
i and t of X, shrunk for items that few have met, where i is one of the K items most like t, else 0.

Neither knows the order of a history. No client sends anything for them, so no run is billed; ``pooled_bytes`` says what
a sum over clients of the products X'X would take.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.types import IntArray, Ragged, Split
from fedmm.evaluation.ranking import Scorer
from fedmm.models import regression
from fedmm.utils.text import in_bytes

FloatMatrix = NDArray[np.float32]

RIDGE = 300.0  # lambda
NEIGHBORS = 100  # K
SHRINKAGE = 10.0  # added to the product of the norms
FEW_ITEMS = 5000  # up to here both are measured unless told otherwise: beyond, V^2 numbers and V^3 steps are many


def ease_scorer(split: Split) -> Scorer:
    """Scores by EASE, [n, V], from the training histories. Needs 8 V^2 bytes and some V^3 steps."""
    return _Linear(lambda: ease_weights(_products(split)))


def item_knn_scorer(split: Split) -> Scorer:
    """Scores by item-kNN, [n, V], from the training histories. Needs 8 V^2 bytes."""
    return _Linear(lambda: item_knn_weights(_products(split)))


POOLED: Mapping[str, Callable[[Split], Scorer]] = {"ease": ease_scorer, "item_knn": item_knn_scorer}


def ease_weights(products: FloatMatrix, ridge: float = RIDGE) -> FloatMatrix:
    """B [V, V] from X'X [V, V]; rows and columns of items that nobody met are 0.

    >>> ease_weights(np.array([[2, 1], [1, 2]], dtype=np.float32), ridge=1.0).round(3).tolist()
    [[0.0, 0.333], [0.333, 0.0]]
    """
    return regression.ridge_coefficients(products, ridge)


def item_knn_weights(products: FloatMatrix, neighbors: int = NEIGHBORS, shrinkage: float = SHRINKAGE) -> FloatMatrix:
    """B [V, V] from X'X [V, V]: each column keeps its ``neighbors`` largest cosines, and all that equal the last.

    >>> item_knn_weights(np.array([[4, 2], [2, 4]], dtype=np.float32), shrinkage=4.0).tolist()
    [[0.0, 0.25], [0.25, 0.0]]
    """
    norms = np.sqrt(products.diagonal())
    weights: FloatMatrix = products / (np.outer(norms, norms) + np.float32(shrinkage)).clip(min=1e-9)
    np.fill_diagonal(weights, 0.0)
    if neighbors < len(weights):
        least = np.partition(weights, len(weights) - neighbors, axis=0)[len(weights) - neighbors]
        weights[weights < least] = 0.0
    return weights


def pooled_bytes(num_items: int) -> int:
    """What each client would send to sum X'X as 4-byte numbers: it is symmetric, and its diagonal is wanted."""
    return 4 * num_items * (num_items + 1) // 2


def pooled_wanted(asked: bool | None, num_items: int) -> bool:
    """Whether both are measured: as ``asked``, else for catalogues of at most ``FEW_ITEMS`` items."""
    return num_items <= FEW_ITEMS if asked is None else asked


def pooled_scorers(asked: bool | None, split: Split) -> dict[str, Scorer]:
    """Both by name, where they are measured."""
    wanted = pooled_wanted(asked, split.num_items)
    return {name: build(split) for name, build in POOLED.items()} if wanted else {}


def pooled_note(asked: bool | None, num_items: int) -> str:
    """One sentence: whether they are measured, and what they would cost a federation."""
    price = f"a sum over clients would take {in_bytes(pooled_bytes(num_items))} from each and is not billed"
    if pooled_wanted(asked, num_items):
        return f"EASE and item-kNN are measured as if all histories lay in one place; {price}"
    set_it = "" if asked is False else f" beyond {FEW_ITEMS:,} items (evaluation.pooled_yardsticks)"
    return f"EASE and item-kNN are not measured{set_it}"


def _products(split: Split) -> FloatMatrix:
    """X'X [V, V] of the training histories, padding included."""
    met = _met(split.train, split.num_items + 1)
    found: FloatMatrix = np.asarray((met.T @ met).toarray(), dtype=np.float32)
    return found


def _met(histories: Ragged, size: int) -> csr_matrix:
    """X [n, V]: 1 where a history holds an item, however often."""
    entries = histories.row_of_value, histories.values
    met = csr_matrix((np.ones(len(histories.values), dtype=np.float32), entries), shape=(len(histories), size))
    met.data = np.minimum(met.data, 1.0)  # the constructor adds up what is named twice
    return met


class _Linear:
    """Scores by what ``make`` gives, which is made when first asked for, by one thread, and travels to workers."""

    def __init__(self, make: Callable[[], FloatMatrix]) -> None:
        self._made = functools.cache(make)
        self._lock = threading.Lock()

    def __call__(self, users: IntArray, histories: Ragged) -> Tensor:  # noqa: ARG002 - the history says it all
        """[n, V]."""
        weights = self._weights()
        return torch.from_numpy(_met(histories, len(weights)) @ weights)

    def __reduce__(self) -> tuple[Callable[[FloatMatrix], _Linear], tuple[FloatMatrix]]:
        return _by_weights, (self._weights(),)

    def _weights(self) -> FloatMatrix:
        with self._lock:
            return self._made()


def _by_weights(weights: FloatMatrix) -> _Linear:
    return _Linear(lambda: weights)
