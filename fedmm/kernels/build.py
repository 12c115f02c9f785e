"""The compiled kernels as a library: built once on each machine by its own C compiler, kept in the user's cache.

A machine without a compiler has none, and trains in torch. What is built is named by a digest of the sources, the
compiler and the processor, so that a home folder shared by unlike machines serves each its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from fedmm.errors import ConfigError

SOURCES = Path(__file__).parent
SECONDS = 120.0  # that a compiler may take; it needs two
# The same products in the same order whoever asks; no liberties with infinities or with the order of sums.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


def library() -> ctypes.CDLL | None:
    """The kernels; None where ``missing`` says why there are none."""
    return _found()[0]


def missing() -> str | None:
    """Why there are no kernels on this machine; None where there are."""
    return _found()[1]


def choose_kernels(name: str, engine: str, dtype: torch.dtype, device: torch.device) -> str:
    """What ``runtime.kernels`` comes to: "auto" is native for an engine of blocks, in float32 on a processor, where
    there are kernels, and torch elsewhere; anything else stays as it is."""
    if name != "auto":
        return name
    able = engine != "sequential" and dtype == torch.float32 and device.type == "cpu" and library() is not None
    return "native" if able else "torch"


def require_kernels() -> ctypes.CDLL:
    """The kernels. Raises ConfigError where this machine has none."""
    found = library()
    if found is None:
        raise ConfigError(
            f'runtime.kernels "native" needs a C compiler on every machine that trains, and here {missing()}.',
            "Install one, or set --kernels torch; a run that began with native kernels goes on where they are, or "
            "begins anew.",
        )
    return found


@functools.cache
def _found() -> tuple[ctypes.CDLL | None, str | None]:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "there is no C compiler (cc, gcc or clang)"
    try:
        path = _built(compiler.split())
        return ctypes.CDLL(str(path)), None
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler} could not build them: {said.strip().splitlines()[-1] if said.strip() else error}"


def _built(compiler: list[str]) -> Path:
    """The library's file, made if it is not there yet. Raises OSError or SubprocessError where it cannot be."""
    folder = _folder()
    path = folder / f"{_digest(compiler)}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
        for native in ("-march=native", "-mcpu=native", None):
            flags = [*FLAGS, *([native] if native else [])]
            done = subprocess.run(
                [*compiler, *flags, *sources, "-o", str(made), "-lm"], capture_output=True, text=True, timeout=SECONDS
            )
            if done.returncode == 0:
                break
        done.check_returncode()
        made.replace(path)
    return path


def _folder() -> Path:
    """Where libraries are kept, which nobody else may write to."""
    from platformdirs import user_cache_path

    folder = user_cache_path("fedmm", appauthor=False) / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _digest(compiler: list[str]) -> str:
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    digest = hashlib.blake2b(digest_size=12)
    parts = [*FLAGS, said, platform.machine(), _processor()]
    parts += [source.read_text(encoding="utf-8") for source in sorted(SOURCES.glob("*.[ch]"))]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _processor() -> str:
    """What this processor can do, as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
