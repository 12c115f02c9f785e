"""Which device a run computes on."""

from __future__ import annotations

import torch

from fedmm.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The named device; "auto" is CUDA where there is one, else the CPU (mps is slower at these sizes: ask for it by
    name).

    Raises ConfigError where the device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    index = int(name.partition(":")[2] or 0)
    if not available[kind] or (kind == "cuda" and index >= torch.cuda.device_count()):
        raise ConfigError(f"runtime.device {name!r} is not available on this machine.", "Use --device cpu or auto.")
    return torch.device(name)
