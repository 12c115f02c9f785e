"""``fedmm evaluate``: a checkpoint's numbers again, or under another protocol or on the other split of the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmm import __version__
from fedmm.checkpoint import load_checkpoint
from fedmm.config import ExperimentConfig
from fedmm.errors import CheckpointError
from fedmm.experiment import Experiment
from fedmm.run_folder import restore
from fedmm.runs import Observer, dataset_facts, set_threads


def run_evaluation(
    checkpoint: Path,
    observer: Observer,
    *,
    split: str = "test",
    protocols: tuple[str, ...] | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint (or a run folder's best) on "validation" or "test"; ``protocols`` None takes the run's.

    Raises CheckpointError where the checkpoint cannot be read or does not fit the data.
    """
    tensors, meta = load_checkpoint(checkpoint)
    config = _settings(meta, checkpoint, protocols, device, threads)
    set_threads(config.runtime.threads)
    experiment = Experiment.prepare(config, observer.stage)
    params = {name.removeprefix("params/"): value for name, value in tensors.items() if name.startswith("params/")}
    params = restore(params, meta, experiment, checkpoint)
    observer.stage(f"evaluating on {split}")
    model = experiment.evaluate(params, int(meta["round"]), split)
    baselines = {name: experiment.evaluate_scorer(scorer, split) for name, scorer in experiment.baselines().items()}
    return {
        "version": __version__,
        "status": "finished",
        "checkpoint": str(checkpoint),
        "split": split,
        "seed": config.runtime.seed,
        "round": int(meta["round"]),
        "dataset": dataset_facts(experiment),
        "config_digest": config.digest,
        "metrics": {split: model.to_json()},
        "baselines": {name: {split: outcome.to_json()} for name, outcome in baselines.items()},
    }


def _settings(
    meta: dict[str, Any], path: Path, protocols: tuple[str, ...] | None, device: str | None, threads: int | None
) -> ExperimentConfig:
    """The run's own settings with what was asked for in their place."""
    try:
        tree = dict(meta["config"])
        if protocols is not None:
            tree["evaluation"] = tree["evaluation"] | {
                "protocols": protocols,
                "selection_metric": f"{protocols[0]}/ndcg_at_{tree['evaluation']['cutoffs'][0]}",
            }
        runtime = {"device": device, "threads": threads}
        tree["runtime"] = tree["runtime"] | {key: value for key, value in runtime.items() if value is not None}
        return ExperimentConfig.model_validate(tree)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has settings that this fedmm cannot read ({error}).", "Train it again.") from error
