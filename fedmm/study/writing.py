"""Writes a study as TOML; reading it gives the same study again."""

from __future__ import annotations

import tomllib
from typing import Any

from fedmm.config.describe import known_settings
from fedmm.config.toml import toml_value
from fedmm.study.definition import Study, Variant
from fedmm.study.files import METRIC
from fedmm.study.space import VARIANT, Choices, Parameter


def dump_study(study: Study) -> str:
    """The study as TOML that ``read_study`` reads back as equal."""
    searched = [parameter for parameter in study.space if parameter.name != VARIANT]
    tables = [_plan(study), *_base(study, [parameter.name for parameter in searched])]
    tables += [_parameter(parameter) for parameter in searched]
    tables += [_variant(variant) for variant in study.variants]
    return "\n\n".join(tables) + "\n"


def as_tree(study: Study) -> dict[str, Any]:
    """The study as ``read_study`` takes it: for another process, as JSON."""
    return tomllib.loads(dump_study(study))


def _plan(study: Study) -> str:
    given = study.plan.model_dump(mode="json", exclude_none=True)
    return "\n".join(["[study]", *(f"{key} = {toml_value(value)}" for key, value in given.items())])


def _base(study: Study, searched: list[str]) -> list[str]:
    """One table a section: what differs from the defaults and is not said elsewhere."""
    flat = study.base.flat()
    tables: dict[str, list[str]] = {}
    for key, setting in known_settings().items():
        if key not in (*searched, METRIC) and flat[key] != setting.default:
            section, _, leaf = key.rpartition(".")
            tables.setdefault(section, [f"[base.{section}]"]).append(f"{leaf} = {_value(flat[key])}")
    return ["\n".join(lines) for lines in tables.values()]


def _parameter(parameter: Parameter) -> str:
    domain = parameter.domain
    lines = [f"[space.{toml_value(parameter.name)}]"]
    if isinstance(domain, Choices):
        lines.append(f"choices = {_list(domain.values)}")
    else:
        lines += [f"low = {toml_value(domain.low)}", f"high = {toml_value(domain.high)}"]
        lines += ["log = true"] if domain.log else []
        lines += [f"step = {toml_value(domain.step)}"] if domain.step is not None else []
    if parameter.when:
        conditions = ", ".join(f"{toml_value(c.name)} = {_list(c.values)}" for c in parameter.when)
        lines.append(f"when = {{ {conditions} }}")
    return "\n".join(lines)


def _variant(variant: Variant) -> str:
    settings = ", ".join(f"{toml_value(key)} = {_value(value)}" for key, value in variant.settings.items())
    return f"[[variants]]\nname = {toml_value(variant.name)}\nsettings = {{ {settings} }}"


def _list(values: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(_value, values))}]"


def _value(value: Any) -> str:
    return toml_value("none" if value is None else value)
