"""Trying a mutant: a fork of a process that has everything imported, in which one function gets other code.

Whoever has imported the function meets the change, since it is the same object; nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .sites import Mutant, mutated

CAUGHT, SURVIVED, TIMED_OUT, BROKEN = "caught", "survived", "timed out", "broken"
Outcome = tuple[str, str]  # the word, and who caught it


def path_of(module: str) -> Path:
    """The module's source."""
    return Path(str(importlib.import_module(module).__file__))


def function_of(module: str, name: str) -> types.FunctionType | None:
    """The function or method called so, behind whatever decorates it; None where it cannot be told."""
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = vars(target).get(part) if isinstance(target, type) else getattr(target, part, None)
    for _ in range(4):
        if isinstance(target, types.FunctionType) and not hasattr(target, "__wrapped__"):
            return target
        for attribute in ("fget", "__func__", "__wrapped__", "func"):
            inner = getattr(target, attribute, None)
            if inner is not None:
                target = inner
                break
    return target if isinstance(target, types.FunctionType) else None


def install(mutant: Mutant) -> bool:
    """Gives the mutant's function its changed code; False where there is no such function or it closes over others."""
    function = function_of(mutant.module, mutant.function)
    if function is None:
        return False
    tree = mutated(path_of(mutant.module), mutant)
    code = _find(compile(tree, "<mutant>", "exec", dont_inherit=True), mutant.function)
    if code is None or code.co_freevars != function.__code__.co_freevars:
        return False
    inner = _inner_codes(function.__code__, code)
    function.__code__ = code
    if inner:  # functions that this one made while its module loaded, as a factory does
        for made in gc.get_objects():
            # by type: what asks an object for its class may warn, and a warning is an error to pytest
            if type(made) is types.FunctionType and made.__code__ in inner:
                new = inner[made.__code__]
                if new.co_freevars == made.__code__.co_freevars:
                    made.__code__ = new
    _forget(sys.modules[mutant.module])
    return True


def _inner_codes(old: types.CodeType, new: types.CodeType) -> dict[types.CodeType, types.CodeType]:
    """The nested functions of one code and those of the other that stand where they stood."""
    olds, news = ([c for c in code.co_consts if isinstance(c, types.CodeType)] for code in (old, new))
    found: dict[types.CodeType, types.CodeType] = {}
    if len(olds) == len(news):
        for left, right in zip(olds, news, strict=True):
            found |= {left: right} | _inner_codes(left, right)
    return found


def _find(code: types.CodeType, name: str) -> types.CodeType | None:
    inner = [own for own in code.co_consts if isinstance(own, types.CodeType)]
    for own in inner:
        if own.co_qualname == name:
            return own
    return next((found for own in inner if (found := _find(own, name)) is not None), None)


def _forget(module: types.ModuleType) -> None:
    """What functions of the module remember from before the change."""
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def tried(mutant: Mutant, judge: Callable[[], str], seconds: float) -> Outcome:
    """What ``judge`` says in a fork with the mutant: the name of who caught it, or "" for nobody. Whatever takes longer
    than ``seconds``, or more processor time than ``limited`` grants, counts as caught: an endless loop is noticed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _child(mutant, judge, writer)
    os.close(writer)
    ended, text = time.monotonic() + seconds, b""
    os.set_blocking(reader, False)
    while time.monotonic() < ended:
        done, status = os.waitpid(pid, os.WNOHANG)
        with contextlib.suppress(BlockingIOError):
            text += os.read(reader, 2**16)
        if done:
            with contextlib.suppress(BlockingIOError):
                text += os.read(reader, 2**16)
            os.close(reader)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
                return TIMED_OUT, "more processor time than granted"
            word, _, who = text.decode(errors="replace").partition("\t")
            return (word, who) if word else (CAUGHT, "the process died")
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    return TIMED_OUT, f"longer than {seconds:.0f} s"


def limited(seconds: float) -> None:
    """Ends this process after so much processor time of its own, however busy the machine is; 0 lifts the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _child(mutant: Mutant, judge: Callable[[], str], writer: int) -> None:
    """Never returns."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        if not install(mutant):
            answer = f"{BROKEN}\tnot installed"
        else:
            who = judge()
            answer = f"{CAUGHT}\t{who}" if who else f"{SURVIVED}\t"
    except BaseException as error:
        answer = f"{CAUGHT}\t{type(error).__name__}: {traceback.format_exc(limit=-1)[-200:]}"
    os.write(writer, answer.encode()[: 2**16])
    os._exit(0)
