"""Which known name an unknown one was probably meant to be. The one home of suggestions for settings and parts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

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
    "workers": "runtime.threads",
    "mlflow": "tracking.enabled",
    "earlystopping": "evaluation.patience",
    "k": "evaluation.cutoffs",
    "topk": "evaluation.cutoffs",
    "protocol": "evaluation.protocols",
}
CLOSE = 0.8  # of difflib's ratio: a slip of the finger, not another word


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
    slips = difflib.get_close_matches(key, known, n=1, cutoff=CLOSE)
    if slips:
        return slips[0]
    near = nearest_name(leaf, list(by_leaf))
    return by_leaf[near] if near else None


def synonym(word: str) -> str | None:
    """The setting that other tools call ``word``.

    >>> synonym("embedding-dim")
    'model.hidden_dim'
    """
    return SYNONYMS.get(_plain(word))


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``name`` was probably meant to be; None where nothing is near enough to help.

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
    alike = difflib.get_close_matches(typed, plain, n=1, cutoff=CLOSE)
    if alike:
        return plain[alike[0]]
    words = set(_words(name))
    shared = [candidate for candidate in names if words and words <= set(_words(candidate))]
    if not shared and len(typed) >= 3:
        shared = [candidate for candidate in names if _plain(candidate).startswith(typed)]
    if not shared and len(typed) >= 4:
        shared = [candidate for candidate in names if typed in _plain(candidate)]
    if shared:
        return min(shared, key=lambda candidate: (len(candidate), candidate))
    return None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
