"""Two processes share the machine's cores: each computes with one thread, as do the commands that its tests start.
Nothing but compiled kernels and MLflow's empty database is kept in the user's cache folder, unless a test has one of
its own. Nothing waits for the disk: a killed process loses nothing that it has written. Figures are drawn where a test
looks at them."""

import base64
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No timed assertions: on a busy machine an example may take long.
settings.register_profile("fedmm", deadline=None)
settings.load_profile("fedmm")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["FEDMM_PREPARED_GB"] = "0"
os.fsync = lambda descriptor: None

BLANK = base64.b64decode(  # a picture of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


_DRAWN = [False]  # whether the test at hand has the mark ``figures``


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, those of a module too."""
    _DRAWN[0] = item.get_closest_marker("figures") is not None


@pytest.fixture(autouse=True, scope="session")
def _blank_figures() -> Iterator[None]:
    """Runs, sweeps and comparisons leave blank pictures, but in tests with the mark ``figures``: drawing takes a fifth
    of a tiny run."""
    from fedmm.report import comparison_figures, study_figures  # late: they import torch, which reads the variables
    from fedmm.runs import reporting

    def blank(draw: Callable[..., object], place: int) -> Callable[..., object]:
        @functools.wraps(draw)
        def drawn(*arguments: Any) -> object:
            if _DRAWN[0]:
                return draw(*arguments)
            arguments[place].parent.mkdir(parents=True, exist_ok=True)  # as drawing does
            arguments[place].write_bytes(BLANK)
            return arguments[place]

        return drawn

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((reporting, "learning_curve"), (reporting, "draw_groups"),
                             (study_figures, "write_png"), (comparison_figures, "write_png")):  # fmt: skip
            patch.setattr(module, name, blank(getattr(module, name), 1))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``config_world``."""
    from worlds.config_world import write_world  # late: it imports torch, which reads the variables above

    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder
