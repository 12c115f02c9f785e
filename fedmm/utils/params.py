"""Algebra on parameter dicts: ``{"backbone.item_embedding": [V, D], ...}``. Nothing here changes its arguments.

Dicts of *stacked* parameters carry a leading client axis C on every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Params = dict[str, Tensor]


def combine(function: Callable[..., Tensor], *trees: Mapping[str, Tensor]) -> Params:
    """``function`` leaf by leaf over dicts with equal keys."""
    first, *rest = trees
    return {name: function(value, *(tree[name] for tree in rest)) for name, value in first.items()}


def subtract(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Params:
    """left - right."""
    return combine(torch.sub, left, right)


def negate(tree: Mapping[str, Tensor]) -> Params:
    """Each leaf with the other sign."""
    return combine(torch.neg, tree)


def zeros_like(tree: Mapping[str, Tensor]) -> Params:
    """A dict of zeros of the same shapes."""
    return combine(torch.zeros_like, tree)


def select(tree: Mapping[str, Tensor], names: Iterable[str]) -> Params:
    """The named leaves, in the dict's own order."""
    wanted = set(names)
    return {name: value for name, value in tree.items() if name in wanted}


def stack_for_clients(tree: Mapping[str, Tensor], num_clients: int) -> Params:
    """Each leaf repeated along a new leading client axis, as memory of its own."""
    return {name: value.unsqueeze(0).repeat(num_clients, *[1] * value.ndim) for name, value in tree.items()}


def expand_for_clients(tree: Mapping[str, Tensor], num_clients: int = 1) -> Params:
    """Each leaf seen along a new leading client axis, without a copy."""
    return {name: value.unsqueeze(0).expand(num_clients, *value.shape) for name, value in tree.items()}


def norm(tree: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm over all leaves, a scalar."""
    return torch.sqrt(sum((value.square().sum() for value in tree.values()), torch.zeros(())))


def client_norms(tree: Mapping[str, Tensor]) -> Tensor:
    """[C]: the Euclidean norm of each client's part of stacked parameters."""
    squares = [torch.linalg.vector_norm(value.reshape(len(value), -1), dim=1).square() for value in tree.values()]
    return torch.stack(squares).sum(0).sqrt()


def num_parameters(tree: Mapping[str, Tensor]) -> int:
    """How many numbers the dict holds."""
    return sum(value.numel() for value in tree.values())
