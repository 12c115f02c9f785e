"""A world of a few users, in which a whole run takes a second; and parts that are registered for a while."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.config.parts import register_part, unregister_part
from fedmm.data.types import FloatArray, IntArray
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.runs.model import Run
from fedmm.testing.laws import require
from fedmm.utils.seeding import numpy_stream

NUM_USERS, NUM_ITEMS = 16, 30
_numbers = itertools.count(1)


def tiny_config(folder: Path | str | None = None, **settings: Any) -> ExperimentConfig:
    """The settings of a run of a second: 16 users, 30 items with two modalities, two rounds, no tracking.

    The data are written into ``folder``, by default one that is removed when the program ends, and each run goes into
    a fresh folder beside them. ``settings`` change any setting by its last word (``rounds=3``) or by its whole key with
    two underscores for the dot (``model__num_heads=1``). Raises ConfigError for a setting that does not exist.

    >>> import fedmm.testing
    >>> config = fedmm.testing.tiny_config(rounds=3, aggregation="mean")
    >>> config.federation.rounds, config.federation.aggregation, config.tracking.enabled
    (3, 'mean', False)
    """
    from fedmm.config.short import full_keys

    place = _temporary() if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    _write_world(place)
    flags = {
        "data.path": str(place / "interactions.csv"),
        "data.visual_features": str(place / "visual.npz"),
        "data.text_features": str(place / "text.npz"),
        "model.hidden_dim": 8,
        "model.num_blocks": 1,
        "model.max_length": 8,
        "federation.rounds": 2,
        "evaluation.cutoffs": (5, 10),
        "evaluation.bootstrap_samples": 20,
        "runtime.threads": 1,
        "runtime.device": "cpu",
        "runtime.output": str(place / f"run-{next(_numbers)}"),
        "tracking.enabled": False,
    }
    return load_config(flags={**flags, **full_keys(settings)})


@functools.cache
def tiny_run() -> Run:
    """A finished run of ``tiny_config()``, trained once in a process: something to read, ask and compare.

    >>> import fedmm.testing
    >>> fedmm.testing.tiny_run().result.rounds
    2
    """
    from fedmm.runs.train import run_training
    from fedmm.runs.watching import LogObserver

    return Run.load(Path(run_training(tiny_config(), LogObserver()).output))


@contextmanager
def registered(kind: str, name: str, part: Any, *, store: str | None = None) -> Iterator[None]:
    """Registers ``part`` inside a ``with`` block and forgets it after. ``kind`` is "aggregation", "metric", ....

    Raises ConfigError for a name that is taken or is no name.

    >>> import fedmm, fedmm.testing
    >>> with fedmm.testing.registered("metric", "first_place", lambda places: (places == 0) * 1.0):
    ...     fedmm.load_config(extra_metrics=["first_place"]).evaluation.extra_metrics
    ('first_place',)
    """
    register_part(kind, name, part, store=store)
    try:
        yield
    finally:
        unregister_part(kind, name)


def check_metric(gain: Callable[[IntArray], FloatArray]) -> None:
    """Checks the laws of a metric: the top earns 1, no place less than 0 or more than a better one, ties lie between
    the best and the worst order, and users are measured one by one.

    ``gain(places)`` is what ``fedmm.register_metric`` takes. Raises AssertionError with the law that is broken.

    >>> import numpy as np
    >>> from fedmm.testing import check_metric
    >>> check_metric(lambda places: 1.0 / np.log2(places + 2.0))  # NDCG
    """
    places = np.arange(200, dtype=np.int64)
    before = places.copy()
    gains = np.asarray(gain(places))
    require(np.array_equal(places, before), "the metric changes its argument")
    require(gains.shape == (200,), "the metric does not give one gain a place")
    require(bool(np.isfinite(gains).all()), "the metric earns something that is not finite")
    require(bool(((gains >= 0) & (gains <= 1)).all()), "the metric earns more than 1 or less than 0 at a place")
    require(gains[0] == 1.0, "the metric does not earn 1 at the top")
    require(bool((np.diff(gains) <= 0).all()), "the metric earns more at a worse place")
    order = numpy_stream(0, "metric law").permutation(200)
    one_by_one = np.array([np.asarray(gain(places[p : p + 1]))[0] for p in range(0, 200, 40)])
    require(np.array_equal(np.asarray(gain(places[order])), gains[order]), "the metric reads the order of places")
    require(np.array_equal(one_by_one, gains[::40]), "the metric reads other places than its own")
    with registered("metric", "metric_under_test", gain):
        better, tied = (own.astype(np.int32) for own in (np.arange(0, 40, 3), np.arange(14) % 5))
        catalogue = np.full(14, 60, np.int32)
        values, best, worst = (
            per_query(
                RankCounts(b, t, catalogue),
                (5, 10),
                ("metric_under_test",),
            )
            for b, t in ((better, tied), (better, 0 * tied), (better + tied, 0 * tied))
        )
    for k in (5, 10):
        own, high, low = (found[f"metric_under_test_at_{k}"] for found in (values, best, worst))
        between = (low - 1e-12 <= own) & (own <= high + 1e-12)
        require(bool(between.all()), "a tie earns more than its best or less than its worst order")


@functools.cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fedmm-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write_world(folder: Path) -> None:
    stream = numpy_stream(3, "tiny world")
    lines = ["user,item,rating,timestamp"]
    for user in range(NUM_USERS):
        own = stream.permutation(NUM_ITEMS)[: 7 + user % 6]
        lines += [f"u{user},i{item},{1 + (user + item) % 5},{1000 + 10 * place}" for place, item in enumerate(own)]
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = np.array([f"i{item}" for item in range(NUM_ITEMS)])
    for name, width in (("visual.npz", 5), ("text.npz", 4)):
        values = stream.normal(size=(NUM_ITEMS, width)).astype(np.float32)
        np.savez(folder / name, item_id=ids, features=values, present=stream.random(NUM_ITEMS) < 0.8)
