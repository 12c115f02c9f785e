"""The examples of the documented API run, and nearly every public name has one."""

from __future__ import annotations

import doctest
import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_overloads, get_type_hints

import pytest

import fedmm
import fedmm.testing
from fedmm.config.parts import KINDS
from fedmm.recommendation.recommend import Recommendation
from fedmm.runs.trained import Choosing
from fedmm.utils.registry import own_parts

SHARE = 0.8


def public() -> dict[str, Any]:
    """Every public name and, of classes, their own public methods: ``Run.load``."""
    found: dict[str, Any] = {name: getattr(fedmm, name) for name in fedmm.__all__}
    found |= {f"testing.{name}": getattr(fedmm.testing, name) for name in fedmm.testing.__all__}
    for name, value in list(found.items()):
        if inspect.isclass(value) and not _is_left_whole(value):
            members = {key: inspect.unwrap(_function(own)) for key, own in vars(value).items() if key[0] != "_"}
            found |= {f"{name}.{key}": own for key, own in members.items() if inspect.isfunction(own)}
    return found


def _is_left_whole(value: type) -> bool:
    """Errors; protocols, whose methods are the user's to write; and records of pydantic."""
    return issubclass(value, Exception) or getattr(value, "_is_protocol", False) or hasattr(value, "model_fields")


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return getattr(member, "func", getattr(member, "__func__", member))


def examples_of(value: Any) -> list[doctest.DocTest]:
    """The docstring's own examples, without those of members."""
    text = inspect.getdoc(value) or ""
    module = sys.modules.get(getattr(value, "__module__", None) or value.__name__)
    test = doctest.DocTestParser().get_doctest(text, {}, getattr(value, "__qualname__", ""), str(module), 0)
    return [test] if test.examples else []


WITH_EXAMPLES = {name: tests[0] for name, value in public().items() if (tests := examples_of(value))}


@pytest.fixture(autouse=True)
def _own_parts_are_forgotten() -> Iterator[None]:
    yield
    for kind in KINDS.values():
        for store in kind.stores:
            own_parts(store).clear()


LONG = {"sweep"}  # whole studies: ``nox -s slow``


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in WITH_EXAMPLES])
def test_the_example_runs(name: str) -> None:
    test = WITH_EXAMPLES[name]
    told: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert outcome.attempted == len(test.examples)
    assert outcome.failed == 0, "".join(told)


def test_nearly_every_public_name_has_an_example_and_none_is_skipped() -> None:
    names = {name for name, value in public().items() if not _is_error(value)}
    without = sorted(names - WITH_EXAMPLES.keys())
    assert len(without) <= (1 - SHARE) * len(names), without
    skipped = doctest.OPTIONFLAGS_BY_NAME["SKIP"]
    assert not any(skipped in example.options for test in WITH_EXAMPLES.values() for example in test.examples)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def test_whoever_recommends_knows_what_comes_back() -> None:
    """One history or user gives a list, several a list of lists: a type checker tells which."""
    found = [get_type_hints(one)["return"] for one in get_overloads(fedmm.TrainedModel.recommend)]
    assert found == [list[Recommendation]] * 2 + [list[list[Recommendation]]] * 2
    own = inspect.signature(fedmm.TrainedModel.recommend).parameters.keys()
    assert own == {"self", "history", "histories", "user", "users", *Choosing.__annotations__}
