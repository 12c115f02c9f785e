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
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import torch

from fedmm.errors import ConfigError

SOURCES = Path(__file__).parent
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 120.0  # that a compiler may take; it needs four or five
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
    given = os.environ.get("CC", "").strip()
    try:
        compiler = shlex.split(given) or [found for name in COMPILERS if (found := shutil.which(name))][:1]
    except ValueError as error:  # a quotation without an end
        return None, f"CC is not a command: {error}"
    if not compiler:
        return None, "there is no C compiler (cc, gcc or clang)"
    try:
        return ctypes.CDLL(str(_built(compiler))), None
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"{shlex.join(compiler)} could not build them: {_told(error)}"


def _told(error: OSError | subprocess.SubprocessError) -> str:
    """What went wrong, in one line without a full stop."""
    if isinstance(error, subprocess.CalledProcessError):
        return (error.stderr.strip() or f"it failed with {error.returncode} and said nothing").splitlines()[-1]
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _run(command: list[str]) -> str:
    """What the command says. Raises OSError or SubprocessError where it cannot be run, fails, or does not end in time;
    then what it has started ends with it."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        # Files, not pipes: whatever a wrapper left behind would keep a pipe open.
        begun = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=complaints, start_new_session=True
        )
        try:
            code = begun.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise subprocess.SubprocessError(f"it did not end in {SECONDS:g} seconds") from None
        finally:
            if begun.returncode is None:
                _end(begun)
        if code:
            complaints.seek(0)
            why = complaints.read().decode(errors="replace")
            raise subprocess.CalledProcessError(code, command, stderr=why)
        said.seek(0)
        return said.read().decode(errors="replace")


def _end(begun: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(begun.pid, signal.SIGKILL)
    begun.kill()
    begun.wait()


def _built(compiler: list[str]) -> Path:
    """The library's file, made if it is not there yet. Raises OSError or SubprocessError where it cannot be."""
    folder = _folder()
    path = folder / f"{_digest(compiler)}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / path.name
        sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
        for native in (["-march=native"], ["-mcpu=native"], []):
            try:
                _run([*compiler, *FLAGS, *native, *sources, "-o", str(made), "-lm"])
                break
            except subprocess.CalledProcessError:
                if not native:
                    raise
        made.replace(path)
    return path


def _folder() -> Path:
    """Where libraries are kept, which nobody else may write to."""
    from platformdirs import user_cache_path

    folder = user_cache_path("fedmm", appauthor=False) / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _digest(compiler: list[str]) -> str:
    said = _run([*compiler, "--version"])
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
