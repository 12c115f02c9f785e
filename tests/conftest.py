"""Two processes share the machine's cores: each computes with one thread, as do the commands that its tests start.
Nothing is kept in the user's cache folder but by tests that have one of their own."""

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


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``config_world``."""
    from worlds.config_world import write_world  # late: it imports torch, which reads the variables above

    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder
