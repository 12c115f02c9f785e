"""A study: what is searched, from where, by which rule and for how long. Nothing runs here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError
from fedmm.study.space import VARIANT, Choices, Parameter, points
from fedmm.study.values import Flat, build, shown

DEFAULT_TRIALS = 50
ROUNDS, WARMUP = "federation.rounds", "federation.warmup_rounds"
Whole = Annotated[int, Field(strict=True, ge=1)]


class Plan(BaseModel):
    """The table [study]: how the space is searched. A description says what a key takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="at most 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    )
    description: str = Field("", pattern=r"^[^\x00-\x1f\x7f]*$", description="one line of text")
    metric: str = Field("full/ndcg_at_10", description="a validation metric such as full/ndcg_at_10")
    direction: Literal["maximize"] = Field(
        "maximize",
        description="maximize alone (every metric is better the higher; for fewer bytes add the second "
        'objective minimize = "communication")',
    )
    minimize: Literal["communication"] | None = Field(
        None, description="communication, as the second objective, or is left out"
    )
    sampler: Literal["tpe", "grid", "random"] = Field("tpe", description="one of tpe, grid, random")
    pruner: Literal["hyperband", "median", "none"] = Field("median", description="one of hyperband, median, none")
    trials: Whole = Field(DEFAULT_TRIALS, description="an integer of at least 1: configurations tried")
    seed: int = Field(0, strict=True, ge=0, description="an integer of at least 0")
    seeds: Whole = Field(1, description="an integer of at least 1: runs per configuration")
    first_seed: int | None = Field(
        None,
        strict=True,
        ge=0,
        description="an integer of at least 0: every configuration's runs have this seed and those that follow it; "
        "left out, each configuration has seeds of its own",
    )
    confirm: int = Field(
        0,
        strict=True,
        ge=0,
        description="an integer of at least 0: fresh seeds on which the winner meets the default at the end",
    )
    test_winner: bool = Field(
        True,
        strict=True,
        description="true or false: the winner is measured on test at the end; false keeps the study off test",
    )
    test_every_run: bool = Field(
        False,
        strict=True,
        description="true or false: every run is measured on test, which is for studies that select nothing",
    )


@dataclass(frozen=True)
class Variant:
    """A named way: settings that belong together."""

    name: str
    settings: Mapping[str, Any]  # dotted key -> JSON-able value


@dataclass(frozen=True)
class Study:
    """A study whose every configuration is possible; ``fedmm.study.files`` makes sure of that.

    ``base`` has what no value decides; a setting that every trial searches has the value of trial 0 there. ``space``
    has every parameter after those it is conditional on; the choice among ``variants``, if there are any, is its first
    parameter and is called ``variant``.
    """

    plan: Plan
    base: ExperimentConfig
    space: tuple[Parameter, ...]
    variants: tuple[Variant, ...] = ()

    @property
    def name(self) -> str:
        """What the study is called, also in storage."""
        return self.plan.name

    @property
    def metric(self) -> str:
        """The validation metric that decides: the one that also picks a run's best round."""
        return self.base.evaluation.selection_metric

    @property
    def directions(self) -> tuple[Literal["maximize", "minimize"], ...]:
        """One entry an objective: the metric, then the bytes where they count too."""
        return ("maximize", "minimize") if self.plan.minimize else ("maximize",)

    @property
    def conditional(self) -> bool:
        """Whether some parameter is not searched in every trial."""
        return any(parameter.when for parameter in self.space)

    @property
    def digest(self) -> str:
        """Twelve hex digits over all that decides which trials there are and what they measure.

        Name, description, number of trials and what happens to the winner are left out: a study may be renamed and
        gone on with.
        """
        left_out = {"name", "description", "trials", "confirm", "test_winner"}
        plan = self.plan.model_dump(mode="json", exclude=left_out)
        text = json.dumps([plan, self.base.digest, repr(self.space), [vars(v) for v in self.variants]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def settings(self, values: Mapping[str, Any]) -> Flat:
        """What ``values`` set, the variant's settings among them; other settings are the base's."""
        settled = self.settle(values)
        chosen = settled.pop(VARIANT, None)
        fixed = next((variant.settings for variant in self.variants if variant.name == chosen), {})
        return {**fixed, **settled}

    def configure(self, values: Mapping[str, Any], seed: int) -> ExperimentConfig:
        """The configuration of a run with ``values`` under ``seed``; what is not in ``values`` is the base's.

        Raises ConfigError for a parameter that is unknown or not searched here, and for a value out of the space.
        """
        own = self.settings(values)
        named = {"model.gate_start": "given"} if "model.gating_init" in own else {}  # who names it means it
        flat = {**self.base.flat(), **named, **own, "runtime.seed": seed}
        return build(flat, dict.fromkeys(flat, "study"))

    def settle(self, values: Mapping[str, Any]) -> Flat:
        """``values`` in the space's order and free of rounding. Raises ConfigError as ``configure`` does."""
        settled: Flat = {}
        for parameter in self.space:
            if parameter.name not in values:
                continue
            value = values[parameter.name]
            if not parameter.active(settled):
                others = ", ".join(condition.name for condition in parameter.when)
                raise ConfigError(
                    f"{parameter.name} {shown(value)} is not searched here in study {self.name}.",
                    f"It depends on {others}; leave it out.",
                )
            try:
                settled[parameter.name] = parameter.domain.settle(value)
            except ValueError as error:
                raise ConfigError(
                    f"{parameter.name} cannot be {shown(value)} in study {self.name}.", f"Give {error}."
                ) from None
        for name, value in values.items():
            if name not in settled:
                searched = ", ".join(parameter.name for parameter in self.space)
                raise ConfigError(f"Study {self.name} does not search {name!r} ({shown(value)}).", f"Give {searched}.")
        return settled

    def default_values(self) -> Flat:
        """The point of the space that ``base`` is, for trial 0.

        Where it is none, the nearest: the first variant where no variant is the base, and for a conditional setting
        whose default lies out of the space the first choice or the end of the range.
        """
        flat = self.base.flat()
        values: Flat = {}
        for parameter in self.space:
            if parameter.name == VARIANT:
                values[VARIANT] = fitting_variant(self.variants, flat).name
            elif parameter.active(values):
                values[parameter.name] = parameter.domain.nearest(flat[parameter.name])
        return values

    def grid(self) -> list[Flat]:
        """Every point of a discrete space once, in order; parameters that are not active there are left out.

        Raises ConfigError where a parameter has no countable values.
        """
        self.require_discrete()
        return list(points(self.space, lambda parameter: parameter.domain.values))

    def require_discrete(self) -> None:
        """Raises ConfigError where the space has no grid."""
        for parameter in self.space:
            if not parameter.domain.discrete:
                raise ConfigError(
                    f"{parameter.name} is a continuous range, of which there is no grid.",
                    'Give it choices or a step, or take sampler = "tpe" or "random".',
                )

    def trial_seed(self, values: Mapping[str, Any]) -> int:
        """The seed of a trial: a function of the study's seed and of ``values``, in whatever order they come."""
        from fedmm.utils.seeding import derive  # loads torch

        return derive(self.plan.seed, "trial", json.dumps(self.settle(values), sort_keys=True))

    def run_seeds(self, values: Mapping[str, Any], below: int | None = None) -> tuple[int, ...]:
        """The seeds of the runs whose mean scores a configuration: from the plan's first on, or else the trial's seed
        and more derived from it, smaller than ``below`` where that is given."""
        from fedmm.utils.seeding import derive

        if self.plan.first_seed is not None:
            self.settle(values)
            return tuple(range(self.plan.first_seed, self.plan.first_seed + self.plan.seeds))
        first = self.trial_seed(values)
        seeds = (first, *(derive(first, "run", index) for index in range(1, self.plan.seeds)))
        return seeds if below is None else small_seeds(seeds, below)

    def largest_warmup(self) -> int:
        """The longest partial aggregation of any trial: a pruner may not judge before it is over."""
        return self._largest(WARMUP)

    def largest_rounds(self) -> int:
        """The most rounds that any trial trains."""
        return self._largest(ROUNDS)

    def _largest(self, key: str) -> int:
        parameter = next((parameter for parameter in self.space if parameter.name == key), None)
        searched = [max(parameter.domain.ends)] if parameter else []
        if parameter and not parameter.when:
            return int(searched[0])
        base = self.base.flat()[key]
        return int(max(searched + [v.settings.get(key, base) for v in self.variants or (Variant("", {}),)]))


def small_seeds(seeds: Iterable[int], below: int) -> tuple[int, ...]:
    """As many seeds that are easy to read and type: the remainders, the next free number where two are alike.

    >>> small_seeds((7_000_012, 12, 5), below=1_000_000)
    (12, 13, 5)
    """
    found: list[int] = []
    for seed in seeds:
        small = seed % below
        while small in found:
            small = (small + 1) % below
        found.append(small)
    return tuple(found)


def fitting_variant(variants: tuple[Variant, ...], flat: Mapping[str, Any]) -> Variant:
    """The variant that ``flat`` is already, the most telling one first; else the first."""
    fits = [v for v in variants if all(flat[key] == value for key, value in v.settings.items())]
    return max(fits, key=lambda variant: len(variant.settings)) if fits else variants[0]


def variant_parameter(variants: tuple[Variant, ...]) -> Parameter:
    """The choice among ``variants`` as a parameter."""
    return Parameter(VARIANT, Choices(tuple(variant.name for variant in variants)))
