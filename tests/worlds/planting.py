"""How a fault is described and planted."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, eq=False)
class Fault:
    """What is broken, how, and the checks that must fail for it."""

    name: str
    caught_by: tuple[str, ...]
    plant: Callable[[pytest.MonkeyPatch], None]


def everywhere(patch: pytest.MonkeyPatch, original: Any, replacement: Any) -> None:
    """Replaces a function wherever a module of fedmm has imported it."""
    places = 0
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fedmm":
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, attribute, replacement)
                    places += 1
    assert places, f"{original} is imported nowhere"


def edited(target: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault that rewrites the function ``target`` ("module:Class.method") where it stands, so that whoever has
    imported it meets the fault: ``old``, which its source has once, becomes ``new``. Properties and class methods are
    taken for their functions."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        module, _, names = target.partition(":")
        function = plain_function(functools.reduce(member, names.split("."), importlib.import_module(module)))
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, f"{function.__qualname__} has {old!r} {source.count(old)} times"
        code = code_of(compile(source.replace(old, new), "<fault>", "exec"), function.__name__)
        patch.setattr(function, "__code__", code)

    return plant


def member(owner: Any, name: str) -> Any:
    """What a module or a class has under a name, a class as it was written down."""
    return vars(owner)[name]


def plain_function(target: Any) -> Any:
    """The function behind a property, a class method or a bound one."""
    for attribute in ("fget", "__func__", "func"):
        target = getattr(target, attribute, target)
    return target


def code_of(code: types.CodeType, name: str) -> types.CodeType:
    """The code of the function ``name`` that the module's ``code`` defines."""
    (found,) = (own for own in code.co_consts if isinstance(own, types.CodeType) and own.co_name == name)
    return found


def constant(module: str, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in a constant of a module."""
    return lambda patch: patch.setattr(importlib.import_module(module), name, value)
