"""Laws of figures: a readable PNG from whatever was measured, and gaps where nothing was."""

import math
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fedmm.errors import StorageError
from fedmm.runs.figures import learning_curve
from fedmm.runs.figures_groups import draw_groups
from fedmm.runs.result import Group

Rounds = Sequence[Mapping[str, float]]
METRIC = "full/ndcg_at_10"


def draw(path: Path, rounds: Rounds, baselines: Mapping[str, float] | None = None, metric: str = METRIC) -> bytes:
    learning_curve(rounds, path, baselines or {}, metric)
    return path.read_bytes()


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def rounds(with_experts: bool = True) -> list[dict[str, float]]:
    experts = {"model/gating_weight": 0.1, "model/w_vis": 0.4, "model/w_sem": 0.6} if with_experts else {}
    first = {"round": 0.0, f"val/{METRIC}": 0.05}
    return [
        first,
        *({"round": float(n), "train/loss": 7 - n, f"val/{METRIC}": 0.05 + n / 99, **experts} for n in (1, 2)),
    ]


def test_the_same_numbers_give_the_same_bytes_and_others_others(tmp_path: Path) -> None:
    png = draw(tmp_path / "a.png", rounds())
    width, height = size_of(png)
    assert width > 1500
    assert height > 400
    assert draw(tmp_path / "b.png", rounds(), metric=f"val/{METRIC}") == png  # and the prefix makes no difference
    for key in ("train/loss", f"val/{METRIC}", "model/gating_weight", "model/w_vis", "model/w_sem"):
        changed = rounds()
        changed[2][key] *= 0.5
        assert draw(tmp_path / "c.png", changed) != png, key
    assert draw(tmp_path / "d.png", rounds(), {"popularity": 0.04}) != png


def test_without_experts_there_is_no_panel_for_them(tmp_path: Path) -> None:
    width = size_of(draw(tmp_path / "a.png", rounds()))[0]
    assert size_of(draw(tmp_path / "b.png", rounds(with_experts=False)))[0] * 3 == width * 2


def test_what_was_not_measured_is_a_gap(tmp_path: Path) -> None:
    plain = draw(tmp_path / "a.png", rounds())
    gaps: list[dict[str, float]] = [
        {"round": 3.0},
        {"round": 3.0, "train/loss": math.nan, f"val/{METRIC}": math.inf},
        {"round": 3.0, "train/loss": None},  # type: ignore[dict-item]  # as metrics.jsonl has it
    ]
    for gap in gaps:
        assert draw(tmp_path / "b.png", [*rounds(), gap], {"popularity": math.nan}) == plain
    size_of(draw(tmp_path / "c.png", []))


def test_a_figure_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        draw(tmp_path / "file" / "a.png", rounds())


def test_matplotlib_is_imported_late_and_without_pyplot(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fedmm.runs.figures import learning_curve;"
        "assert 'matplotlib' not in sys.modules;"
        f"learning_curve([{{'round': 1, 'train/loss': 1.0}}], Path({str(tmp_path / 'a.png')!r}), {{}}, {METRIC!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_groups_are_drawn_with_what_was_measured(tmp_path: Path) -> None:
    def group(label: str, level: float, names: Sequence[str]) -> Group:
        row = {"ndcg_at_10": level, "ci95": {"ndcg_at_10": [level + 1e-12, level + 0.01]}}  # as rounding may have it
        return Group.from_json({"group": label, "num_queries": 1234, "rows": dict.fromkeys(names, row)})

    def drawn(level: float, names: Sequence[str]) -> bytes:
        tables = {
            name: [group("1-19", level, names), group("20+", 0.02, names)]
            for name in ("users_by_history", "targets_by_holders")
        }
        return draw_groups(tables, tmp_path / "groups.png").read_bytes()

    everybody = ("model", "backbone", "transition_counts", "popularity")
    png = drawn(0.05, everybody)
    width, height = size_of(png)
    assert width > height > 400
    assert drawn(0.05, everybody) == png
    assert png not in (drawn(0.06, everybody), drawn(0.05, ("model", "popularity")))
