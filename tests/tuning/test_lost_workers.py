"""Workers that are gone: told by their lock on one machine, by their silence from another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from optuna.trial import TrialState

from fedmm.tuning.liveness import SILENCE_SECONDS, Silences, WorkerId, is_lost, sweep_locks
from fedmm.tuning.queue import (
    UNCLAIMED_SECONDS,
    WORKER,
    fill_queue,
    give_back_lost,
)
from worlds.queue_world import (
    Clock,
    frozen,
    must_claim,
    opened,
    states,
    study_of,
)

HOLD = """
import sys
from pathlib import Path
from fedmm.tuning.liveness import WorkerLock
lock = WorkerLock(Path(sys.argv[1]))
print(lock.worker.lock, flush=True)
sys.stdin.read()
"""


def test_a_living_worker_is_not_lost_and_one_killed_with_9_is_at_once(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "workers")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        lock = process.stdout.readline().strip()
        who = WorkerId(os.uname().nodename, "child", lock)
        must_claim(trials, who)
        silent = Silences(Clock(step=1e9))
        assert give_back_lost(trials, silent) == []
        assert give_back_lost(trials, silent) == [], "the file lock counts here, not the heartbeat"
        sweep_locks(tmp_path / "workers")
        assert Path(lock).exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert give_back_lost(trials, Silences()) == [0]
    sweep_locks(tmp_path / "workers")
    assert not Path(lock).exists()


def test_elsewhere_silence_by_the_listeners_clock_decides(tmp_path: Path) -> None:
    study = study_of("trials = 2")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    living, dead = (WorkerId("elsewhere", name, f"/nowhere/{name}.lock") for name in ("living", "dead"))
    must_claim(trials, living)
    must_claim(trials, dead)
    clock = Clock(1e6)
    silences = Silences(clock)
    for beat in range(20):
        # Its clock is a day behind and goes wrong at that: only that the beats differ means anything.
        trials.set_user_attr(living.heartbeat, -86400.0 - beat % 2)
        if beat < 2:
            trials.set_user_attr(dead.heartbeat, 1e12 + beat)
        found = give_back_lost(trials, silences)
        last_beat = 1e6 + 30.0
        assert found == ([1] if clock.now - 30.0 <= last_beat + SILENCE_SECONDS < clock.now else [])
        clock.now += 30.0
    assert states(trials) == {"running": 1, "waiting": 1}


def test_a_worker_elsewhere_that_never_told_anything_is_lost_after_the_same_silence() -> None:
    who = WorkerId("elsewhere", "mute", "/nowhere/mute.lock")
    clock = Clock()
    silences = Silences(clock)
    assert not is_lost(who, silences.seconds(who, None))
    clock.now = SILENCE_SECONDS
    assert not is_lost(who, silences.seconds(who, None))
    clock.now += 1
    assert is_lost(who, silences.seconds(who, None))


def test_a_machine_of_the_same_name_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    who = WorkerId(os.uname().nodename, "1-ab", str(tmp_path / "workers" / "1-ab.lock"))
    assert not is_lost(who, 1.0)
    assert is_lost(who, SILENCE_SECONDS + 1)


def test_who_died_while_claiming_is_found_after_a_while(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    trials._storage.set_trial_state_values(frozen(trials)[0]._trial_id, TrialState.RUNNING)
    assert WORKER not in frozen(trials)[0].user_attrs
    clock = Clock()
    silences = Silences(clock)
    assert give_back_lost(trials, silences) == []
    clock.now = UNCLAIMED_SECONDS
    assert give_back_lost(trials, silences) == []
    clock.now += 1
    assert give_back_lost(trials, silences) == [0]
