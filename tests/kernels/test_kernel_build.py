"""Compilers that are named oddly, hang, or cannot write: the library is built, or torch trains and it is said why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmm.experiment import Experiment
from fedmm.kernels import build
from fedmm.testing import tiny_config
from worlds.short_kernels import short_sources

compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(build.library() is None or compiler is None, reason="there is no C compiler here")
needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="wrappers are shell scripts")


def wrapper(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return short_sources(tmp_path / "sources")


@pytest.fixture
def cache(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache"
    folder.mkdir()
    monkeypatch.setattr(build, "SOURCES", short)
    monkeypatch.setattr(build, "_folder", lambda: folder)
    monkeypatch.setattr(build, "_found", build._found.__wrapped__)
    return folder


@needs_compiler
@needs_shell
def test_a_compiler_may_stand_in_a_folder_with_a_space(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = wrapper(tmp_path / "my tools", "cc", f'exec "{compiler}" "$@"')
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: str(own) if name == "cc" else None)
    assert build.missing() is None
    assert len(list(cache.iterdir())) == 1


@needs_compiler
@needs_shell
def test_cc_is_read_as_a_shell_reads_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = wrapper(tmp_path / "my tools", "cc", f'exec "{compiler}" "$@"')
    monkeypatch.setenv("CC", f"'{own}' -O1 -DNAME='a b'")
    assert build.missing() is None
    assert len(list(cache.iterdir())) == 1


@needs_compiler
def test_a_blank_cc_names_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "  ")
    assert build.missing() is None
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("cache")
def test_an_open_quotation_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "'cc")
    assert "CC is not a command" in str(build.missing())


@needs_shell
def test_a_compiler_that_hangs_is_left_with_what_it_started(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = wrapper(tmp_path, "slow", '[ "$1" = --version ] && exit 0', "sleep 60")
    monkeypatch.setenv("CC", str(own))
    monkeypatch.setattr(build, "SECONDS", 0.5)
    begun = time.monotonic()
    assert "did not end in 0.5 seconds" in str(build.missing())
    assert time.monotonic() - begun < 20
    assert list(cache.iterdir()) == []


@needs_shell
def test_complaints_in_another_encoding_are_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = wrapper(tmp_path, "latin", r"printf 'pas trouv\351\n' >&2", "exit 1")
    monkeypatch.setenv("CC", str(own))
    assert "pas trouv" in str(build.missing())
    assert list(cache.iterdir()) == []


@needs_compiler
def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(build, "_found", build._found.__wrapped__)
    why = str(build.missing()) if sys.platform == "linux" else "file"
    assert "file" in why
    assert "\n" not in why


@needs_shell
@pytest.mark.usefixtures("cache")
def test_a_compiler_that_fails_in_silence_is_told_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    assert build.missing() == "false could not build them: it failed with 1 and said nothing"


@needs_compiler
@needs_shell
def test_processes_that_build_at_once_all_have_the_library(tmp_path: Path, short: Path) -> None:
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    script = (
        f"from fedmm.kernels import build; from pathlib import Path; build.SOURCES = Path({str(short)!r})\n"
        "print(build.missing(), build._folder())"
    )
    begun = [
        subprocess.Popen([sys.executable, "-c", script], env=own, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = {process.communicate(timeout=120)[0] for process in begun}
    assert len(said) == 1
    assert said.pop().startswith("None ")
    if sys.platform == "linux":
        (made,) = (tmp_path / "fedmm" / "kernels").iterdir()
        assert made.suffix == ".so"


def test_a_run_says_that_torch_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_found", lambda: (None, "there is no C compiler"))
    plain = tiny_config()
    notes = Experiment.prepare(plain).notes
    assert any("torch trains, more slowly" in note and "no C compiler (runtime.kernels)" in note for note in notes)
    asked = plain.with_values({"runtime.kernels": "torch"})
    assert not any("runtime.kernels" in note for note in Experiment.prepare(asked).notes)
