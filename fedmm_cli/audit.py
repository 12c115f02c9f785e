"""``fedmm audit``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmm_cli.options import Debug, Json, Quiet

if TYPE_CHECKING:
    from fedmm.audit.result import AuditResult

ATTACKS = ("canaries", "rows", "membership", "inversion", "poisoning")
FROZEN = "the item table is frozen: no row of an update tells an item"


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    attacks: Annotated[
        str, typer.Option("--attacks", metavar="WORDS", help=f"Which, by commas: {', '.join(ATTACKS)}.")
    ] = ",".join(ATTACKS),
    canaries: Annotated[
        int, typer.Option("--canaries", metavar="INT", help="Canaries that take part; more give a sharper bound.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", metavar="INT", help="Seed of the attacks' draws.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Attack a run: what releases, updates and asked rows tell of a client, and how far wrong clients bend it."""
    del debug
    chosen = _chosen(attacks, canaries)
    from fedmm.audit.result import audit as measure
    from fedmm.runs.trained import TrainedModel
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import QuietObserver, StageObserver

    observer = QuietObserver(sys.stderr) if quiet else StageObserver(sys.stderr)
    model = TrainedModel.load(run, tell=observer.stage)
    _require_federated(model.experiment.centralized)
    experiment = model.experiment
    rounds = experiment.last_round
    found = measure(experiment, model.snapshot, rounds, chosen, number=canaries, seed=seed, tell=observer.stage)
    if as_json:
        print_json(found.to_json())
    else:
        sys.stdout.write("\n".join(lines(found, chosen)) + "\n")


def _chosen(attacks: str, canaries: int) -> tuple[str, ...]:
    from fedmm.errors import ConfigError

    chosen = tuple(word.strip() for word in attacks.split(","))
    unknown = next((word for word in chosen if word not in ATTACKS), None)
    if unknown is not None:
        raise ConfigError(f"--attacks knows no {unknown!r}.", f"Take some of {', '.join(ATTACKS)}, by commas.")
    if canaries < 20:
        raise ConfigError(f"--canaries {canaries} are too few to bound anything.", "Take 20 or more.")
    return chosen


def _require_federated(centralized: bool) -> None:
    from fedmm.errors import ConfigError

    if centralized:
        raise ConfigError("A centralized run has no clients that could be attacked.", "Audit a federated run.")


def lines(found: AuditResult, chosen: tuple[str, ...]) -> list[str]:
    """The result in words."""
    from fedmm.utils.text import counted

    told = []
    if found.canaries is not None:
        own = found.canaries
        says = (
            "no noise, no bound"
            if own.epsilon_accounted is None
            else f"the accountant says {own.epsilon_accounted:.3g}: {'holds' if own.holds else 'DOES NOT HOLD'}"
        )
        told.append(
            f"canaries   epsilon of {own.rounds} rounds is at least {own.epsilon_lower:.3g} (95%, delta "
            f"{own.delta:.1e}; {own.canaries:,} canaries, half of them out, AUC {own.auc:.3f}); {says}"
        )
    if "rows" in chosen:
        leak = found.rows
        told.append(
            "rows       all rows travel, or none: which a client holds does not show"
            if leak is None
            else f"rows       of those asked for at one visit {leak.share_in_one_visit:.1%} are a client's own items; "
            f"of those asked for at all of {leak.visits:.1f} visits {leak.precision:.1%} (chance {leak.chance:.1%}; "
            f"{leak.clients} clients)"
        )
    told += _of_updates(found, chosen)
    if "poisoning" in chosen and found.poisoning is None:
        told.append("poisoning  the item table is frozen: no client can move an item")
    if found.poisoning is not None:
        attack = found.poisoning
        told.append(
            f"poisoning  {counted(attack.attackers, 'wrong client')} for {attack.rounds} rounds, to push item "
            f"{attack.item}; in the "
            f"first ten of {attack.exposure_before:.1%} of the users before"
        )
        told += [
            f"  {own.rule:<12} after {own.exposure:6.1%} (without them {own.honest_exposure:.1%}), validation NDCG@10 "
            f"{own.ndcg_at_10:.4f} (without them {own.honest_ndcg_at_10:.4f})"
            for own in attack.outcomes
        ]
    return told


def _of_updates(found: AuditResult, chosen: tuple[str, ...]) -> list[str]:
    """What one round's updates tell."""
    told = []
    if "membership" in chosen:
        seen = found.membership
        told.append(
            f"membership {FROZEN}"
            if seen is None
            else f"membership a client's own item has a larger row than another: in its update {seen.auc['bare']:.1%}, "
            f"in the sum of {seen.cohort_size} {seen.auc['summed']:.1%}, in a clipped sum with noise "
            f"{seen.noise_multiplier:.3g} {seen.auc['noisy']:.1%}; by popularity alone {seen.popularity_auc:.1%} "
            f"({seen.clients} clients)"
        )
    if "inversion" in chosen:
        own = found.inversion
        told.append(
            f"inversion  {FROZEN}"
            if own is None
            else "inversion  of the items guessed are a client's own, and of its own are guessed: by its update "
            f"{own.precision['bare']:.1%}, {own.recall['bare']:.1%}; by the sum {own.precision['summed']:.1%}, "
            f"{own.recall['summed']:.1%}; with noise {own.precision['noisy']:.1%}, {own.recall['noisy']:.1%} (chance "
            f"{own.chance:.1%})"
        )
    return told
