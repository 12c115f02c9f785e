"""Laws of file locks: one holder at a time, gone with the process, and a look changes nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedmm.utils.locks import FOR_EVER, hold, is_held, take


def test_one_holds_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path):
        assert is_held(path)
        with pytest.raises(TimeoutError), hold(path):
            raise AssertionError("held twice")
        assert is_held(path)
    assert not is_held(path)
    with hold(path):
        assert is_held(path)


def test_an_error_in_the_block_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "lock"):
        raise KeyError
    assert not is_held(tmp_path / "lock")


def test_a_look_makes_no_file_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    path.write_text("12345")
    path.chmod(0o444)
    assert not is_held(path)
    with hold(path) if os.getuid() == 0 else hold(tmp_path / "other"):
        assert path.read_text() == "12345"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import sys; from pathlib import Path; from fedmm.utils.locks import take; lock = take(Path(sys.argv[1]));"
    code += "print('held', flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            assert is_held(path)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
    assert not is_held(path)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    context = multiprocessing.get_context("fork")
    lock, done = take(path), context.Event()
    child = context.Process(target=done.wait)
    child.start()
    lock.release()
    try:
        assert not is_held(path)
    finally:
        done.set()
        child.join()


def test_who_waits_comes_next_even_where_the_file_is_taken_away(tmp_path: Path) -> None:
    """A lock on a file that is gone would exclude nobody: the next holder makes it anew."""
    path = tmp_path / "lock"
    first = take(path)
    held: list[bool] = []

    def wait() -> None:
        with hold(path, FOR_EVER):
            held.append(is_held(path))

    waiter = threading.Thread(target=wait)
    waiter.start()
    path.unlink()
    first.release()
    waiter.join(60)
    assert held == [True]
