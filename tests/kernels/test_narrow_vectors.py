"""The kernels as processors with narrower vectors than this one's have them built."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fedmm.kernels import build, losses
from fedmm.kernels.losses import Asked, SharedKeys, TermParts, cross_entropy

compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(
    build.library() is None or compiler is None or platform.machine() not in ("x86_64", "AMD64"),
    reason="no C compiler, or no such vectors here",
)


def built(narrow: str, folder: Path) -> ctypes.CDLL:
    path = folder / f"{narrow}.so"
    flags = ["-std=gnu11", "-O1", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-march=native", narrow]
    subprocess.run([str(compiler), *flags, str(build.SOURCES / "losses.c"), "-o", str(path), "-lm"], check=True)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("narrow", ["-mno-avx512f", "-mno-avx"])
def test_few_candidates_are_no_others_than_there_are(
    narrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one row and of several, whose logits stand side by side, far apart."""
    library = built(narrow, tmp_path)
    monkeypatch.setattr(losses, "require_kernels", lambda: library)
    monkeypatch.setattr(losses, "_kernel", losses._kernel.__wrapped__)
    g = torch.Generator().manual_seed(0)
    for candidates in (2, 5, 16, 17, 33):
        for rows in (1, 3):
            queries, keys = torch.randn(1, rows, 16, generator=g), torch.randn(1, candidates, 16, generator=g)
            queries *= torch.tensor([1.0, 100.0, 10_000.0])[:rows].view(-1, 1)
            targets, weights = torch.randint(1, candidates, (1, rows), generator=g), torch.ones(1, rows)
            asked = Asked(torch.tensor([rows]), targets, weights)
            found = cross_entropy([TermParts(queries, keys)], asked, SharedKeys())
            logits = (queries.double() @ keys.double().mT)[0, :, 1:]
            wanted = torch.nn.functional.cross_entropy(logits, targets[0] - 1, reduction="sum")
            assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
