"""One writer a run directory, one run at a time in a process, and file systems that cannot lock."""

import errno
import fcntl
import threading
from pathlib import Path

import pytest

from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import status_of
from fl_mlmc.simulations import run
from fl_mlmc.simulations.app.run_lock import RunBusyError, alone, writing


def test_a_second_run_in_this_process_is_refused_by_name_and_leaves_nothing(small: RunConfig) -> None:
    begun, done = threading.Event(), threading.Event()

    def wait(row: object) -> None:
        begun.set()
        assert done.wait(60)

    first = threading.Thread(target=lambda: run(on_round=wait, **small.changed(run_name="first").to_flower()))
    first.start()
    assert begun.wait(60)
    with pytest.raises(RunBusyError, match=r"another run is going on in this process.*one after the other"):
        run(**small.changed(run_name="second").to_flower())
    done.set()
    first.join(60)
    runs = Path(small.output.runs_dir)
    assert status_of(runs / "first") == "completed"
    assert not (runs / "second").exists()
    run(**small.changed(run_name="second").to_flower())


def test_the_lock_of_the_process_is_given_back_after_a_failure() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), alone():
            raise ZeroDivisionError


def test_a_second_command_of_one_name_leaves_the_first_ones_log_alone(small: RunConfig) -> None:
    directory = Path(small.output.runs_dir) / small.output.run_name
    with writing(directory), pytest.raises(RunBusyError, match="another process is still writing"):
        run(**small.to_flower())
    assert status_of(directory) == "not started"


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match=r"has no locks.*choose a runs-dir on another"), writing(tmp_path):
        pass
