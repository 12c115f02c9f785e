"""Two processes share the machine's cores: each computes with one thread, as do the commands that its tests start."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
