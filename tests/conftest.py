"""Two processes share the machine's cores: each computes with one thread, as do the commands that its tests start.
Nothing but compiled kernels and MLflow's empty database is kept in the user's cache folder, unless a test has one of
its own. Nothing waits for the disk: a killed process loses nothing that it has written. Figures are drawn where a test
looks at them."""

import base64
import os
from pathlib import Path

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


@pytest.fixture(autouse=True)
def _blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs leave blank pictures, but in tests with the mark ``figures``: drawing takes a fifth of a tiny run."""
    if request.node.get_closest_marker("figures"):
        return
    from fedmm.runs import reporting  # late: it imports torch, which reads the variables above

    def curve(rounds: object, path: Path, *others: object) -> Path:
        path.write_bytes(BLANK)
        return path

    monkeypatch.setattr(reporting, "learning_curve", curve)
    monkeypatch.setattr(reporting, "draw_groups", lambda groups, path: path.write_bytes(BLANK))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``config_world``."""
    from worlds.config_world import write_world  # late: it imports torch, which reads the variables above

    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder
