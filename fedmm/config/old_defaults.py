"""Runs of before: what they were trained under where their folders do not say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Settings that came later and whose default is not what was done before there was a choice.
OLD_DEFAULTS: Mapping[str, Any] = {
    "runtime.kernels": "torch",
    "data.feature_order": "by_kind",
    "federation.count_sums": "dense",
    "federation.counts_received": "all",
    "federation.recipe": "standard",
    "model.gate_start": "given",
    "model.succession": 0.0,
}


def with_old_defaults(stored: Any) -> Any:
    """A tree of stored settings, completed by ``OLD_DEFAULTS`` where it is silent; what is no tree is returned.

    >>> with_old_defaults({"federation": {"rounds": 3}})
    {'federation': {'count_sums': 'dense', 'counts_received': 'all', 'rounds': 3}}
    >>> with_old_defaults({"federation": {"count_sums": "open"}})
    {'federation': {'counts_received': 'all', 'count_sums': 'open'}}
    """
    if not isinstance(stored, Mapping):
        return stored
    tree = dict(stored)
    for key, value in OLD_DEFAULTS.items():
        section, _, leaf = key.partition(".")
        if isinstance(tree.get(section), Mapping):
            tree[section] = {leaf: value, **tree[section]}
    return tree
