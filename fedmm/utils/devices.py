"""Which device a run computes on, and in what its products are formed."""

from __future__ import annotations

import os

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


def repeat_itself(device: torch.device) -> None:
    """On a GPU this process takes algorithms that give the same bits each time from now on, wherever torch has one:
    sums by index are otherwise added up in the order in which they come. Processors do so anyway."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is formed
        torch.use_deterministic_algorithms(True, warn_only=True)


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are the machine's own: where they are emulated they are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def choose_precision(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """What ``runtime.precision`` comes to for parameters of ``dtype``: "auto" is bfloat16 where the device multiplies
    it by itself, and float32 elsewhere; anything else stays as it is."""
    if name != "auto":
        return name
    return "bfloat16" if dtype == torch.float32 and has_bfloat16(device) else "float32"


def require_precision(name: str, device: torch.device) -> None:
    """Raises ConfigError where training is to form products in bfloat16 and the device only emulates it."""
    if name == "bfloat16" and not has_bfloat16(device):
        raise ConfigError(
            f'runtime.precision "bfloat16" needs a processor with avx512_bf16 or amx_bf16, or a GPU of that kind; '
            f"device {str(device)!r} here only emulates it, more slowly than float32.",
            "Use --precision float32; a run that began in bfloat16 goes on where the hardware has it, or begins anew.",
        )
