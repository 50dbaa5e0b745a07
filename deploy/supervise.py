"""A process that is started again whenever it ends, a little later each time."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

Tell = Callable[[str], None]

FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0
STEADY_SECONDS = 60.0
"""A process that lived so long starts anew without delay."""
GRACE_SECONDS = 10.0


class Stop:
    """Says, once and for all, that all is to end.

    A signal handler may set it; the lock of a threading.Event may be held by the very thread that the handler runs in.
    """

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Say so."""
        self.is_set = True

    def wait(self, seconds: float) -> None:
        """Pause for so long, or until it is said."""
        deadline = time.monotonic() + seconds
        while not self.is_set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


class Supervisor:
    """Keeps one process alive until `stop`, and nothing of what it started longer.

    `advice` is asked whenever it ends by itself, and told if it has something new to say. What it started then may go
    on until it is back if `is_survived`. `orphaned` is the signal that it gets when this process is killed. `beat` is
    called several times a second while it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        tell: Tell,
        advice: Callable[[], str] = str,
        is_survived: bool = False,
        orphaned: signal.Signals = signal.SIGTERM,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._command, self._cwd, self._env, self._tell = list(command), cwd, dict(env), tell
        self._advice, self._advised, self._is_survived, self._beat = advice, "", is_survived, beat
        self._prepare = partial(die_with_parent, orphaned)
        self._stopped = Stop()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Start the process and start it again when it ends; returns after `stop`."""
        delay = FIRST_SECONDS
        try:
            while not self._stopped.is_set:
                started = time.monotonic()
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._cwd,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=self._prepare,
                )
                code = self._wait()
                if self._stopped.is_set:
                    return
                if not self._is_survived:
                    self._end_family()
                if time.monotonic() - started >= STEADY_SECONDS:
                    delay = FIRST_SECONDS
                self._tell(f"{self._command[0]} ended with code {code}; starting it again in {delay:g} s")
                if (advice := self._advice()) and advice != self._advised:
                    self._tell(advice)
                    self._advised = advice
                self._stopped.wait(delay)
                delay = min(2 * delay, MOST_SECONDS)
        finally:
            self._end()

    def stop(self) -> None:
        """Have `run` end the process and return."""
        self._stopped.set()

    def _wait(self) -> int:
        assert self._process is not None
        while True:
            self._beat()
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout=0.2)
            if self._stopped.is_set:
                return self._end()

    def _end(self) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        self._end_family()
        return process.wait()

    def _end_family(self) -> None:
        # A ClientApp that misses its SuperNode tries on for minutes, whatever it is told.
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def stop_on_signals(*stop: Callable[[], None]) -> None:
    """Have SIGTERM and Ctrl-C call `stop`."""

    def handle(number: int, frame: object) -> None:
        for function in stop:
            function()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """To be called in a new process: it gets this signal when the thread that started it is gone."""
    # A supervisor that is killed must not leave a node that nobody watches.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
