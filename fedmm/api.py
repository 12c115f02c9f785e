"""The Python door: load data and settings, train, read runs back, evaluate, compare, search and verify.

Every function is here to be called as ``fedmm.train`` and so on; what it needs loads when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedmm.config.part_files import stop_if_only_read
from fedmm.errors import ConfigError
from fedmm.utils.lists import require_list

if TYPE_CHECKING:
    from fedmm.comparison.types import Comparison
    from fedmm.config import ExperimentConfig
    from fedmm.data.types import Dataset
    from fedmm.report.sweep_result import SweepResult
    from fedmm.runs.model import Run
    from fedmm.runs.observer import Observer
    from fedmm.runs.result import EvaluateResult
    from fedmm.runs.watching import Callback
    from fedmm.study import Study
    from fedmm.tuning.sweep import SweepObserver
    from fedmm.verification.result import VerifyResult

SPLIT_SETTINGS = (  # asked of data, not part of it
    "split", "temporal_fraction", "validation_from", "test_from", "cold_item_fraction", "cold_item_seed",
)  # fmt: skip
OWN_TO_TRIALS = ("runtime.seed", "runtime.output", "tracking.run_name")
PathLike = str | Path


def load_dataset(
    name: str | None = None,
    *,
    path: PathLike | None = None,
    visual: PathLike | None = None,
    text: PathLike | None = None,
    images: PathLike | None = None,
    texts: PathLike | None = None,
    **settings: Any,
) -> Dataset:
    """Loads a named dataset, or interactions from a file of your own, with their item features.

    ``name`` is one of ``fedmm data list`` (default movielens-small, which ships); ``path`` a file with users, items and
    timestamps in its place. ``visual`` and ``text`` are files of item features [n, F], rows by item id; ``"none"`` goes
    without, unset takes what ships with a named dataset. Or encoders make them, once: ``images`` is a folder of
    pictures named by item id, or a table of id and path, ``texts`` a table of id and text. ``settings`` are others
    of the section ``data``, such as ``min_rating=4.0`` or ``user_column="uid"``. What comes back has ``interactions``
    (histories in time order, items numbered from 1), ``features`` by modality, ``titles`` and ``notes`` of what was
    dropped.

    Raises DataError for a file that cannot be understood or a dataset that has not been fetched, ConfigError for a
    setting that does not exist.

    >>> import fedmm
    >>> data = fedmm.load_dataset("movielens-small")
    >>> data.interactions.num_users, data.interactions.num_items, sorted(data.features)
    (597, 1849, ['semantic', 'visual'])
    """
    from fedmm.data import datasets

    if name is not None and path is None and Path(name).suffix:
        raise ConfigError(f"{name!r} is no name of a dataset.", f"Write fedmm.load_dataset(path={name!r}).")
    if name is not None and path is not None:
        raise ConfigError(f"name {name!r} and path {str(path)!r} are two datasets.", "Give one of them.")
    given = {"name": name, "path": path, "visual_features": visual, "text_features": text}
    given |= {"images": images, "texts": texts}
    given = {key: str(value) for key, value in given.items() if value is not None}
    chosen = load_config(set={f"data.{key}": value for key, value in {**given, **settings}.items()}).data
    return replace(datasets.load_dataset(chosen), settings=chosen)


def load_config(
    files: PathLike | Sequence[PathLike] = (),
    set: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> ExperimentConfig:
    """Reads settings: defaults, then ``files`` (TOML, later ones win), ``environment``, ``set`` and ``settings``.

    ``set`` has dotted keys (``{"model.hidden_dim": 128}``); ``settings`` name a setting by its last word
    (``rounds=10``) or whole with two underscores for the dot (``model__num_heads=4``). None unsets what can be unset.
    Variables such as FEDMM_MODEL__HIDDEN_DIM count where ``environment=os.environ`` is given. The settings that come
    back are frozen: ``config.model.hidden_dim``, ``config.flat()``, ``config.digest``.

    Raises ConfigError with the key, the value, who gave it and what is allowed.

    >>> import fedmm
    >>> config = fedmm.load_config(set={"model.hidden_dim": 128}, rounds=10)
    >>> config.model.hidden_dim, config.federation.rounds
    (128, 10)
    >>> fedmm.load_config(lr=0.1)
    Traceback (most recent call last):
    fedmm.errors.ConfigError: There is no setting 'lr'. Did you mean federation.learning_rate?
    """
    from fedmm.config import load
    from fedmm.config.short import full_keys

    if isinstance(files, Mapping):
        raise ConfigError("load_config takes files first, not settings.", "Write fedmm.load_config(set={...}).")
    paths = [files] if isinstance(files, (str, Path)) else files
    given = {key: "none" if value is None else value for key, value in (set or {}).items()}
    flags = {**given, **full_keys(settings)}
    return load.load_config(
        [Path(path) for path in paths], environment, flags=flags, flag_names=dict.fromkeys(flags, "Python")
    )


def train(
    config: ExperimentConfig | PathLike | None = None,
    *,
    data: Dataset | str | Path | None = None,
    output: PathLike | None = None,
    observer: Observer | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    tags: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> Run:
    """Trains, evaluates the best round on validation and test, and gives the run back.

    ``config`` are settings (``load_config``) or a TOML file of them. ``data`` (``load_dataset``, the name of a dataset
    or a file) replaces what they say of the data; ``output`` is the run's folder, by default a fresh one under
    ``runs/``. ``observer`` hears what is done; by default stderr is told notes, rounds and where the run is (the
    logger ``fedmm`` instead where the program logs information), unless ``quiet``. Each of ``callbacks`` sees every
    round's ``RoundReport`` and may raise ``StoppedEarly``. ``resume`` goes on with the stopped run in ``output``, bit
    for bit, and begins one, with a warning, where there is none. ``tags`` join those of the MLflow run.

    Raises ConfigError and DataError before training, DivergenceError where numbers are no longer finite, StoppedEarly
    where a callback asked for it, StorageError where the folder cannot be written.

    >>> import fedmm, fedmm.testing
    >>> losses = []
    >>> run = fedmm.train(fedmm.testing.tiny_config(), callbacks=[lambda report: losses.append(report.loss)])
    >>> len(losses), run.result.rounds, 0.0 <= run.result.metrics.test.full.ndcg_at_10 <= 1.0
    (2, 2, True)
    """
    stop_if_only_read()
    from fedmm.runs.model import Run
    from fedmm.runs.train import run_training
    from fedmm.runs.watching import Told, WithCallbacks, usual_observer

    chosen = _with_data(_settings(config), data)
    if output is not None:
        chosen = chosen.model_copy(update={"runtime": chosen.runtime.model_copy(update={"output": Path(output)})})
    watcher = observer or usual_observer(quiet=quiet)
    result = run_training(chosen, WithCallbacks(watcher, callbacks), resume=resume, tags=tags)
    if isinstance(watcher, Told):
        watcher.done(result.output)
    return Run.load(Path(result.output))


def load_run(folder: PathLike, *, data: PathLike | None = None) -> Run:
    """Reads a finished run back from its folder. ``data`` says where its file of interactions is now, if it has moved.

    What comes back has ``config``, ``result`` (whatever was measured, by attribute), ``rounds`` and ``model``, a
    ``TrainedModel`` that loads when it is asked for.

    Raises DataError where the folder holds no finished run, CheckpointError where the model does not fit, ConfigError
    where the run used a part that is not registered.

    >>> import fedmm, fedmm.testing
    >>> folder = fedmm.testing.tiny_run().folder
    >>> fedmm.load_run(folder).result.seed
    0
    """
    from fedmm.runs.model import Run

    return Run.load(Path(folder), data=data)


def evaluate(
    run: Run | PathLike,
    split: Literal["test", "validation"] = "test",
    *,
    protocols: Sequence[str] | None = None,
    data: PathLike | None = None,
    observer: Observer | None = None,
) -> EvaluateResult:
    """Evaluates a run's best round again, under other ``protocols`` or on the other ``split`` of the same data.

    ``run`` is a run, its folder or a checkpoint in it; ``protocols`` some of full, uniform100 and popularity100;
    ``data`` says where the run's file of interactions is now, if it has moved. What comes back has ``metrics``,
    ``baselines``, ``parts`` and ``paired``, each by split.

    Raises CheckpointError where the checkpoint cannot be read or does not fit the data.

    >>> import fedmm, fedmm.testing
    >>> run = fedmm.testing.tiny_run()
    >>> again = fedmm.evaluate(run, "validation", protocols=["full"])
    >>> again.metrics.validation.full.hr_at_10 == run.result.metrics.validation.full.hr_at_10
    True
    """
    stop_if_only_read()
    from fedmm.runs.evaluate import run_evaluation
    from fedmm.runs.watching import LogObserver

    require_list(protocols, "protocols")
    folder, known = (Path(run), None) if isinstance(run, (str, Path)) else (run.folder, run.data)
    chosen, now = None if protocols is None else tuple(protocols), known if data is None else Path(data)
    return run_evaluation(folder, observer or LogObserver(), split=split, protocols=chosen, data=now)


def compare(*runs: Run | PathLike, by: Sequence[str] = (), metrics: Sequence[str] = ()) -> Comparison:
    """Compares finished runs user by user and says of each pair which is better, or that they cannot be told apart.

    Runs that differ in their seed alone are one group; ``by`` groups by these settings instead. The first of
    ``metrics`` ("full/ndcg_at_10") decides. What comes back has ``groups`` (means, 95% intervals), ``pairs``
    (difference, interval, p-values, verdict) and ``warnings``. The tests are sign flips over users and, where there
    are several seeds, over them too, with Holm's correction (Scandinavian Journal of Statistics, 1979).

    Raises DataError where the runs cannot be compared, with what differs, and ConfigError for a metric that they do
    not have.

    >>> import fedmm, fedmm.testing
    >>> other = fedmm.train(fedmm.testing.tiny_config(aggregation="mean"))
    >>> comparison = fedmm.compare(fedmm.testing.tiny_run(), other, metrics=["full/ndcg_at_10"])
    >>> comparison.differing, [pair.metric for pair in comparison.pairs]
    (('federation.aggregation',), ['full/ndcg_at_10'])
    """
    stop_if_only_read()
    from fedmm.comparison import compare as comparing
    from fedmm.comparison.loading import common_split, run_folder
    from fedmm.comparison.loading import load_run as load_compared

    require_list(by, "by")
    require_list(metrics, "metrics")
    if len(runs) < 2:
        raise ConfigError(f"A comparison of {len(runs)} run has nothing to compare.", "Give two runs or more.")
    folders = []
    for run in runs:
        text = str(run) if isinstance(run, (str, Path)) else str(run.folder)
        found = run_folder(text)
        if found is None:
            raise ConfigError(f"There is no run folder {text!r}.", "Give the folder of a finished run.")
        folders.append(found)
    split = common_split(folders)
    return comparing.compare([load_compared(folder, split) for folder in folders], by=by, metrics=metrics)


def sweep(
    study: str | Path | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    config: ExperimentConfig | PathLike | None = None,
    name: str | None = None,
    trials: int | None = None,
    sampler: str | None = None,
    output: PathLike | None = None,
    jobs: int = 1,
    observer: SweepObserver | None = None,
    **plan: Any,
) -> SweepResult:
    """Searches settings: many runs, judged on validation, whose winner meets test once.

    ``study`` names one that ships or a TOML file. Without it ``space`` says what is searched: dotted keys with a list
    of choices, or ``{"low": 1e-3, "high": 1.0, "log": True}``. ``config`` has what is the same for all trials. ``plan``
    are further keys of [study]: metric, pruner, seed, seeds, confirm, .... ``output`` is the sweep's folder (default
    ``sweeps/<name>``), where a study that is there already goes on. Trials run in ``jobs`` processes of their own,
    which import the files that register your parts; parts of a notebook or a prompt have no file, and then trials run
    one by one in this process.

    Raises ConfigError for a space that is not possible, WorkerError where no trial can start.

    >>> import fedmm, fedmm.testing
    >>> config = fedmm.testing.tiny_config(rounds=1)
    >>> result = fedmm.sweep(
    ...     space={"federation.aggregation": ["mean", "heat"]},
    ...     sampler="grid",
    ...     config=config,
    ...     output=config.runtime.output,
    ... )
    >>> result.trials.complete, list(result.best.params)
    (2, ['federation.aggregation'])
    """
    stop_if_only_read()
    from fedmm.report.sweep_result import SweepResult
    from fedmm.runs.watching import LogObserver
    from fedmm.tuning.sweep import SWEEPS, SweepOptions, run_sweep

    given = {"name": name, "trials": trials, "sampler": sampler, **plan}
    chosen = _study(study, space, config, {key: value for key, value in given.items() if value is not None})
    threads = chosen.base.runtime.threads or 1
    options = SweepOptions(Path(output) if output is not None else SWEEPS / chosen.name, jobs=jobs, threads=threads)
    result = run_sweep(chosen, options, observer or LogObserver())
    assert isinstance(result, SweepResult)  # only one who joins another process's study gets something else
    return result


def verify(
    config: ExperimentConfig | PathLike | None = None,
    *,
    level: Literal["quick", "full"] = "quick",
    only: Sequence[str] = (),
) -> VerifyResult:
    """Measures the claims of the architecture, the federation, the honesty of the numbers and the data.

    With a ``config`` the model of these settings is verified, else every kind of model. ``only`` names groups of
    checks: architecture, federation, honesty, data. What comes back has ``passed`` and, for each of ``checks``, the
    measured value beside its tolerance.

    Raises ConfigError for a group that does not exist, DataError where there is nothing to train on.

    >>> import fedmm, fedmm.testing
    >>> outcome = fedmm.verify(fedmm.testing.tiny_config(), only=["data"])
    >>> outcome.passed, {check.group for check in outcome.checks}
    (True, {'data'})
    """
    stop_if_only_read()
    from fedmm.verification.catalogue import CHECKS
    from fedmm.verification.checks import GROUPS, choose, run_checks, summary
    from fedmm.verification.loading import subject_of_config

    require_list(only, "only")
    unknown = [group for group in only if group not in GROUPS]
    if unknown:
        raise ConfigError(f"There is no group of checks {unknown[0]!r}.", f"Give some of {', '.join(GROUPS)}.")
    settings = _settings(config)
    subject = subject_of_config(settings, only_own_model=config is not None, full=level == "full")
    return summary(list(run_checks(choose(CHECKS, level, only), subject)), settings, level)


def _settings(config: ExperimentConfig | PathLike | None) -> ExperimentConfig:
    return (
        load_config(() if config is None else config) if config is None or isinstance(config, (str, Path)) else config
    )


def _with_data(config: ExperimentConfig, data: Dataset | str | Path | None) -> ExperimentConfig:
    """The settings with the data that were loaded before, split as the settings say."""
    if data is None:
        return config
    if isinstance(data, (str, Path)):
        data = load_dataset(path=data) if Path(data).suffix else load_dataset(str(data))
    if data.settings is None:
        raise ConfigError(f"The dataset {data.name} was not loaded by fedmm.load_dataset.", "Load it that way.")
    kept = {name: getattr(config.data, name) for name in SPLIT_SETTINGS}
    return config.model_copy(update={"data": data.settings.model_copy(update=kept)})


def _study(
    study: str | Path | None,
    space: Mapping[str, Any] | None,
    config: ExperimentConfig | PathLike | None,
    plan: Mapping[str, Any],
) -> Study:
    """The study that was named or described, checked whole."""
    from fedmm.study import Changes, load_study, read_study
    from fedmm.study.values import as_typed

    settings = _settings(config)
    own = {key: value for key, value in as_typed(settings.flat()).items() if key not in OWN_TO_TRIALS}
    if study is not None:
        changes = Changes(plan=plan, overlay=lambda implied: load_config(set={**implied, **own}))
        return load_study(study, changes)
    if not space:
        raise ConfigError("A sweep needs something to search.", "Give a study or a space.")
    tables = {key: value if isinstance(value, Mapping) else {"choices": list(value)} for key, value in space.items()}
    metric = own.pop("evaluation.selection_metric", None)
    fixed = {key: value for key, value in own.items() if key not in tables}
    tree = {"study": {**({"metric": metric} if metric else {}), **plan}, "base": fixed, "space": tables}
    return read_study(tree, "fedmm.sweep", plan.get("name", "search"))
