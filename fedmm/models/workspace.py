"""Memory that is handed out again: one step's gradients lie where the last step's lay.

A fresh tensor of some megabytes costs its page faults before the first number is in it; a step of local training would
pay them every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

Kept = TypeVar("Kept")


class Workspace:
    """Named buffers of one thread. What ``take`` returned is overwritten by the next ``take`` of the same name."""

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}
        self._kept: dict[Hashable, object] = {}

    def kept(self, name: Hashable, make: Callable[[], Kept]) -> Kept:
        """What ``make`` made when it was first asked for under ``name``."""
        if name not in self._kept:
            self._kept[name] = make()
        return cast(Kept, self._kept[name])

    def taker(self, owner: str, like: Tensor) -> Callable[[str, Sequence[int]], Tensor]:
        """``take`` for one owner's names: a function of a name and a shape."""
        return lambda name, shape: self.take((owner, name), shape, like)

    def take(self, name: Hashable, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor of ``shape`` with the precision (unless ``dtype`` names another) and device of
        ``like``, in memory kept under ``name``."""
        size, dtype = math.prod(shape), dtype or like.dtype
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype or buffer.device != like.device:
            buffer = torch.empty(size, dtype=dtype, device=like.device)
            self._buffers[name] = buffer
        return buffer[:size].view(*shape)
