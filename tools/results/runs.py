"""Finished runs of a sweep's folder, and the row that each is in a results file."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmm.config import LATER, ExperimentConfig
from fedmm.config.load import load_config
from fedmm.config.toml import toml_value
from fedmm.errors import DataError
from fedmm.runs.folder import CONFIG_FILE, RESULT_FILE
from fedmm.utils.files import read_rounds

SPLITS = ("validation", "test")
CHOSEN = ("model.succession",)  # what was done before the data's shape chose it is told, too
METRICS = ("full/hr_at_10", "full/ndcg_at_10", "full/hr_at_50", "uniform100/hr_at_10", "uniform100/ndcg_at_10")
BESIDE = ("round_0", "transition_counts", "popularity", "backbone", "visual", "semantic", "transition")
BESIDE += ("ease", "item_knn", "succession", "regression", "kinship")
FACTS = ("study", "variant", "seed", "data", "settings", "rounds", "best_round", "gate", "w_vis", "w_sem", "w_trans")
COLD_ROWS = ("model", "backbone", "visual", "semantic", "transition", "popularity")
COLD_SIZES = ("num_items", "num_queries")
COLD = ("cold/chance", *(f"cold/{name}" for name in COLD_SIZES), *(f"cold/{name}/hr_at_10" for name in COLD_ROWS))
COSTS = (
    "clients",
    "uplink_bytes",
    "downlink_bytes",
    "seconds",
    "processor_seconds",
    "change_sd",
    "config_digest",
    "version",
)
OWN = tuple(f"{split}/{metric}" for split in SPLITS for metric in METRICS)
OTHERS = tuple(f"{split}/{name}/{metric}" for split in SPLITS for name in BESIDE for metric in METRICS)
COLUMNS = (*FACTS, *OWN, *OTHERS, *COLD, *COSTS)


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run of a study."""

    study: str
    variant: str  # its name, or the searched values
    folder: Path
    result: Mapping[str, Any]  # result.json

    @property
    def seed(self) -> int:
        """What it was trained under."""
        return int(self.result["seed"])


def find_runs(folder: Path) -> list[Run]:
    """Every finished run of the study in ``folder``, in the order of trials and seeds; confirmations are left out.

    Raises DataError where the folder holds no study, or not the runs of its study.
    """
    from fedmm.tuning.finished import finished_runs

    return [_read(run.study, run.variant, run.folder) for run in finished_runs(folder)]


def read_run(study: str, variant: str, folder: Path) -> Run:
    """A run of ``fedmm train`` in the place of a variant of a study. Raises DataError for a folder without a result."""
    return _read(study, variant, folder)


def row_of(run: Run) -> dict[str, str]:
    """The run as a row of ``COLUMNS``; what it does not have is left out."""
    result, model = run.result, run.result["model"]
    facts = {
        "study": run.study,
        "variant": run.variant,
        "seed": result["seed"],
        "data": result["dataset"]["name"],
        "settings": " ".join(settings_of(run.folder)),
        "rounds": result["rounds"],
        "best_round": result["best_round"],
        "gate": model["gating_weight"],
        **{name: model.get(name) for name in ("w_vis", "w_sem", "w_trans")},
        "clients": result["dataset"]["num_users"],
        **result["communication"],
        "seconds": round(result["seconds"]["train"], 1),
        "change_sd": change_sd(run.folder),
        "config_digest": result["config_digest"],
        "version": result["version"],
    }
    measured = {(split,): own for split, own in result["metrics"].items()}
    for rows in (result["baselines"], result["parts"]):
        measured |= {(split, name): own for name, splits in rows.items() for split, own in splits.items()}
    for place, protocols in measured.items():
        if place[1:] and place[1] not in BESIDE:
            continue  # no column of results
        for metric in METRICS:
            protocol, name = metric.split("/")
            if name in protocols.get(protocol, {}):
                facts["/".join((*place, metric))] = protocols[protocol][name]
    facts |= _cold(result.get("cold_items"))
    return {key: _text(value) for key, value in facts.items() if value is not None}


def _cold(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """HR@10 on items that never trained, and that of chance."""
    if section is None:
        return {}
    found = {f"cold/{name}": section[name] for name in COLD_SIZES}
    found["cold/chance"] = section["chance"].get("hr_at_10")
    rows = section["rows"]
    return found | {f"cold/{name}/hr_at_10": rows[name].get("hr_at_10") for name in COLD_ROWS if name in rows}


def settings_of(folder: Path) -> list[str]:
    """``key=value`` for what differs from the defaults and decides the numbers, without seed and folders of files."""
    own, defaults = load_config(files=[folder / CONFIG_FILE], environment={}).flat(), ExperimentConfig().flat()
    decisive = [key for key in own if not key.startswith(("runtime.", "tracking."))]
    return [
        f"{key}={_typed(own[key])}"
        for key in decisive
        if own[key] != defaults[key] and (own[key] not in LATER.get(key, ()) or key in CHOSEN)
    ]


def change_sd(folder: Path) -> float | None:
    """Standard deviation of the changes of full NDCG@10 on validation from one measured round to the next."""
    values = [entry["val/full/ndcg_at_10"] for entry in read_rounds(folder) if "val/full/ndcg_at_10" in entry]
    changes = [after - before for before, after in itertools.pairwise(values)]
    return statistics.stdev(changes) if len(changes) > 1 else None


def _read(study: str, variant: str, folder: Path) -> Run:
    try:
        return Run(study, variant, folder, json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no finished run ({error}).", "Collect where the study was run.") from None


def _typed(value: Any) -> str:
    if isinstance(value, str | Path):
        return Path(value).name if Path(value).is_absolute() else str(value)
    return "none" if value is None else toml_value(value)


def _text(value: Any) -> str:
    return repr(round(value, 6)) if isinstance(value, float) else str(value)
