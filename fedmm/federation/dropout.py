"""Dropout whose masks belong to clients: the same client in the same round and step drops the same entries, however
block it is trained in and whoever is beside it."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.models.layers import Dropout, no_dropout

LEVELS = 2**16


class ClientDropout:
    """The masks of one local step of C clients; each call uses up one site of the forward pass."""

    def __init__(
        self,
        rate: float,
        generators: list[torch.Generator],
        num_windows: IntArray,
        longest: IntArray,
        num_sites: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Draws from each client's generator as many bits as its own windows need: padding draws nothing."""
        # Sixteen random bits an entry: the rate is rounded to 1/65536, the draw costs a quarter of a float's.
        dropped = min(round(rate * LEVELS), LEVELS - 1)
        scale = LEVELS / (LEVELS - dropped)
        C, B, L = len(generators), int(num_windows.max()), int(longest.max())
        masks = torch.zeros(num_sites, C, B, L, width, dtype=dtype)
        for c, generator in enumerate(generators):
            own_windows, own_length = int(num_windows[c]), int(longest[c])
            size = num_sites * own_windows * own_length * width
            bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
            kept = bits.view(torch.int16)[:size] >= dropped - LEVELS // 2
            masks[:, c, :own_windows, :own_length] = kept.view(num_sites, own_windows, own_length, width)
        # One product a site, forward and backward: the masks carry the scale.
        self._masks = masks.mul_(scale).to(device)
        self._site = 0

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [C, B, L, D] with the next site's mask applied."""
        mask = self._masks[self._site]
        self._site += 1
        return x * mask

    def all_sites(self) -> Tensor:
        """The masks [sites, C, B, L, D], the scale included, in the order of the forward pass."""
        return self._masks

    def of_windows(self, windows: Tensor, longest: int) -> ClientDropout:
        """The same masks for the ``windows`` [C * B] bool and their first positions, as one client's [1, W, longest,
        D]."""
        some = copy(self)
        some._masks = self._masks.flatten(1, 2)[:, windows, :longest].unsqueeze(1)
        return some


def step_dropout(
    rate: float,
    generators: list[torch.Generator],
    num_windows: IntArray,
    longest: IntArray,
    num_blocks: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Dropout:
    """The dropout of one local step; none at rate 0. SASRec drops after the embedding and after each of a block's two
    parts."""
    if rate == 0.0:
        return no_dropout
    return ClientDropout(rate, generators, num_windows, longest, 1 + 2 * num_blocks, width, dtype, device)
