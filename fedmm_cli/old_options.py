"""The names that options had in the old system: hidden aliases of today's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLD_OPTIONS = {
    "--data_dir": ("--data", "data.path"),
    "--data_file": ("--data", "data.path"),
    "--visual_file": ("--visual-features", "data.visual_features"),
    "--text_file": ("--text-features", "data.text_features"),
    "--num_rounds": ("--rounds", "federation.rounds"),
    "--client_fraction": ("--client-fraction", "federation.client_fraction"),
    "--learning_rate": ("--learning-rate", "federation.learning_rate"),
    "--batch_size": ("--batch-size", "federation.batch_size"),
    "--partial_aggregation_warmup_rounds": ("--warmup-rounds", "federation.warmup_rounds"),
    "--gating_init": ("--gating-init", "model.gating_init"),
    "--sasrec_hidden_dim": ("--hidden-dim", "model.hidden_dim"),
    "--sasrec_num_blocks": ("--num-blocks", "model.num_blocks"),
    "--use_negative_sampling": ("--eval", "evaluation.protocols"),
    "--save_dir": ("--output", "runtime.output"),
}
"""Old name -> (the option of today, its setting)."""

TRUTH = {"true": "sampled", "1": "sampled", "yes": "sampled", "false": "full", "0": "full", "no": "full"}


@dataclass(frozen=True)
class Translation:
    """What old options mean today."""

    flags: Mapping[str, Any]  # key -> value
    names: Mapping[str, str]  # key -> the old option
    implied: Mapping[str, Any]  # defaults of the old system, which give way to whatever is said
    notes: tuple[str, ...]  # one a name: what it is called today


def translate(given: Mapping[str, str]) -> Translation:
    """Old options with their values, as settings.

    The old ``--learning_rate`` was that of a local Adam beside a server that averaged clients and kept no average over
    rounds, so it implies all three.
    Raises ConfigError where a value has no meaning.
    """
    flags: dict[str, Any] = {}
    names: dict[str, str] = {}
    notes = []
    for name, text in given.items():
        modern, key = OLD_OPTIONS[name]
        value = _sampling(text) if name == "--use_negative_sampling" else text
        flags[key], names[key] = value, name
        notes.append(f"{name} is now {modern}" + (f" {value}" if value != text else ""))
    if "--data_dir" in given or "--data_file" in given:
        flags["data.path"] = _join_path(given)
    implied: dict[str, Any] = {}
    if "--learning_rate" in given:
        implied |= {
            "federation.local_optimizer": "adam",
            "federation.server_optimizer": "sgd",
            "federation.ema_decay": 0.0,
        }
        notes.append(
            "as before, --learning_rate is the rate of a local Adam beside a server that averages clients "
            "and keeps no average over rounds, unless --local-optimizer, --server-optimizer and --set "
            "federation.ema_decay say otherwise"
        )
    return Translation(flags, names, implied, tuple(notes))


def _sampling(text: str) -> str:
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    from fedmm.errors import ConfigError

    raise ConfigError(
        f"--use_negative_sampling cannot be {text!r}.", "It takes True or False; today: --eval sampled or full."
    )


def _join_path(given: Mapping[str, str]) -> str:
    if "--data_file" not in given:
        from fedmm.errors import ConfigError

        folder = given["--data_dir"]
        raise ConfigError(f"--data_dir {folder!r} names no file.", "Add --data_file, or give the whole path to --data.")
    return str(Path(given.get("--data_dir", "")) / given["--data_file"])
