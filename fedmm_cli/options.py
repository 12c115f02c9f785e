"""Options of ``fedmm train``: flags to config keys, and the names the old system used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROTOCOLS = {
    "full": ("full",),
    "sampled": ("uniform100", "popularity100"),
    "both": ("full", "uniform100", "popularity100"),
}

FLAGS = {
    "dataset": "data.name",
    "data": "data.path",
    "visual_features": "data.visual_features",
    "text_features": "data.text_features",
    "split": "data.split",
    "min_rating": "data.min_rating",
    "min_user_interactions": "data.min_user_interactions",
    "min_item_interactions": "data.min_item_interactions",
    "fusion": "model.fusion",
    "experts": "model.experts",
    "scoring": "model.scoring",
    "gating_init": "model.gating_init",
    "hidden_dim": "model.hidden_dim",
    "num_blocks": "model.num_blocks",
    "num_heads": "model.num_heads",
    "max_length": "model.max_length",
    "rounds": "federation.rounds",
    "client_fraction": "federation.client_fraction",
    "warmup_rounds": "federation.warmup_rounds",
    "local_steps": "federation.local_steps",
    "local_epochs": "federation.local_epochs",
    "batch_size": "federation.batch_size",
    "local_optimizer": "federation.local_optimizer",
    "learning_rate": "federation.learning_rate",
    "aggregation": "federation.aggregation",
    "server_optimizer": "federation.server_optimizer",
    "server_learning_rate": "federation.server_learning_rate",
    "patience": "evaluation.patience",
    "tracking_uri": "tracking.uri",
    "experiment": "tracking.experiment",
    "output": "runtime.output",
    "seed": "runtime.seed",
    "device": "runtime.device",
    "threads": "runtime.threads",
    "engine": "runtime.engine",
}
"""Parameter of the command -> config key."""

OLD_NAMES = {
    "--data_dir": "--data",
    "--data_file": "--data",
    "--visual_file": "--visual-features",
    "--text_file": "--text-features",
    "--num_rounds": "--rounds",
    "--client_fraction": "--client-fraction",
    "--learning_rate": "--learning-rate",
    "--batch_size": "--batch-size",
    "--partial_aggregation_warmup_rounds": "--warmup-rounds",
    "--gating_init": "--gating-init",
    "--sasrec_hidden_dim": "--hidden-dim",
    "--sasrec_num_blocks": "--num-blocks",
    "--use_negative_sampling": "--eval",
    "--save_dir": "--output",
}


def modernise(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line of the old system in today's names, and a note for each name that changed.

    The underscored --learning_rate belongs to local Adam, as it did there, unless a local optimizer is named.
    """
    modern: list[str] = []
    notes: list[str] = []
    folder, file = "", ""
    rest = list(_pairs(arguments))
    for name, value in rest:
        if name not in OLD_NAMES:
            modern += [part for part in (name, value) if part is not None]
            continue
        if name == "--data_dir":
            folder = value or ""
        elif name == "--data_file":
            file = value or ""
        elif name == "--use_negative_sampling":
            value = "sampled" if (value or "").lower() in ("true", "1", "yes") else "full"
            modern += ["--eval", value]
        else:
            modern += [part for part in (OLD_NAMES[name], value) if part is not None]
        notes.append(f"{name} is now {OLD_NAMES[name]}" + (f" {value}" if name == "--use_negative_sampling" else ""))
    if folder or file:
        modern += ["--data", str(Path(folder) / file)]
    named = any(argument.split("=")[0] == "--local-optimizer" for argument in modern)
    if any(name == "--learning_rate" for name, _ in rest) and not named:
        modern += ["--local-optimizer", "adam"]
        notes.append("--learning_rate is the rate of local Adam, as it was; --learning-rate is that of --local-optimizer")
    return modern, notes


def _pairs(arguments: list[str]) -> list[tuple[str, str | None]]:
    """Old options with their values, written `--name value` or `--name=value`; every other argument alone."""
    pairs: list[tuple[str, str | None]] = []
    place = 0
    while place < len(arguments):
        name, equals, value = arguments[place].partition("=")
        if name in OLD_NAMES and equals:
            pairs.append((name, value))
        elif name in OLD_NAMES and place + 1 < len(arguments):
            place += 1
            pairs.append((name, arguments[place]))
        else:
            pairs.append((arguments[place], None))
        place += 1
    return pairs


def to_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Given options as config keys."""
    return {FLAGS[name]: value for name, value in values.items() if name in FLAGS and value is not None}


def evaluation_flags(name: str | None, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """``--eval``: the protocols, and a selection metric that is measured among them.

    Raises ConfigError for an unknown word.
    """
    if name is None:
        return {}
    if name not in PROTOCOLS:
        from fedmm.errors import ConfigError

        raise ConfigError(f"--eval {name!r} is not possible.", f"Allowed: {', '.join(PROTOCOLS)}.")
    flags: dict[str, Any] = {"evaluation.protocols": PROTOCOLS[name]}
    if name == "sampled" and "evaluation.selection_metric" not in chosen:
        flags["evaluation.selection_metric"] = "uniform100/ndcg_at_10"
    return flags
