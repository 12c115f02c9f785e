"""A run's folder: its settings, checkpoints and result, and how a stopped run is found again."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from fedmm.config import DataConfig, ExperimentConfig, with_old_defaults
from fedmm.errors import CheckpointError, ConfigError, StorageError
from fedmm.experiment import Experiment, TrainState
from fedmm.federation import scaffold
from fedmm.federation.buffered import AtWork
from fedmm.federation.client_states import CLIENTS, ClientStates
from fedmm.federation.ledger import Ledger
from fedmm.federation.rounds import ServerState
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.federation.versions import Versions
from fedmm.runs.checkpoint import (
    BEST,
    FOLDER,
    ensure_writable,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    round_name,
    save_checkpoint,
)
from fedmm.runs.continuing import require_same_settings
from fedmm.runs.data_files import STARTED_IN, find_data, starting_folder
from fedmm.runs.own_parts import part_origins, require_parts, write_origins
from fedmm.runs.same_noise import noise_of, require_same_noise
from fedmm.runs.state import CRASH_FILE, LOCK_FILE, crash_of, is_locked
from fedmm.tracking.mlflow_store import redacted
from fedmm.utils import locks
from fedmm.utils.files import METRICS_FILE, storage_error, write_atomically
from fedmm.utils.params import Params
from fedmm.utils.trees import flatten, plain

RUNS = Path("runs")
CONFIG_FILE = "config.toml"
RESULT_FILE = "result.json"
COUNTS_FILE = "user_counts.npz"
VALIDATION_COUNTS_FILE = "validation_counts.npz"
COUNTS_FILES = {"validation": VALIDATION_COUNTS_FILE, "test": COUNTS_FILE}  # the model, user by user
REFERENCE_FILES = {"validation": "validation_beside_counts.npz", "test": "beside_counts.npz"}  # baselines and parts
CURVE_FILE = "learning_curve.png"
GROUPS_FILE = "groups.png"


@dataclass(frozen=True)
class Progress:
    """What is kept beside the state: which MLflow run it reports to and the seconds it has trained."""

    run_id: str | None = None
    train_seconds: float = 0.0


def require_free(output: Path | None) -> None:
    """Raises ConfigError where a new run cannot have ``output``: it is a file, or already holds a run."""
    if output is None:
        return
    if output.is_file():
        raise ConfigError(f"runtime.output {output} is a file.", "Give a folder.")
    if (output / CONFIG_FILE).exists() or (output / FOLDER).exists():
        raise ConfigError(f"{output} already holds a run.", "Continue it with --resume, or give another --output.")


def new_folder(config: ExperimentConfig, dataset: str) -> Path:
    """The run's folder, created and proved writable: ``runtime.output``, or a fresh one under ``runs/``.

    Raises ConfigError where the folder already holds a run, StorageError where it cannot be written.
    """
    output = config.runtime.output
    require_free(output)
    stem = f"{dataset}-{config.model.fusion}-seed{config.runtime.seed}-{config.digest[:6]}"
    kept = output is not None and output.exists()
    folder = _fresh(stem) if output is None else output
    try:
        ensure_writable(folder)
    except StorageError:
        discard(folder, keep_folder=kept)
        raise
    return folder


def _fresh(stem: str) -> Path:
    """A folder of its own under ``runs/``, created: two runs that start at once cannot both get the same one."""
    for number in itertools.count(1):
        folder = RUNS / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if RUNS.is_dir():
                continue
            raise ConfigError(f"{RUNS} is a file.", "Move it away, or give --output.") from None
        except OSError as error:
            raise storage_error(folder, error) from error
        return folder
    raise AssertionError("unreachable")


def discard(folder: Path, *, keep_folder: bool) -> None:
    """Removes what a run leaves that failed before its first checkpoint; anything else in the folder stays, and so does
    a folder that was there before."""
    if (folder / FOLDER).exists():
        return
    for name in (CONFIG_FILE, METRICS_FILE, CRASH_FILE):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    for empty in () if keep_folder else (folder, RUNS):
        with contextlib.suppress(OSError):
            empty.rmdir()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Held while a run trains: two processes in one folder would overwrite each other. The lock goes with the process.

    Raises ConfigError where another process holds it.
    """
    path = folder / LOCK_FILE
    lock = None
    try:
        lock = locks.take(path)
    except TimeoutError:
        raise ConfigError(f"{folder} is being trained by another process.", "Wait for it, or stop it.") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process is training the run in ``folder``."""
    return is_locked(folder / LOCK_FILE)


def find_resumable(output: Path | None) -> Path | None:
    """The run folder to continue: ``output`` where given, else the run under ``runs/`` that was stopped or crashed
    last. One that an error ended in its first round is passed over: nothing of it is lost, and it would end so again.
    """
    if output is not None:
        return output if (output / CONFIG_FILE).exists() else None
    return max(filter(_has_more, unfinished_runs(RUNS)), key=_last_touched, default=None)


def unfinished_runs(folder: Path) -> list[Path]:
    """The runs directly in ``folder`` that were stopped or crashed, by name."""
    begun = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    return [run for run in begun if not is_finished(run) and not is_held(run)]


def _has_more(folder: Path) -> bool:
    trained = any(path.name != round_name(0) for path in (folder / FOLDER).glob("round-*"))
    return trained or crash_of(folder) is None


def save_state(folder: Path, experiment: Experiment, state: TrainState, progress: Progress) -> Path:
    """Writes the round's checkpoint and, where it is the best so far, ``best``; keeps the last two and the best."""
    meta = checkpoint_meta(experiment, state, progress) | {STARTED_IN: starting_folder(folder)}
    write_origins(folder, experiment.config.flat())
    tensors = {f"params/{name}": value for name, value in state.server.params.items()}
    tensors |= {f"optimizer/{name}": value for name, value in state.server.optimizer.items()}
    tensors |= {f"average/{name}": value for name, value in state.server.average.items()}
    tensors |= scaffold.named(state.server.control)
    if state.server.clip is not None:
        tensors["clip"] = torch.tensor(state.server.clip, dtype=torch.float64)
    if state.server.versions is not None:
        tensors |= {f"versions/{name}": value for name, value in state.server.versions.tensors().items()}
    if state.server.at_work is not None:
        tensors |= {f"at_work/{name}": value for name, value in state.server.at_work.tensors().items()}
    tensors |= {f"clients/{name}": value for name, value in state.clients.to_tensors().items()}
    best = None if state.best is None else state.best.snapshot
    if best is not None and best.round != state.server.round:
        tensors |= _snapshot_tensors(best, "best", "best_clients")
    folder = folder / FOLDER
    if best is not None and _round_of(folder / BEST) != best.round:
        save_checkpoint(folder, BEST, _snapshot_tensors(best, "params", "clients"), meta | {"round": best.round})
    path = save_checkpoint(folder, round_name(state.server.round), tensors, meta)
    prune_checkpoints(folder)
    return path


def _snapshot_tensors(snapshot: Snapshot, params: str, clients: str) -> Params:
    """The tensors of a checkpoint that hold a model, under the two prefixes."""
    kept = {f"{clients}/{name}": value for name, value in snapshot.clients.to_tensors().items()}
    return {f"{params}/{name}": value for name, value in snapshot.params.items()} | kept


def load_state(folder: Path, experiment: Experiment, warn: Callable[[str], None]) -> tuple[TrainState, Progress] | None:
    """The newest whole state of a stopped run; None where it was stopped before its first checkpoint.

    Raises CheckpointError where every checkpoint is damaged, or the newest belongs to other data or another model.
    """
    path = newest_checkpoint(folder / FOLDER, warn)
    if path is None:
        if any((folder / FOLDER).glob("round-*")):
            remedy = "Evaluate what is left with fedmm evaluate, or train again in another folder."
            raise CheckpointError(f"{folder} holds no whole checkpoint of a round.", remedy)
        return None
    tensors, meta = load_checkpoint(path)
    require_complete(meta, path)
    require_same_settings(stored_settings(meta, path), experiment.config, folder, int(meta["round"]))
    params = restore(_part(tensors, "params"), meta, experiment, path)
    clients = restore_clients(tensors, "clients", experiment, path)
    place = experiment.device
    server = ServerState(
        params,
        {name: value.to(place) for name, value in _part(tensors, "optimizer").items()},
        int(meta["round"]),
        {name: value.to(place) for name, value in scaffold.unnamed(tensors).items()},
        _restored_average(tensors, meta, experiment, path),
        Versions.restored(_part(tensors, "versions"), place),
        float(tensors["clip"]) if "clip" in tensors else None,
        AtWork.restored(_part(tensors, "at_work"), place),
    )
    state = TrainState(server, Ledger(**meta["ledger"]), clients, stale=int(meta["stale"]))
    state = replace(state, best=_restored_best(tensors, meta, state, experiment, path))
    return state, Progress(meta["progress"].get("run_id"), float(meta["progress"].get("train_seconds", 0.0)))


def data_of_stopped(folder: Path, data: DataConfig) -> DataConfig:
    """The settings with paths at which the data files of the stopped run in ``folder`` are now, wherever it goes on;
    as they are where it has no checkpoint that says so. Raises DataError where a file is not found."""
    path = newest_checkpoint(folder / FOLDER, lambda _: None)
    return data if path is None else find_data(data, load_checkpoint(path)[1], folder)


def _restored_best(
    tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any], state: TrainState, experiment: Experiment, path: Path
) -> Best | None:
    """The best round so far, of which a checkpoint holds no copy where it is that round's own; None before the first
    validation."""
    number, params = int(meta["best_round"]), _part(tensors, "best")
    if not number:
        return None
    clients = restore_clients(tensors, "best_clients", experiment, path)
    if number == state.server.round:
        clients, params = state.clients.personal(), params or dict(state.server.evaluated)
    placed = {name: value.to(experiment.device) for name, value in params.items()}
    return Best(Snapshot(placed, number, clients), float(meta["best_value"])) if placed else None


def _restored_average(
    tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any], experiment: Experiment, path: Path
) -> Params:
    """The moving average as the checkpoint's round left it; nothing before the first round, or where none is kept.

    Raises CheckpointError where it is not there.
    """
    decay, average = experiment.config.federation.ema_decay, _part(tensors, "average")
    if not meta["round"] or not decay:
        return {}
    if not average:
        lacking = f"{path} lacks the moving average that federation.ema_decay {decay} keeps."
        raise CheckpointError(lacking, "Train again: a run that began without an average cannot go on with one.")
    return restore(average, meta, experiment, path)


def evaluated_params(tensors: Mapping[str, torch.Tensor]) -> Params:
    """Of a checkpoint's tensors the parameters its round offers: the average where there is one, else the newest. The
    checkpoint ``best`` holds them alone."""
    return _part(tensors, "average") or _part(tensors, "params")


META_KEYS = ("config", "dataset", "round", "best_round", "best_value", "stale", "ledger", "progress")


def require_complete(meta: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError where a checkpoint does not say all that ``checkpoint_meta`` does."""
    missing = [key for key in META_KEYS if key not in meta]
    if missing:
        raise CheckpointError(f"{path} says nothing of its {missing[0]}.", "Give another checkpoint, or train again.")


def stored_settings(meta: Mapping[str, Any], path: Path) -> ExperimentConfig:
    """The settings a checkpoint was trained with. Raises CheckpointError where this fedmm cannot read them, ConfigError
    where they name a part that nobody registers."""
    if isinstance(meta["config"], Mapping):
        require_parts(flatten(meta["config"]), "The run", meta.get("own_parts"))
    try:
        return ExperimentConfig.model_validate(with_old_defaults(meta["config"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CheckpointError(f"{path} has settings that this fedmm cannot read ({what}).", "Train it again.") from None


def restore(params: Mapping[str, torch.Tensor], meta: Mapping[str, Any], experiment: Experiment, path: Path) -> Params:
    """A checkpoint's parameters on the experiment's device.

    Raises CheckpointError where they were trained on other data or have other names or shapes than the model's.
    """
    require_complete(meta, path)
    digest = experiment.dataset.digest
    if meta["dataset"]["digest"] != digest:
        raise CheckpointError(
            f"{path} was trained on {meta['dataset']['name']} with digest {meta['dataset']['digest']}, "
            f"the data here has {digest}.",
            "Use the same data file and data settings; --data FILE says where the file is now.",
        )
    require_same_noise(meta, experiment.federation.plan, path)
    return restore_params(params, experiment, path)


def restore_params(params: Mapping[str, torch.Tensor], experiment: Experiment, path: Path) -> Params:
    """Parameters on the experiment's device. Raises CheckpointError where they have other names or shapes than the
    model's."""
    expected = experiment.initial_shapes()
    found = {name: tuple(value.shape) for name, value in params.items()}
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))[0]
        raise CheckpointError(
            f"{path} belongs to another model: {wrong[0]} has shape {found.get(wrong[0])} there, "
            f"{expected.get(wrong[0])} here.",
            "Use the model settings it was trained with.",
        )
    return {name: value.to(device=experiment.device, dtype=experiment.dtype) for name, value in params.items()}


def restore_clients(
    tensors: Mapping[str, torch.Tensor], prefix: str, experiment: Experiment, path: Path
) -> ClientStates:
    """What clients keep, from a checkpoint's ``prefix/...``, on the experiment's device.

    Raises CheckpointError where the states do not fit the data or the model.
    """
    found = _part(tensors, prefix)
    if not found:
        return ClientStates()
    owners = found.pop(CLIENTS, torch.empty(0, dtype=torch.int64))
    known = ((owners >= 0) & (owners < len(experiment.split.train))).all()
    shapes = {name: (len(owners), *shape) for name, shape in experiment.state_shapes().items()}
    if not known or any(shapes.get(name) != tuple(value.shape) for name, value in found.items()):
        raise CheckpointError(f"{path} holds states of other clients or of another model.", "Train it again.")
    states = {name: value.to(device=experiment.device, dtype=experiment.dtype) for name, value in found.items()}
    return ClientStates.from_tensors({CLIENTS: owners, **states})


def checkpoint_meta(experiment: Experiment, state: TrainState, progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of itself: settings, data, round, bytes and what ``Progress`` keeps. Checkpoints travel:
    the credentials of a tracking server stay behind."""
    config = experiment.config.model_dump(mode="json")
    if config["tracking"]["uri"] is not None:
        config["tracking"]["uri"] = redacted(config["tracking"]["uri"])
    return {
        "config": config,
        "config_digest": experiment.config.digest,
        "own_parts": part_origins(experiment.config.flat()),
        "dataset": {"name": experiment.dataset.name, "digest": experiment.dataset.digest},
        "round": state.server.round,
        "best_round": 0 if state.best is None else state.best.snapshot.round,
        "best_value": 0.0 if state.best is None else state.best.value,
        "stale": state.stale,
        "ledger": {"uplink_bytes": state.ledger.uplink_bytes, "downlink_bytes": state.ledger.downlink_bytes},
        "progress": vars(progress),
        **noise_of(experiment.federation.plan),
    }


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has a result."""
    return (folder / RESULT_FILE).exists()


def write_result(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes the run's result; from then on it counts as finished."""
    path = folder / RESULT_FILE
    write_atomically(path, (json.dumps(plain(result), indent=1) + "\n").encode())
    return path


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Params:
    return {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{prefix}/")}


def _round_of(path: Path) -> int | None:
    try:
        found = load_checkpoint(path)[1].get("round")
    except CheckpointError:
        return None
    return found if isinstance(found, int) else None


def _last_touched(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.name != LOCK_FILE), default=0.0)
