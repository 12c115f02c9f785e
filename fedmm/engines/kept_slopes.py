"""What clients without item tables keep of their steps, in torch: the form that ``fedmm/kernels/rows.py`` has in C."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmm.kernels.losses import Asked
from fedmm.kernels.rows import Added, Differentiated
from fedmm.models.scores import SparseScores

NUMBERS_AT_ONCE = 2**19  # of some clients' logits: 2 MB in float32


class KeptSlopes:
    """What C clients hold of their item tables, with room for ``num_rows`` [C] predictions of all steps."""

    def __init__(self, shared: Tensor, items: Tensor, num_rows: Tensor) -> None:
        """``shared`` [V, D] is the server's table; ``items`` [C, n] are the clients' own, behind item 0 and ascending,
        and 0 again where a client has fewer."""
        self.shared, self.items = shared, items
        # [C, K, V] of the rows of all steps so far, 0 at a client's own items
        most = int(num_rows.max())
        self._slopes = shared.new_empty(len(items), most, len(shared))
        # [C, K, D] by which they enter the table: rate * clipping * weight * query
        self._factors = shared.new_zeros(len(items), most, shared.shape[1])
        self._kept = slice(0, 0)  # the last step's, of K

    def differentiate(
        self, queries: Tensor, own: Tensor, asked: Asked, *, norms: bool, added: Added | None = None
    ) -> Differentiated:
        """The losses of the first C' clients' ``queries`` [C', R, D], given their own rows ``own`` [C', n, D] of the
        table, with what is ``added`` to the scores. Slopes and weighted queries are kept; ``move`` must follow."""
        del norms
        C, R, D = queries.shape
        begin, end = self._kept.stop, self._kept.stop + R
        self._kept = slice(begin, end)
        weighted = queries * asked.weights.unsqueeze(2)
        self._factors[:C, begin:end] = weighted
        self._slopes[C:, begin:end] = 0.0
        losses, by_own = queries.new_empty(C), torch.empty_like(own)
        by_queries, rest = torch.empty_like(queries), queries.new_empty(C)
        constants, by_scale = _constants(added, (C, R, len(self.shared)))
        width = max(1, NUMBERS_AT_ONCE // (R * len(self.shared)))
        for first in range(0, C, width):
            some = slice(first, min(first + width, C))
            before, factors = self._slopes[some, :begin], self._factors[some, :begin]
            index = self.items[some].unsqueeze(1).expand(-1, R, -1)
            logits = torch.matmul(queries[some].flatten(0, 1), self.shared.T).view(-1, R, len(self.shared))
            if begin:
                logits.baddbmm_(torch.bmm(queries[some], factors.mT), before, alpha=-1)
            logits.scatter_(2, index, torch.bmm(queries[some], own[some].mT))
            here = None if constants is None else constants.some(some.start, some.stop)
            if added is not None and here is not None:
                here.add_to(logits, added.scale[some])
            losses[some] = _slopes_of(logits, asked, some)
            slopes = logits
            if by_scale is not None and here is not None:
                here.scale_gradient(slopes * asked.weights[some].unsqueeze(2), by_scale[some])
            at_own = slopes.gather(2, index)
            at_own[..., 1:].masked_fill_(index[..., 1:] == 0, 0.0)
            slopes.scatter_(2, index, 0.0)
            found = torch.matmul(slopes.flatten(0, 1), self.shared).view(-1, R, D).baddbmm_(at_own, own[some])
            if begin:
                found.baddbmm_(torch.bmm(slopes, before.mT), factors, alpha=-1)
            by_queries[some] = found.mul_(asked.weights[some].unsqueeze(2))
            by_own[some] = torch.bmm(at_own.mT, weighted[some])
            gram = torch.bmm(slopes, slopes.mT).mul_(torch.bmm(weighted[some], weighted[some].mT))
            rest[some] = gram.sum((1, 2)).clamp_(min=0.0).sqrt_()
            self._slopes[some, begin:end] = slopes
        return Differentiated(losses, by_queries, by_own, rest, by_scale)

    def move(self, rates: Tensor) -> None:
        """The last step moved each of its clients' tables by ``rates`` [C'] times its gradient."""
        self._factors[: len(rates), self._kept].mul_(rates.view(-1, 1, 1))

    def deltas(self, own: Tensor) -> Tensor:
        """[C, V, D]: what each client's table changed by, given the change of its own rows [C, n, D]."""
        kept = self._kept.stop
        found = torch.bmm(self._slopes[:, :kept].mT, self._factors[:, :kept].neg())
        return found.scatter_(1, self.items.unsqueeze(2).expand(own.shape), own)

    def total(self, weights: Tensor) -> Tensor:
        """[V, D]: the sum by the ``weights`` [C] of what clients' tables changed by at all rows that are not their own,
        with no client's table formed."""
        kept = self._kept.stop
        factors = self._factors[:, :kept] * -weights.view(-1, 1, 1)
        return self._slopes[:, :kept].flatten(0, 1).T @ factors.flatten(0, 1)


def _constants(added: Added | None, shape: tuple[int, int, int]) -> tuple[SparseScores | None, Tensor | None]:
    """What is added to scores of this ``shape``, and room for the gradient of its scale [C', V]."""
    if added is None:
        return None, None
    found = SparseScores(added.rows, added.columns, added.values, added.ends.cpu().numpy(), shape)
    return found, torch.empty_like(added.scale)


def _slopes_of(logits: Tensor, asked: Asked, some: slice) -> Tensor:
    """[c]: the losses of some clients' logits [c, R, V], which become the slopes of each row's own loss by them."""
    weights, targets = asked.weights[some], asked.targets[some].unsqueeze(2)
    if asked.exists is None:
        logits[..., 0] = -math.inf
    else:
        logits.masked_fill_(~asked.exists[some].unsqueeze(1), -math.inf)
    if asked.excluded is not None and asked.barred is not None:
        barred, index = asked.barred[some], asked.excluded[some]
        penalty = torch.zeros(barred.shape, dtype=logits.dtype, device=barred.device).masked_fill_(barred, -math.inf)
        logits.scatter_add_(2, (index if index.ndim == 3 else index.unsqueeze(1)).expand(barred.shape), penalty)
    taken, largest = logits.gather(2, targets).squeeze(2), logits.amax(2)
    torch.softmax(logits, dim=-1, out=logits)
    log_total = largest - logits.amax(2).log()
    # A padded row asks for candidate 0, which may not exist: minus infinity times weight 0 would be NaN.
    losses = ((log_total - taken).masked_fill_(weights == 0, 0.0) * weights).sum(1)
    logits.scatter_add_(2, targets, torch.full_like(targets, -1.0, dtype=logits.dtype))
    return losses
