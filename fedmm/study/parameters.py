"""The tables [space."..."] of a study, and what one of them may say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from fedmm.config.describe import known_settings, sections
from fedmm.errors import ConfigError
from fedmm.study.definition import Variant, variant_parameter
from fedmm.study.space import VARIANT, Choices, Condition, Parameter, Range
from fedmm.study.values import Flat, fit, known, number, require_known, require_variable, shown
from fedmm.utils.trees import flatten

MOST_STEPS = 100_000
LARGEST = 2**53  # integers are numbers to samplers, exact up to here


class Entry(BaseModel):
    """One table of [space], as written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: list[Any] | None = None
    low: Any = None
    high: Any = None
    log: StrictBool = False
    step: Any = None
    when: dict[str, Any] = {}


_TAKES = {
    "choices": 'a list of values (or "none" where the setting can be unset)',
    "log": "true or false",
    "when": 'a table such as { model.fusion = "competitive" }',
}


def read_space(
    tree: Mapping[str, Any], source: str, searched: Sequence[Parameter], variants: tuple[Variant, ...]
) -> tuple[Parameter, ...]:
    """All parameters, each after those it is conditional on: the variant, [space], and ``searched`` in place of or
    after it. Raises ConfigError in one line."""
    place = f"[space] of {source}"
    entries = _entries(tree, place)
    replaced = {parameter.name: parameter for parameter in searched}
    parameters = {VARIANT: variant_parameter(variants)} if variants else {}
    for key, table in entries.items():
        parameters[key] = replaced.get(key) or make_parameter(key, read_entry(key, table, place), place)
    parameters |= replaced
    for key, parameter in list(parameters.items()):
        if key in entries and key not in replaced:
            conditions = flatten(entries[key].get("when", {}))
            when = tuple(_condition(key, name, value, parameters, place) for name, value in conditions.items())
            parameters[key] = Parameter(key, parameter.domain, when)
    return _in_order(list(parameters.values()), place)


def make_parameter(key: str, entry: Entry, source: str) -> Parameter:
    """The parameter that ``entry`` describes, without its conditions. Raises ConfigError in one line."""
    require_variable(key, source)
    ranged = [name for name in ("low", "high", "log", "step") if name in entry.model_fields_set]
    if entry.choices is not None:
        if ranged:
            raise ConfigError(f"{key} has choices and {ranged[0]} (from {source}).", "Give choices, or low and high.")
        return Parameter(key, _choices(key, entry.choices, source))
    missing = [name for name in ("low", "high") if getattr(entry, name) is None]
    if missing:
        raise ConfigError(f"{key} has no {' and no '.join(missing)} (from {source}).", "Give choices, or low and high.")
    return Parameter(key, _range(key, entry, source))


def read_entry(key: str, table: Any, source: str) -> Entry:
    """``table`` with known keys only. Raises ConfigError in one line."""
    require_known(table, list(Entry.model_fields), f"the parameter {key}", source)
    try:
        return Entry.model_validate(table)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise ConfigError(
            f"{name} of {key} cannot be {shown(table[name])} (from {source}).", f"{name} takes {_TAKES[name]}."
        ) from None


def _entries(tree: Mapping[str, Any], place: str, prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """One table a setting, whether its key was written quoted or as tables in tables."""
    entries: dict[str, Mapping[str, Any]] = {}
    for name, table in tree.items():
        key = f"{prefix}{name}"
        if not isinstance(table, Mapping):
            known(key, place)
            raise ConfigError(
                f"{key} cannot be {shown(table)} (from {place}).",
                "Give { choices = [...] } or { low = ..., high = ... }.",
            )
        if key in sections() and key not in known_settings():
            entries |= _entries(table, place, f"{key}.")
        else:
            require_variable(key, place)
            entries[key] = table
    return entries


def _choices(key: str, values: Sequence[Any], source: str) -> Choices:
    fitted: list[Any] = []
    for value in values:
        fitted.append(fit(key, value, source))
        if fitted.index(fitted[-1]) < len(fitted) - 1:
            raise ConfigError(f"{key} has the choice {shown(value)} twice (from {source}).", "Take one out.")
    if len(fitted) < 2:
        raise ConfigError(
            f"{key} has {len(fitted) or 'no'} choice{'' if fitted else 's'}, {shown(list(values))} (from {source}).",
            "Give two or more, or fix the setting in [base].",
        )
    return Choices(tuple(fitted))


def _range(key: str, entry: Entry, source: str) -> Range:
    setting = known(key, source)
    if setting.kind not in ("integer", "number"):
        raise ConfigError(
            f"{key} has no range from {shown(entry.low)} to {shown(entry.high)} (from {source}).",
            f"{key} takes {setting.allowed}; give choices.",
        )
    low, high = (fit(key, value, source) for value in (entry.low, entry.high))
    for name, value in (("low", low), ("high", high)):
        if value is None:
            raise ConfigError(f"{name} of {key} cannot be none (from {source}).", "Give a number, or choices.")
        if value > LARGEST and setting.kind == "integer":
            raise ConfigError(f"{name} of {key} cannot be {shown(value)} (from {source}).", f"Give at most {LARGEST}.")
    span = f"{number(low)} to {number(high)}"
    if not low < high:
        raise ConfigError(f"{key} has an empty range, {span} (from {source}).", "Give a high above low.")
    if entry.log and low <= 0:
        raise ConfigError(
            f"{key} cannot be searched on a log scale from {number(low)} (from {source}).",
            "Give a low above 0, or leave log out.",
        )
    if entry.log and entry.step is not None:
        raise ConfigError(
            f"{key} has log and step {shown(entry.step)} (from {source}).", "Leave one of the two out, or give choices."
        )
    return Range(low, high, entry.log, _step(key, entry.step, low, high, source), setting.kind == "integer")


def _step(key: str, step: Any, low: float, high: float, source: str) -> float | None:
    if step is None:
        return None
    integer = isinstance(low, int)
    typed = isinstance(step, int if integer else (int, float)) and not isinstance(step, bool)
    if not typed or not 0 < step < math.inf:
        takes = "an integer of at least 1" if integer else "a number above 0"
        raise ConfigError(f"step of {key} cannot be {shown(step)} (from {source}).", f"step takes {takes}.")
    num_steps = (high - low) / step
    if num_steps > MOST_STEPS:
        raise ConfigError(f"{key} has more than {MOST_STEPS} steps of {step} (from {source}).", "Give a larger step.")
    if not math.isclose(num_steps, round(num_steps), abs_tol=1e-6) or round(num_steps) == 0:
        reached = low + max(math.floor(num_steps), 1) * step
        raise ConfigError(
            f"{key} does not reach {number(high)} from {number(low)} by steps of {number(step)} (from {source}).",
            f"Give high = {number(reached)}, or another step.",
        )
    return step if integer else float(step)


def _condition(key: str, name: str, value: Any, parameters: Mapping[str, Parameter], place: str) -> Condition:
    if name != VARIANT:
        known(name, f"when of {key} in {place}")
    if name == key or name not in parameters:
        which = "itself" if name == key else f"{name}, which is not searched"
        raise ConfigError(
            f"{key} is conditional on {which} (from {place}).", "Take the condition out, or search what it names."
        )
    domain = parameters[name].domain
    if not isinstance(domain, Choices):
        raise ConfigError(f"{key} is conditional on {name}, which is a range (from {place}).", f"Give {name} choices.")
    values: Flat = {}
    for wanted in value if isinstance(value, list) else [value]:
        fitted = wanted if name == VARIANT else fit(name, wanted, f"when of {key} in {place}")
        if fitted not in domain.values:
            choices = ", ".join(map(str, domain.values))
            raise ConfigError(
                f"{key} is conditional on {name} = {shown(wanted)}, which is no choice of it (from {place}).",
                f"Its choices are {choices}.",
            )
        values[repr(fitted)] = fitted
    if not values:
        raise ConfigError(
            f"{key} is conditional on {name} = [] (from {place}).", "Give the values where it is searched."
        )
    return Condition(name, tuple(values.values()))


def _in_order(parameters: Iterable[Parameter], place: str) -> tuple[Parameter, ...]:
    """The order given, but each parameter after those it is conditional on."""
    waiting, placed = list(parameters), dict[str, Parameter]()
    while waiting:
        ready = next((p for p in waiting if all(condition.name in placed for condition in p.when)), None)
        if ready is None:
            names = " and ".join(parameter.name for parameter in waiting)
            raise ConfigError(f"{names} are conditional on each other (from {place}).", "Take one condition out.")
        placed[ready.name] = ready
        waiting.remove(ready)
    return tuple(placed.values())
