"""SCAFFOLD (Karimireddy et al., ICML 2020), option II: control variates take the drift out of local training.

A client's control variate c_i estimates its own gradient, the server's c the mean over all clients; both start at zero.
The local gradient is clipped first and corrected by c - c_i after. So c_i is the plain mean of the client's clipped
gradients, bounded as they are, and what is corrected is what differs between clients; a correction before clipping
would bound their sum and leave c_i a mean of nothing in particular.

Control variates cover the parameters that travel. Those of an item's row are dense: c moves every row.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.utils.params import Params, combine

PREFIX = "control/"  # before a parameter's name, in states and messages


def named(controls: Mapping[str, Tensor]) -> Params:
    """Control variates by their names in states and messages."""
    return {f"{PREFIX}{name}": value for name, value in controls.items()}


def unnamed(tensors: Mapping[str, Tensor]) -> Params:
    """The control variates among ``tensors``, by their parameters' names."""
    return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}


def new_controls(correction: Params, deltas: Params, num_steps: IntArray, rate: float) -> Params:
    """c_i+ = c_i - c + (x - y_i) / (K_i * rate), stacked over C clients: the mean of each one's K_i clipped gradients.

    ``correction`` is c - c_i and ``deltas`` y_i - x, [C, ...] each; ``num_steps`` [C].
    """

    def controls(delta: Tensor, own: Tensor) -> Tensor:
        lengths = torch.from_numpy(num_steps).to(delta).mul(rate).view(-1, *[1] * (delta.ndim - 1))
        return delta.div(lengths).add_(own).neg_()

    return combine(controls, deltas, correction)


def moved(control: Params, changes: Params, num_clients: int) -> Params:
    """The server's c after a round: c + |S| / N times the mean of the cohort's changes, which is their sum ``changes``
    over the ``num_clients`` N of the whole federation. Parameters without a change keep theirs."""
    after = dict(control)
    for name, change in changes.items():
        step = change / num_clients
        after[name] = control[name] + step if name in control else step
    return after
