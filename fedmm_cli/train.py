"""``fedmm train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedmm_cli.options import evaluation_flags, to_flags

DATA, MODEL, FEDERATION, EVALUATION, RUN = "Data", "Model", "Federation", "Evaluation", "Run"


def _option(name: str, help_text: str, panel: str) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=panel, show_default=False)


def train(
    dataset: Annotated[str | None, _option("--dataset", "A named dataset: movielens-small or ml-100k.", DATA)] = None,
    data: Annotated[Path | None, _option("--data", "Your own interactions file.", DATA)] = None,
    visual_features: Annotated[str | None, _option("--visual-features", "File of visual features, or none.", DATA)] = None,
    text_features: Annotated[str | None, _option("--text-features", "File of text features, or none.", DATA)] = None,
    split: Annotated[str | None, _option("--split", "leave_one_out or temporal.", DATA)] = None,
    min_rating: Annotated[float | None, _option("--min-rating", "Drop ratings below this.", DATA)] = None,
    min_user_interactions: Annotated[
        int | None, _option("--min-user-interactions", "Drop users with fewer.", DATA)
    ] = None,
    min_item_interactions: Annotated[
        int | None, _option("--min-item-interactions", "Drop items with fewer.", DATA)
    ] = None,
    fusion: Annotated[str | None, _option("--fusion", "residual, competitive or backbone.", MODEL)] = None,
    experts: Annotated[str | None, _option("--experts", "pooled or memory.", MODEL)] = None,
    scoring: Annotated[str | None, _option("--scoring", "dot or cosine.", MODEL)] = None,
    gating_init: Annotated[float | None, _option("--gating-init", "Initial gating weight.", MODEL)] = None,
    hidden_dim: Annotated[int | None, _option("--hidden-dim", "Width of embeddings and encoder.", MODEL)] = None,
    num_blocks: Annotated[int | None, _option("--num-blocks", "Transformer blocks.", MODEL)] = None,
    num_heads: Annotated[int | None, _option("--num-heads", "Attention heads of the backbone.", MODEL)] = None,
    max_length: Annotated[int | None, _option("--max-length", "Positions of one window.", MODEL)] = None,
    rounds: Annotated[int | None, _option("--rounds", "Rounds of training.", FEDERATION)] = None,
    client_fraction: Annotated[
        float | None, _option("--client-fraction", "Share of clients a round.", FEDERATION)
    ] = None,
    warmup_rounds: Annotated[
        int | None, _option("--warmup-rounds", "First rounds with partial aggregation.", FEDERATION)
    ] = None,
    local_steps: Annotated[int | None, _option("--local-steps", "Local steps a round.", FEDERATION)] = None,
    local_epochs: Annotated[int | None, _option("--local-epochs", "Local epochs; replaces steps.", FEDERATION)] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "Windows per local step.", FEDERATION)] = None,
    local_optimizer: Annotated[str | None, _option("--local-optimizer", "sgd, adam or adamw.", FEDERATION)] = None,
    learning_rate: Annotated[float | None, _option("--learning-rate", "The client's rate.", FEDERATION)] = None,
    aggregation: Annotated[str | None, _option("--aggregation", "mean or heat.", FEDERATION)] = None,
    server_optimizer: Annotated[
        str | None, _option("--server-optimizer", "sgd, momentum, adam, yogi or adagrad.", FEDERATION)
    ] = None,
    server_learning_rate: Annotated[
        float | None, _option("--server-learning-rate", "The server's rate.", FEDERATION)
    ] = None,
    evaluation: Annotated[str | None, _option("--eval", "full, sampled or both (default).", EVALUATION)] = None,
    patience: Annotated[
        int | None, _option("--patience", "Stop after so many validations without a better one.", EVALUATION)
    ] = None,
    config: Annotated[list[Path] | None, _option("--config", "TOML settings; repeatable.", RUN)] = None,
    assignments: Annotated[
        list[str] | None, _option("--set", "Any setting: model.dropout=0.1; repeatable.", RUN)
    ] = None,
    output: Annotated[Path | None, _option("--output", "Run folder (default: a new one in runs/).", RUN)] = None,
    resume: Annotated[bool, _option("--resume", "Go on with a stopped run.", RUN)] = False,
    seed: Annotated[int | None, _option("--seed", "Seed of the run.", RUN)] = None,
    device: Annotated[str | None, _option("--device", "cpu, cuda, mps or auto.", RUN)] = None,
    threads: Annotated[int | None, _option("--threads", "CPU threads; 0 = all.", RUN)] = None,
    engine: Annotated[str | None, _option("--engine", "vectorized or sequential.", RUN)] = None,
    tracking_uri: Annotated[str | None, _option("--tracking-uri", "MLflow store or server.", RUN)] = None,
    experiment: Annotated[str | None, _option("--experiment", "MLflow experiment.", RUN)] = None,
    no_tracking: Annotated[bool, _option("--no-tracking", "Do not log to MLflow.", RUN)] = False,
    as_json: Annotated[bool, _option("--json", "Print one JSON object on stdout.", RUN)] = False,
    quiet: Annotated[bool, _option("--quiet", "No progress.", RUN)] = False,
    debug: Annotated[bool, _option("--debug", "Show tracebacks.", RUN)] = False,
) -> None:
    """Train on the bundled data or your own, evaluate the best round, and log everything to MLflow."""
    del debug  # read by whoever reports the error
    given = {name: value for name, value in locals().items() if value is not None}
    from fedmm.run_folder import CONFIG_FILE, find_resumable
    from fedmm.runs import run_training
    from fedmm.settings import load_config
    from fedmm_cli.output import print_json
    from fedmm_cli.progress import make_observer
    from fedmm_cli.render import print_result

    flags = to_flags(given) | ({"tracking.enabled": False} if no_tracking else {})
    chosen = [text.partition("=")[0].strip() for text in assignments or []]
    flags |= evaluation_flags(evaluation, dict.fromkeys(chosen))
    stopped = find_resumable(output) if resume else None
    files = [*([stopped / CONFIG_FILE] if stopped else []), *(config or [])]
    if stopped:
        flags["runtime.output"] = stopped
    settings = load_config(files, os.environ, assignments or [], flags)
    with make_observer(settings, quiet=quiet, stream=sys.stderr) as observer:
        result = run_training(settings, observer, resume=resume)
    if as_json:
        print_json(result)
    else:
        print_result(result)
