"""A model card as Markdown (Mitchell et al., "Model Cards for Model Reporting", FAT* 2019)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmm.report import run_facts
from fedmm.runs.model import Run
from fedmm.utils.files import write_atomically
from fedmm.utils.text import metric_words


def write_model_card(run: Run, path: Path) -> None:
    """Writes the card; an earlier one is replaced. Raises StorageError."""
    write_atomically(path, model_card(run).encode())


def model_card(run: Run) -> str:
    """The whole card."""
    split = run_facts.split_of(run)
    parts = [
        f"# Model card: {plain(run.folder.name)}",
        "A federated multimodal sequential recommender: given what a user has met, it ranks what may come next. "
        f"Trained by fedmm {run.result.version} on {plain(run.result.dataset.name)}.",
        plain(" ".join(run_facts.verdict(run))),
        "## Use",
        "Recommending items of this catalogue to users with a history of it. Not for other catalogues, nor for "
        f"decisions about people. {run_facts.FAIR}",
        "## Model",
        _facts(run_facts.model_facts(run)),
        "## Data",
        _facts(run_facts.data_facts(run)),
        *([_list(run.result.notes)] if run.result.notes else []),
        f"## Metrics on {split}",
        *(_metrics(run, protocol) for protocol in run.result.metrics[split]),
        "## What to know",
        _list([one.text for one in run.result.advice]) if run.result.advice else "Nothing stood out.",
        "## Privacy",
        plain(run_facts.privacy_words(run)),
        "## Cost",
        _facts(run_facts.cost_facts(run)),
        "## Environment",
        _facts(run_facts.environment_facts(run)),
        "## Again",
        "```\n" + "\n".join(run_facts.commands(run)) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """``text`` in one line, of which Markdown and HTML take nothing for their own."""
    escaped = re.sub(r"([\\`*_\[\]>|#])", r"\\\1", " ".join(text.split()))
    return re.sub(r"<(?=[^\s.\d])", "&lt;", escaped).replace(r"\>", "&gt;")  # "p <.0001" is no markup


def _metrics(run: Run, protocol: str) -> str:
    rows = run_facts.rows_of(run, protocol)
    names = run_facts.shown_metrics(rows["model"])
    head = [metric_words(f"{protocol}/{name}") for name in names]
    body = [
        [label, *(" ".join(run_facts.with_interval(row, name)).strip() if name in row else "" for name in names)]
        for label, row in rows.items()
    ]
    return _table(["", *head], body)


def _facts(facts: Mapping[str, str]) -> str:
    return _table(["", ""], [[name, value] for name, value in facts.items()])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(entries: Sequence[str]) -> str:
    return "\n".join(f"- {plain(entry)}" for entry in entries)
