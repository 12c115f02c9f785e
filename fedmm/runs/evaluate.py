"""``fedmm evaluate``: a checkpoint's numbers again, or under another protocol or on the other split of its data."""

from __future__ import annotations

from pathlib import Path

from fedmm import __version__
from fedmm.config import ExperimentConfig
from fedmm.runs.cold import cold_items_result
from fedmm.runs.facts import dataset_facts
from fedmm.runs.led import require_users
from fedmm.runs.model import TrainedModel, with_runtime
from fedmm.runs.observer import Observer
from fedmm.runs.references import clients_result, groups_result, measure_references, measured, paired_result
from fedmm.runs.result import ClientSpread, EvaluateResult, Group, PairedTests, Splits, rows_by_name
from fedmm.utils.parallel import set_threads
from fedmm.utils.records import Named


def run_evaluation(
    checkpoint: Path,
    observer: Observer,
    *,
    split: str = "test",
    protocols: tuple[str, ...] | None = None,
    device: str | None = None,
    threads: int | None = None,
    data: Path | None = None,
) -> EvaluateResult:
    """Evaluates a checkpoint (or a run folder's best) on "validation" or "test"; ``protocols`` None takes the run's.
    ``data`` says where the run's file of interactions is now, if it has moved.

    Raises CheckpointError where the checkpoint cannot be read or does not fit the data.
    """

    def settle(config: ExperimentConfig) -> ExperimentConfig:
        own = with_runtime(protocols, device, threads)(config)
        set_threads(own.runtime.threads)
        return own

    trained = TrainedModel.load(checkpoint, change=settle, tell=observer.stage, data=data)
    experiment, snapshot, config = trained.experiment, trained.snapshot, trained.config
    require_users(experiment, checkpoint)
    observer.stage(f"evaluating on {split}")
    model = experiment.evaluate(snapshot, split)
    beside = measure_references(experiment, snapshot, split, model)
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
        clients=Named[ClientSpread]({split: clients_result(experiment, model, beside)}),
        cold_items=cold_items_result(experiment, snapshot) if split == "test" else None,
    )
