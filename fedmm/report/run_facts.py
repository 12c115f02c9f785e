"""What is said of one run, on its page and on its card: rows, sentences and commands."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.evaluation.measured import Metrics
from fedmm.runs.folder import CONFIG_FILE
from fedmm.runs.model import Run
from fedmm.runs.own_parts import parts_words_of
from fedmm.utils.text import (
    called,
    counted,
    in_bytes,
    in_time,
    listed,
    metric_words,
    probability,
    setting,
    share,
    signed,
    told_apart,
)

SHOWN = ("hr_at_10", "ndcg_at_10", "mrr_at_10")
STANDINGS = {
    "better": "is better than",
    "worse": "is worse than",
    "cannot be told apart": "cannot be told apart from",
}
EXPERTS = {"w_seq": "backbone", "w_vis": "visual", "w_sem": "semantic", "w_trans": "transition"}
LIBRARIES = ("torch", "numpy", "scipy", "pydantic")
NOT_PRIVATE = (
    "No privacy mechanism was on. Histories stayed with the clients and the server averaged their updates; nothing "
    "bounds what an update says of a client, and no cryptography hid it."
)
FAIR = "Whom a model serves well is whom the data hold much of: read the groups before using it for others."


def split_of(run: Run) -> str:
    """The split that is reported: test, or validation where nothing was measured on test (a trial of a study)."""
    return "test" if "test" in run.result.metrics else "validation"


def rows_of(run: Run, protocol: str) -> dict[str, Metrics]:
    """The model, the baselines and the model's parts alone, on the reported split."""
    split, result = split_of(run), run.result
    rows = {"model": result.metrics[split][protocol]}
    for kind, own in ((result.baselines, "{}"), (result.parts, "{} alone")):
        for name, splits in kind.items():
            if split in splits and protocol in splits[split]:
                rows[own.format(called(name))] = splits[split][protocol]
    return rows


def shown_metrics(values: Metrics) -> list[str]:
    """The usual three where they were measured, else the first three."""
    own = [name for name in SHOWN if name in values]
    return own or [name for name in values if "_at_" in name][:3]


def with_interval(values: Metrics, name: str) -> tuple[str, str]:
    """``.1625`` and ``[.1340, .1910]``, or "" where nothing was resampled."""
    bounds = values.ci95
    ends = bounds[name] if bounds is not None and name in bounds else (None, None)
    interval = "" if ends[0] is None or ends[1] is None else f"[{share(ends[0])}, {share(ends[1])}]"
    return share(float(values[name])), interval


def verdict(run: Run) -> list[str]:
    """The model's number, and in a second sentence how it stands to the opponents that were tested."""
    split = split_of(run)
    protocol, values = next(iter(run.result.metrics[split].items()))
    name = shown_metrics(values)[min(1, len(shown_metrics(values)) - 1)]
    mean, interval = with_interval(values, name)
    number = f"{metric_words(f'{protocol}/{name}')} on {split}: {mean} {interval}".strip()
    said: dict[str, list[str]] = {words: [] for words in STANDINGS}
    for opponent, tests in run.result.paired.get(split, {}).items():
        test = tests.get(f"{protocol}/{name}")
        if test is None or test.difference is None or test.p_value is None or None in test.ci95:
            continue
        low, high = (float(end or 0.0) for end in test.ci95)
        words = told_apart(test.difference, (low, high), test.p_value).partition(" (")[0]
        said[words].append(f"{called(opponent)} ({signed(test.difference)}, p {probability(test.p_value)})")
    parts = [f"{STANDINGS[words]} {listed(opponents)}" for words, opponents in said.items() if opponents]
    return [f"{number}.", *([f"In paired tests the model {'; it '.join(parts)}."] if parts else [])]


def data_facts(run: Run) -> dict[str, str]:
    """Name, sizes and where the data are."""
    data, config = run.result.dataset, run.config.data
    files = {
        "Interactions": config.path,
        "Visual features": config.visual_features,
        "Text features": config.text_features,
        "Attributes": config.attributes,
    }
    density = data.num_interactions / (data.num_users * data.num_items)
    facts = {
        "Data": data.name,
        "Digest": data.digest,
        "Users": f"{data.num_users:,}",
        "Items": f"{data.num_items:,}",
        "Interactions": f"{data.num_interactions:,} ({density:.2%} of all pairs)",
        "Split": config.split.replace("_", " "),
    }
    return facts | {f"{name}, file": str(path) for name, path in files.items() if path is not None}


def cost_facts(run: Run) -> dict[str, str]:
    """Size, rounds, time, memory and bytes."""
    result = run.result
    up, down = result.communication.uplink_bytes, result.communication.downlink_bytes
    facts = {
        "Parameters": f"{result.model.num_parameters:,}",
        "Rounds": f"{result.rounds}, of which number {result.best_round} was kept",
        "Time": f"{in_time(result.seconds.total)}, of which training {in_time(result.seconds.train)}",
        "Sent by clients": in_bytes(up),
        "Sent to clients": in_bytes(down),
        "A client and round, up": in_bytes(up / max(1, result.rounds * _cohort(run))),
    }
    return facts | ({} if result.peak_rss_bytes is None else {"Peak memory": in_bytes(result.peak_rss_bytes)})


def _cohort(run: Run) -> int:
    """Clients of a round, on average over the recorded rounds."""
    sizes = [float(entry["federation/num_clients"]) for entry in run.rounds if entry.get("federation/num_clients")]
    return max(1, round(sum(sizes) / len(sizes))) if sizes else 1


def model_facts(run: Run) -> dict[str, str]:
    """Fusion, experts, gate and router weights."""
    own, model = run.config.model, run.result.model
    facts = {
        "Fusion": own.fusion,
        "Experts": own.experts,
        "Width": str(own.hidden_dim),
        "Reads": f"{own.max_length} items",
    }
    weights = {name: value for name, value in model.items() if name.startswith("w_") and value is not None}
    gate = {} if model.gating_weight is None else {"Gate": f"{model.gating_weight:.3f}"}
    return (
        facts
        | gate
        | {f"Router's weight, {EXPERTS.get(name, name)}": f"{value:.3f}" for name, value in weights.items()}
    )


def privacy_words(run: Run) -> str:
    """What the run promises of one client."""
    private = run.result.privacy
    if private is None:
        return NOT_PRIVATE
    return (
        f"({private.epsilon:.3g}, {private.delta:.2g})-differential privacy of a client ({private.neighbouring} "
        f"neighbours, {private.accountant}), by noise of {private.noise_multiplier:.3g} times the clipping norm in "
        f"each round; {counted(len(private.releases), 'kind')} of release are accounted for."
    )


def changed_settings(config: ExperimentConfig) -> dict[str, str]:
    """Settings that are not what they are by default, the places of this run apart."""
    usual: Mapping[str, Any] = ExperimentConfig().flat()
    own = {key: value for key, value in config.flat().items() if usual.get(key) != value}
    return {key: setting(value) for key, value in own.items() if key not in ("runtime.output", "tracking.uri")}


def environment_facts(run: Run) -> dict[str, str]:
    """fedmm that trained, and what this page was made with."""
    facts = {
        "Trained by": f"fedmm {run.result.version}, seed {run.result.seed}",
        "Config digest": run.result.config_digest,
    }
    facts |= {"Python": platform.python_version(), "System": platform.platform()}
    for name in LIBRARIES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def commands(run: Run) -> list[str]:
    """How to train it again, look at it again and use it."""
    folder, parts = shlex.quote(str(run.folder)), parts_words_of(run.folder)
    told = [
        f"fedmm train --config {shlex.quote(str(Path(run.folder) / CONFIG_FILE))} --output runs/again",
        f"fedmm evaluate {folder}",
        f"fedmm recommend {folder} --all --top 10 --output recommendations.csv",
        f"fedmm report {folder}",
    ]
    return [f"{command}{parts}" for command in told]
