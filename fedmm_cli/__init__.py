"""The command line."""

import time

STARTED = time.perf_counter()  # what a profile counts from: the first line of ours that a process runs
