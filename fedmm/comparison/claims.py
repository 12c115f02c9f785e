"""Claims held against measurements: what somebody expects of a metric, and whether it held."""

from __future__ import annotations

import importlib.resources
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmm.comparison.types import Comparison, Group
from fedmm.errors import ConfigError
from fedmm.study.values import known
from fedmm.utils.trees import flatten

ClaimVerdict = Literal["held", "did not hold", "cannot be told apart", "not measured"]
SHIPPED = {"old-document": "claims_old_document.toml"}
FIELDS = "claim, metric, group, measure, baseline, expected"


class Claim(BaseModel):
    """One claim. ``group`` and ``baseline`` name settings that single out a group of runs; a baseline may also be a
    number, somebody's published one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: str = Field(min_length=1)
    metric: str = Field(pattern=r"^[a-z0-9]+/[a-z]+_at_\d+$")
    group: dict[str, Any]
    measure: Literal["value", "difference", "gain"] = "value"  # gain: the difference as a share of the baseline
    baseline: dict[str, Any] | float | None = None
    expected: Annotated[list[float], Field(min_length=2, max_length=2)]


@dataclass(frozen=True)
class Judged:
    """A claim and the number that was measured for it."""

    claim: Claim
    measured: float | None
    ci95: tuple[float, float] | None
    verdict: ClaimVerdict
    reason: str = ""  # why it was not measured

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            **self.claim.model_dump(mode="json"),
            "measured": self.measured,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "verdict": self.verdict,
            "reason": self.reason,
        }


def load_claims(name_or_path: str) -> list[Claim]:
    """The claims in a file, or those that ship with fedmm under a name. Raises ConfigError with what to mend."""
    if name_or_path in SHIPPED:
        text = importlib.resources.files("fedmm.comparison").joinpath(SHIPPED[name_or_path]).read_text("utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--expect {name_or_path} cannot be read ({error}).", f"Give a file, or one of {', '.join(SHIPPED)}."
            ) from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not TOML: {error}.", "Write one [[claims]] for each claim.") from None
    entries = tree.get("claims")
    if not isinstance(entries, list) or not entries or len(tree) > 1:
        raise ConfigError(f"{name_or_path} holds no claims.", "Write one [[claims]] for each claim, and nothing else.")
    return [_claim(entry, place, name_or_path) for place, entry in enumerate(entries, 1)]


def judge(claims: Sequence[Claim], comparison: Comparison) -> list[Judged]:
    """Each claim against the comparison: it held where the measured value lies in the expected range, did not where the
    95% interval lies wholly outside, and cannot be told apart otherwise."""
    return [_judge(claim, comparison) for claim in claims]


def _claim(entry: Any, place: int, source: str) -> Claim:
    try:
        claim = Claim.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"Claim {place} of {source}: {where}: {first['msg']}.", f"A claim has {FIELDS}.") from None
    for settings in (claim.group, claim.baseline if isinstance(claim.baseline, dict) else {}):
        for key in flatten(settings):
            known(key, f"claim {place} of {source}")
    low, high = claim.expected
    if not low <= high:
        raise ConfigError(f"Claim {place} of {source} expects {low:g} to {high:g}.", "Give the lower number first.")
    if (claim.measure == "value") != (claim.baseline is None):
        need = "has a baseline" if claim.measure == "value" else "has no baseline"
        raise ConfigError(
            f"Claim {place} of {source} measures {claim.measure!r} and {need}.",
            "value stands alone; difference and gain need a baseline.",
        )
    return claim


def _judge(claim: Claim, comparison: Comparison) -> Judged:
    group = _group(claim.group, comparison)
    if isinstance(group, str):
        return Judged(claim, None, None, "not measured", group)
    if claim.metric not in group.means:
        return Judged(claim, None, None, "not measured", f"{claim.metric} was not compared: --metric {claim.metric}")
    measured, ci95 = group.means[claim.metric], group.ci95[claim.metric]
    if claim.baseline is not None:
        found = _against(claim, group, comparison)
        if isinstance(found, str):
            return Judged(claim, None, None, "not measured", found)
        measured, ci95 = found
    return Judged(claim, measured, ci95, _verdict(measured, ci95, claim.expected))


def _verdict(measured: float, ci95: tuple[float, float], expected: Sequence[float]) -> ClaimVerdict:
    low, high = expected
    if low <= measured <= high:
        return "held"
    return "did not hold" if ci95[1] < low or ci95[0] > high else "cannot be told apart"


def _against(claim: Claim, group: Group, comparison: Comparison) -> tuple[float, tuple[float, float]] | str:
    """The difference to the baseline with its interval, as a share of the baseline where the claim is about a gain."""
    mean, (low, high) = group.means[claim.metric], group.ci95[claim.metric]
    if isinstance(claim.baseline, float):
        base, difference, bounds = claim.baseline, mean - claim.baseline, (low - claim.baseline, high - claim.baseline)
    else:
        other = _group(claim.baseline or {}, comparison)
        if isinstance(other, str):
            return other
        base = other.means[claim.metric]
        pair = next(
            (p for p in comparison.pairs if p.metric == claim.metric and {p.a, p.b} == _labels(group, other)), None
        )
        if pair is None:
            return "the two groups were not tested against each other"
        sign = 1.0 if pair.a == group.label else -1.0
        difference = sign * pair.difference
        ends = sorted(sign * end for end in pair.ci95)
        bounds = (ends[0], ends[1])
    if claim.measure == "difference":
        return difference, bounds
    return (difference / base, (bounds[0] / base, bounds[1] / base)) if base else "the baseline is 0"


def _labels(group: Group, other: Group) -> set[str]:
    return {group.label, other.label}


def _group(settings: Mapping[str, Any], comparison: Comparison) -> Group | str:
    """The one group all of whose runs have ``settings``, or why there is none."""
    wanted = flatten(settings)
    fits = [group for group in comparison.groups if all(_has(run.settings, wanted) for run in group.runs)]
    if len(fits) == 1:
        return fits[0]
    shown = ", ".join(f"{key}={value}" for key, value in wanted.items())
    return f"{'no group has' if not fits else 'several groups have'} {shown}"


def _has(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_equal(settings.get(key), value) for key, value in wanted.items())


def _equal(own: Any, wanted: Any) -> bool:
    if isinstance(own, float) or isinstance(wanted, float):
        numbers = isinstance(own, (int, float)) and isinstance(wanted, (int, float))
        return numbers and math.isclose(own, wanted, rel_tol=1e-9)
    return bool(own == wanted)
