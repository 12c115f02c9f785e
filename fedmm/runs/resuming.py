"""Which run a command goes on with, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

from fedmm.config.names import ALIKE, nearest_name, suggestion
from fedmm.errors import ConfigError
from fedmm.runs.checkpoint import FOLDER
from fedmm.runs.folder import CONFIG_FILE, RUNS, find_resumable, unfinished_runs
from fedmm.runs.state import crash_of

SHOWN = 3
AFRESH = "A new run begins without --resume."


def require_resumable(output: Path | None) -> Path:
    """The run folder to go on with: ``output`` where given, else the run under ``runs/`` that was stopped or crashed
    last.

    Raises ConfigError where there is none, with the runs that were probably meant.
    """
    found = find_resumable(output)
    if found is not None:
        return found
    if output is None:
        failed = unfinished_runs(RUNS)
        why = f" {failed[-1]} ended in its first round ({crash_of(failed[-1])})." if failed else ""
        what = f"There is no stopped run under {RUNS}/ to resume."
        raise ConfigError(f"{what}{why}", f"Name one with --output. {AFRESH}")
    if output.is_dir():
        damaged = (output / FOLDER).exists()
        what = f"has checkpoints but no {CONFIG_FILE}" if damaged else "holds no run"
    else:
        what = "is a file" if output.exists() else "does not exist"
    raise ConfigError(f"There is no run to resume in {output}: it {what}.", _remedy(output))


def _remedy(output: Path) -> str:
    """The run of nearly that name, else those that were stopped."""
    runs = {str(folder): folder for folder in (*_runs_in(output.parent), *_runs_in(RUNS))}
    near = nearest_name(output.name, [folder.name for folder in runs.values()], ALIKE)
    if near is not None:
        meant = next(folder for folder in runs.values() if folder.name == near)
        return f"{suggestion(meant)} {AFRESH}"
    stopped = [str(folder) for place in dict.fromkeys((output.parent, RUNS)) for folder in unfinished_runs(place)]
    listed = f"Not finished: {', '.join(stopped[:SHOWN])}{', ..' * (len(stopped) > SHOWN)}. " if stopped else ""
    return listed + AFRESH


def _runs_in(folder: Path) -> list[Path]:
    try:
        return sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
    except OSError:
        return []
