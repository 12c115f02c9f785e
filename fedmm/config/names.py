"""Suggests the known name that an unknown one was probably meant to be. The one home of suggestions and hints."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# What other tools call a setting's last word. A word stands here without dashes and underscores.
SYNONYMS = {
    "lr": "federation.learning_rate",
    "clientlr": "federation.learning_rate",
    "locallr": "federation.learning_rate",
    "serverlr": "federation.server_learning_rate",
    "epochs": "federation.rounds",
    "numepochs": "federation.rounds",
    "numrounds": "federation.rounds",
    "iterations": "federation.rounds",
    "optimizer": "federation.local_optimizer",
    "optim": "federation.local_optimizer",
    "serveropt": "federation.server_optimizer",
    "lrschedule": "federation.learning_rate_schedule",
    "scheduler": "federation.learning_rate_schedule",
    "wd": "federation.weight_decay",
    "mu": "federation.proximal_mu",
    "fedprox": "federation.proximal_mu",
    "negatives": "federation.num_negatives",
    "negs": "federation.num_negatives",
    "bs": "federation.batch_size",
    "fraction": "federation.client_fraction",
    "participation": "federation.client_fraction",
    "frac": "federation.client_fraction",
    "numclients": "federation.cohort_size",
    "clientsperround": "federation.cohort_size",
    "aggregator": "federation.aggregation",
    "strategy": "federation.aggregation",
    "warmup": "federation.warmup_rounds",
    "gradclip": "federation.clip_norm",
    "ema": "federation.ema_decay",
    "dim": "model.hidden_dim",
    "dims": "model.hidden_dim",
    "embeddim": "model.hidden_dim",
    "embeddingdim": "model.hidden_dim",
    "embeddingsize": "model.hidden_dim",
    "hiddensize": "model.hidden_dim",
    "hidden": "model.hidden_dim",
    "dmodel": "model.hidden_dim",
    "layers": "model.num_blocks",
    "numlayers": "model.num_blocks",
    "blocks": "model.num_blocks",
    "heads": "model.num_heads",
    "encoder": "model.block",
    "architecture": "model.block",
    "rope": "model.positions",
    "positionalencoding": "model.positions",
    "positionencoding": "model.positions",
    "seqlen": "model.max_length",
    "maxlen": "model.max_length",
    "maxseqlen": "model.max_length",
    "maxseqlength": "model.max_length",
    "gate": "model.gating_init",
    "gating": "model.gating_init",
    "file": "data.path",
    "csv": "data.path",
    "categories": "data.attributes",
    "gpu": "runtime.device",
    "cuda": "runtime.device",
    "savedir": "runtime.output",
    "out": "runtime.output",
    "outputdir": "runtime.output",
    "outdir": "runtime.output",
    "mlflow": "tracking.enabled",
    "earlystopping": "evaluation.patience",
    "k": "evaluation.cutoffs",
    "topk": "evaluation.cutoffs",
    "protocol": "evaluation.protocols",
}
CLOSE = 0.8  # of difflib's ratio: a slip of the finger, not another word
ALIKE = 0.6  # of names that people make up, where any near one helps: files, columns, data sets


def nearest_setting(key: str, known: Sequence[str]) -> str | None:
    """The one of ``known`` dotted keys that ``key`` was probably meant to be: the same last word, then what other
    tools call it, then shared words, then a slip of the finger. None where nothing is near enough to help."""
    by_leaf: dict[str, str] = {}
    for name in known:
        by_leaf.setdefault(name.rpartition(".")[2], name)
    leaf = key.rpartition(".")[2].replace("-", "_")
    if leaf in by_leaf:
        return by_leaf[leaf]
    meant = synonym(leaf)
    if meant in known:
        return meant
    slip = _slip(key, known, CLOSE)
    if slip is not None:
        return slip
    near = nearest_name(leaf, list(by_leaf))
    return by_leaf[near] if near else None


def synonym(word: str) -> str | None:
    """The setting that other tools call ``word``.

    >>> synonym("embedding-dim")
    'model.hidden_dim'
    """
    return SYNONYMS.get(_plain(word))


def nearest_name(name: str, known: Iterable[str], cutoff: float = CLOSE) -> str | None:
    """The one of ``known`` that ``name`` was probably meant to be; None where nothing is near enough to help.

    Equal letters come first, then spelling as alike as ``cutoff`` (difflib's ratio), then shared words.

    >>> nearest_name("trimed_mean", ["mean", "heat", "trimmed_mean"])
    'trimmed_mean'
    >>> nearest_name("server-rate", ["server_learning_rate", "client_fraction"])
    'server_learning_rate'
    >>> nearest_name("lr", ["eval", "rounds"]) is None
    True
    """
    names = list(known)
    plain = {_plain(candidate): candidate for candidate in reversed(names)}
    typed = _plain(name)
    if typed in plain:
        return plain[typed]
    slip = _slip(typed, list(plain), cutoff)
    if slip is not None:
        return plain[slip]
    words = set(_words(name))
    shared = [candidate for candidate in names if words and words <= set(_words(candidate))]
    if not shared and len(typed) >= 3:
        shared = [candidate for candidate in names if _plain(candidate).startswith(typed)]
    if not shared and len(typed) >= 4:
        shared = [candidate for candidate in names if typed in _plain(candidate)]
    if shared:
        return min(shared, key=lambda candidate: (len(candidate), candidate))
    return None


def suggestion(near: str | Path | None, otherwise: str = "") -> str:
    """The hint of an error: what was probably meant, else what helps ``otherwise``.

    >>> suggestion(nearest_name("heet", ["mean", "heat"], ALIKE), "Known are mean, heat.")
    'Did you mean heat?'
    >>> suggestion(None, "Known are mean, heat.")
    'Known are mean, heat.'
    """
    return otherwise if near is None else f"Did you mean {near}?"


def missing_file_hint(path: Path, otherwise: str = "Check the path.") -> str:
    """The hint for a file that is not there: the file of nearly that name (up to its first dot) in its folder, else
    ``otherwise``."""
    try:
        siblings = sorted(other.name for other in path.parent.iterdir())
    except (OSError, ValueError):  # ValueError: a NUL in the path
        siblings = []
    near = nearest_name(_stem(path.name), [_stem(name) for name in siblings], ALIKE)
    if near is not None:
        near = _slip(path.name, [name for name in siblings if _stem(name) == near], 0.0)
    return suggestion(near and path.parent / near, otherwise)


def _stem(name: str) -> str:
    return name.lstrip(".").partition(".")[0]


def _slip(typed: str, known: Sequence[str], cutoff: float) -> str | None:
    """The one of ``known`` whose spelling is most alike, where it is as alike as ``cutoff``."""
    return next(iter(difflib.get_close_matches(typed, known, n=1, cutoff=cutoff)), None)


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]
