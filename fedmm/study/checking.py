"""Whether every configuration of a study is possible, found out before the first trial."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from fedmm.config.describe import known_settings
from fedmm.config.toml import toml_value
from fedmm.errors import ConfigError
from fedmm.study.definition import Plan, Study
from fedmm.study.space import Parameter, Range, points
from fedmm.study.values import build

# Settings that validators of the configuration read together; their values are tried in all combinations. What two
# validators share joins their settings in one group: a group is built on the base without the others' values.
INTERACTING = (
    ("runtime.engine", "runtime.workers", "runtime.ray_address"),
    ("data.columns", "data.user_column", "data.item_column", "data.rating_column", "data.timestamp_column"),
    (
        "data.path",
        "data.split",
        "data.validation_from",
        "data.test_from",
        "data.validation",
        "data.test",
        "data.cold_item_fraction",
        "data.cold_item_seed",
        "data.sql",
        "runtime.start_from",
    ),
    ("data.encoding",),
    ("runtime.dtype", "runtime.precision", "runtime.kernels"),
    ("data.images", "data.visual_features"),
    ("data.texts", "data.text_features"),
    (
        "model.hidden_dim",
        "model.num_heads",
        "model.positions",
        "model.memory.num_heads",
        "model.memory.num_prototypes",
        "model.fusion",
        "model.experts",
        "model.scoring",
        "model.transition",
        "model.succession",
        "model.alignment_weight",
        "model.personal_gate",
        "model.user_vector",
        "federation.mode",
        "federation.aggregation",
        "federation.client_weighting",
        "federation.update_transforms",
        "federation.upload_bits",
        "federation.update_clip_by",
        "federation.update_clip_quantile",
        "federation.download_bits",
        "federation.upload_share",
        "federation.upload_step",
        "federation.download_step",
        "federation.over_selection",
        "federation.late_updates",
        "federation.day_rounds",
        "federation.local_algorithm",
        "federation.local_optimizer",
        "federation.proximal_mu",
        "federation.spectral_start",
        "federation.spectral_sketch_size",
    ),
    ("federation.loss", "federation.logq_correction", "federation.num_negatives"),
    ("federation.local_steps", "federation.local_epochs"),
    ("federation.rounds", "federation.warmup_rounds"),
)
ALONE = frozenset(known_settings()) - {key for group in INTERACTING for key in group}
MAX_COMBINATIONS = 20_000
MAX_GRID = 10_000


def check(study: Study, sources: Mapping[str, str]) -> None:
    """Raises ConfigError for the first configuration that is not possible, and where there is no sense in the space.

    ``sources`` says who gave a setting.
    """
    base = study.base.flat()
    for parameter in study.space:
        _check_reachable(study, parameter)
        if parameter.name in ALONE:
            for value in parameter.domain.ends:
                build({**base, parameter.name: value}, sources)
    for variant in study.variants:
        build({**base, **_only(variant.settings, ALONE)}, sources)
    for group in INTERACTING:
        _check_group(study, group, sources)
    _check_variants(study)
    _check_plan(study)


def _check_group(study: Study, group: Sequence[str], sources: Mapping[str, str]) -> None:
    members = [parameter for parameter in study.space if parameter.name in group]
    if not members and not study.variants:
        return
    space = _with_ancestors(study.space, [*members, *study.space[: len(study.variants) and 1]])
    base = study.base.flat()
    for values in _bounded(space, MAX_COMBINATIONS):
        try:
            build({**base, **_only(study.settings(values), group)}, sources)
        except ConfigError as error:
            ranges = [parameter.name for parameter in members if isinstance(parameter.domain, Range)]
            hint = f" Or give {' and '.join(ranges)} choices or a step." if ranges else ""
            raise ConfigError(error.message, f"{error.remedy}{hint}") from None


def _check_reachable(study: Study, parameter: Parameter) -> None:
    ancestors = [other for other in _with_ancestors(study.space, [parameter]) if other is not parameter]
    if not any(parameter.active(values) for values in _bounded(ancestors, MAX_COMBINATIONS)):
        conditions = " and ".join(f"{c.name} = {' or '.join(map(str, c.values))}" for c in parameter.when)
        raise ConfigError(
            f"{parameter.name} is searched when {conditions}, which is never so.",
            "Change its conditions or take it out.",
        )


def _check_variants(study: Study) -> None:
    base = study.base.flat()
    seen: dict[str, str] = {}
    for variant in study.variants:
        alike = seen.setdefault(repr(sorted({**base, **variant.settings}.items())), variant.name)
        if alike != variant.name:
            raise ConfigError(
                f"The variants {alike!r} and {variant.name!r} have the same settings.", "Take one out or change it."
            )


def _check_plan(study: Study) -> None:
    plan = study.plan
    if plan.minimize and plan.pruner != "none":
        raise ConfigError(
            f"study.pruner cannot be {plan.pruner!r} with study.minimize {plan.minimize!r}: one curve cannot be judged "
            "by two objectives.",
            'Give pruner = "none" or leave minimize out.',
        )
    _check_test(plan)
    if plan.sampler != "grid":
        return
    size = sum(1 for _ in islice(_grid_points(study), MAX_GRID + 1))
    if size > MAX_GRID:
        raise ConfigError(
            f"The grid has more than {MAX_GRID} points.", 'Give fewer choices, or take sampler = "tpe" or "random".'
        )
    if "trials" in plan.model_fields_set and plan.trials != size:
        raise ConfigError(
            f"study.trials cannot be {plan.trials}: the grid has {size} points.",
            'Leave trials out, or take sampler = "tpe" or "random".',
        )


def _check_test(plan: Plan) -> None:
    """Raises ConfigError where a study would see test and select: then its test metrics would no longer be honest."""
    if not plan.test_every_run:
        return
    needed = {"sampler": "grid", "pruner": "none", "confirm": 0, "minimize": None, "test_winner": True}
    for name, allowed in needed.items():
        value = getattr(plan, name)
        if value != allowed:
            remedy = "Leave it out" if allowed is None else f"Give {name} = {toml_value(allowed)}"
            raise ConfigError(
                f"study.{name} cannot be {value!r} with study.test_every_run: what sees test selects nothing.",
                f"{remedy}, or leave test_every_run out.",
            )


def _grid_points(study: Study) -> Iterator[dict[str, Any]]:
    study.require_discrete()
    return points(study.space, lambda parameter: parameter.domain.values)


def _only(flat: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key in keys}


def _with_ancestors(space: Iterable[Parameter], members: Sequence[Parameter]) -> list[Parameter]:
    """``members`` and all that decides whether they are active, in the space's order."""
    needed = {parameter.name for parameter in members}
    kept = []
    for parameter in reversed(list(space)):
        if parameter.name in needed:
            needed |= {condition.name for condition in parameter.when}
            kept.append(parameter)
    return kept[::-1]


def _bounded(space: Sequence[Parameter], most: int) -> Iterator[dict[str, Any]]:
    """All combinations. Raises ConfigError where they are too many to try."""

    def values(parameter: Parameter) -> Sequence[Any]:
        return parameter.domain.values if parameter.domain.discrete else parameter.domain.ends

    for count, point in enumerate(points(space, values)):
        if count == most:
            names = " and ".join(parameter.name for parameter in space)
            raise ConfigError(
                f"{names} have more than {most} combinations, too many to check them all.",
                "Give fewer choices or a larger step.",
            )
        yield point
