"""A study from a table of TOML: every key known, every value possible, else one line that says what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError
from fedmm.study.checking import check
from fedmm.study.definition import Plan, Study, Variant
from fedmm.study.parameters import read_space
from fedmm.study.search_option import SEARCH, parse_search
from fedmm.study.space import VARIANT, Parameter
from fedmm.study.values import Flat, as_typed, build, fit, require_common, require_known, require_variable, shown
from fedmm.utils.trees import flatten

TABLES = ("study", "base", "space", "variants")
ONE = "Take it out of one of the two."
EXAMPLE = 'Write for example: settings = { model.fusion = "competitive" }'
METRIC = "evaluation.selection_metric"
Overlay = Callable[[Mapping[str, Any]], ExperimentConfig]


@dataclass(frozen=True)
class Changes:
    """What the command line changes of a study before it is checked.

    ``plan`` has keys of [study], None where one was not given; ``search`` the texts of ``--search``, each of which adds
    a parameter or replaces one; ``overlay`` puts settings above [base]: it takes what ``load_config`` calls implied.
    """

    plan: Mapping[str, Any] = field(default_factory=dict)
    search: Sequence[str] = ()
    overlay: Overlay | None = None


def read_study(tree: Mapping[str, Any], source: str, name: str = "", changes: Changes | None = None) -> Study:
    """The study that ``tree`` describes, checked whole. ``name`` is used where [study] gives none.

    Raises ConfigError in one line, with value, ``source`` and remedy.
    """
    changes = changes or Changes()
    require_known(tree, TABLES, "the study", source)
    for table in ("study", "base", "space"):
        if not isinstance(tree.get(table, {}), Mapping):
            raise ConfigError(
                f"{table} cannot be {shown(tree[table])} (from {source}).", f"Make it a table: [{table}]."
            )
    plan = _plan(tree.get("study", {}), source, name, changes.plan)
    searched = [parse_search(text) for text in changes.search]
    _refuse_twice([parameter.name for parameter in searched], SEARCH)
    variants = _variants(tree.get("variants", []), source, selects=not plan.test_every_run)
    space = read_space(tree.get("space", {}), source, searched, variants)
    fixed, sources = _fixed(tree.get("base", {}), source, plan, [parameter.name for parameter in searched])
    varied = {key: f"[[variants]] of {source}" for variant in variants for key in variant.settings}
    for parameter in space:
        key = parameter.name
        if key in fixed:
            raise ConfigError(f"{key} is fixed at {shown(fixed[key])} in [base] and searched (from {source}).", ONE)
        if key in varied:
            raise ConfigError(f"{key} is set by a variant and searched (from {source}).", ONE)
        sources[key] = SEARCH if parameter in searched else f"[space] of {source}"
    if not space:
        raise ConfigError(f"{source} searches nothing.", "Give [space], [[variants]] or --search.")
    base = _overlaid(_base(fixed, space, sources), changes.overlay, [*varied, *(p.name for p in space)])
    plan = plan.model_copy(update={"metric": base.evaluation.selection_metric})
    study = Study(plan, base, space, variants)
    check(study, {**sources, **varied})
    if plan.sampler != "grid":
        return study
    return replace(study, plan=plan.model_copy(update={"trials": len(study.grid())}))


def _plan(table: Mapping[str, Any], source: str, name: str, changed: Mapping[str, Any]) -> Plan:
    require_known(table, list(Plan.model_fields), "[study]", source)
    given = {key: value for key, value in changed.items() if value is not None}
    try:
        return Plan.model_validate({"name": name, **table, **given})
    except ValidationError as error:
        keys = list(dict.fromkeys(str(problem["loc"][0]) for problem in error.errors()))
        tree = {"name": name, **table, **given}
        wrong = [f"study.{k} cannot be {shown(tree[k])} (from {f'--{k}' if k in given else source})." for k in keys]
        remedies = [f"study.{k} takes {Plan.model_fields[k].description}." for k in keys]
        raise ConfigError(" ".join(wrong), " ".join(remedies)) from None


def _variants(entries: Any, source: str, *, selects: bool) -> tuple[Variant, ...]:
    place = f"[[variants]] of {source}"
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"variants cannot be {shown(entries)} (from {source}).", "Write one [[variants]] for each.")
    variants = []
    for entry in entries:
        require_known(entry, ("name", "settings"), "[[variants]]", source)
        name, settings = entry.get("name"), entry.get("settings", {})
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ConfigError(f"The name of a variant cannot be {shown(name)} (from {source}).", "Give a line of text.")
        if not isinstance(settings, Mapping):
            raise ConfigError(f"settings of variant {name!r} cannot be {shown(settings)} (from {source}).", EXAMPLE)
        flat = flatten(settings)
        for key in flat:
            require_variable(key, place, selects=selects)
        variants.append(Variant(name, {key: fit(key, value, place) for key, value in flat.items()}))
    _refuse_twice([variant.name for variant in variants], place)
    if len(variants) == 1:
        raise ConfigError(f"There is one variant only, {variants[0].name!r} (from {source}).", "Put it into [base].")
    return tuple(variants)


def _refuse_twice(names: Sequence[str], source: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name!r} is there twice (from {source}).", "Take one out.")


def _fixed(table: Any, source: str, plan: Plan, searched: Sequence[str]) -> tuple[Flat, dict[str, str]]:
    """What [base] fixes, without what --search takes over, and who says so."""
    place = f"[base] of {source}"
    flat = flatten(table)
    for key in flat:
        require_common(key, place)
    fixed = {key: fit(key, value, place) for key, value in flat.items() if key not in searched}
    sources = dict.fromkeys(fixed, place)
    if fixed.setdefault(METRIC, plan.metric) != plan.metric:
        raise ConfigError(
            f"{METRIC} is {fixed[METRIC]!r} in [base] and study.metric is {plan.metric!r} (from {source}).",
            "Give study.metric alone.",
        )
    sources.setdefault(METRIC, f"study.metric of {source}")
    return fixed, sources


def _base(fixed: Flat, space: Sequence[Parameter], sources: Mapping[str, str]) -> ExperimentConfig:
    """[base] over the defaults; a setting that every trial searches has the point of the space nearest its default."""
    defaults = ExperimentConfig().flat()
    nearest = {
        parameter.name: parameter.domain.nearest(defaults[parameter.name])
        for parameter in space
        if parameter.name != VARIANT and not parameter.when
    }
    return build({**fixed, **nearest}, sources)


def _overlaid(base: ExperimentConfig, overlay: Overlay | None, varied: Iterable[str]) -> ExperimentConfig:
    if overlay is None:
        return base
    before = base.flat()
    config = overlay(as_typed(before))
    after = config.flat()
    for key in varied:
        if key != VARIANT and after[key] != before[key]:
            raise ConfigError(
                f"{key} is fixed at {shown(after[key])} and the study searches it.",
                f"Leave one of the two out; --search {key}=... searches it differently.",
            )
    for key, value in after.items():
        if value != before[key]:
            require_common(key, "the command line")
    return config
