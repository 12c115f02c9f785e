"""``fedmm evaluate``: a checkpoint's numbers again, or under another protocol or on the other split of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmm import __version__
from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.cold import cold_items_result
from fedmm.runs.facts import dataset_facts
from fedmm.runs.folder import evaluated_params, require_complete, restore, restore_clients, stored_settings
from fedmm.runs.observer import Observer
from fedmm.runs.references import groups_result, measure_beside, measured, paired_result
from fedmm.runs.result import EvaluateResult, Group, PairedTests, Splits, rows_by_name
from fedmm.runs.running import set_threads
from fedmm.utils.records import Named


def run_evaluation(
    checkpoint: Path,
    observer: Observer,
    *,
    split: str = "test",
    protocols: tuple[str, ...] | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> EvaluateResult:
    """Evaluates a checkpoint (or a run folder's best) on "validation" or "test"; ``protocols`` None takes the run's.

    Raises CheckpointError where the checkpoint cannot be read or does not fit the data.
    """
    tensors, meta = load_checkpoint(checkpoint)
    require_complete(meta, checkpoint)
    config = _settings(meta, checkpoint, protocols, device, threads)
    set_threads(config.runtime.threads)
    experiment = Experiment.prepare(config, observer.stage)
    params = restore(evaluated_params(tensors), meta, experiment, checkpoint)
    observer.stage(f"evaluating on {split}")
    snapshot = Snapshot(params, int(meta["round"]), restore_clients(tensors, "clients", experiment, checkpoint))
    model = experiment.evaluate(snapshot, split)
    beside = measure_beside(experiment, snapshot, split, model)
    return EvaluateResult(
        version=__version__,
        status="finished",
        checkpoint=str(checkpoint),
        split=split,
        seed=config.runtime.seed,
        round=snapshot.round,
        dataset=dataset_facts(experiment),
        config_digest=config.digest,
        metrics=Splits({split: model.protocols()}),
        baselines=rows_by_name({split: measured(beside.baselines)}),
        parts=rows_by_name({split: measured(beside.parts)}),
        paired=Named[Named[PairedTests]]({split: paired_result(beside.paired)}),
        groups=Named[Named[tuple[Group, ...]]]({split: groups_result(experiment, model, beside, split)}),
        cold_items=cold_items_result(experiment, snapshot) if split == "test" else None,
    )


def _settings(
    meta: dict[str, Any], path: Path, protocols: tuple[str, ...] | None, device: str | None, threads: int | None
) -> ExperimentConfig:
    """The run's own settings with what was asked for in their place."""
    tree = stored_settings(meta, path).model_dump()
    if protocols is not None:
        selection = f"{protocols[0]}/{tree['evaluation']['selection_metric'].partition('/')[2]}"
        tree["evaluation"] |= {"protocols": protocols, "selection_metric": selection}
    runtime = {"device": device, "threads": threads}
    tree["runtime"] |= {key: value for key, value in runtime.items() if value is not None}
    return ExperimentConfig.model_validate(tree)
