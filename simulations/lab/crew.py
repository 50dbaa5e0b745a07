"""The queue of a study's runs, and the processes that work it off.

What was done stays done: a run that is completed is not repeated, one that was cut off goes on from its checkpoint, and
one that failed is tried again. A failure ends its own run only.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from .study import Trial
from .worker import work

LOG = "workers.log"
"""The file in a study's folder with all that its processes print."""
MARGIN = 1.2
"""Of the largest run so far, what must be free in memory before one more is begun beside others."""
PATIENCE = 30.0
"""Seconds that a process has to leave, with all that it started."""


class Listener(Protocol):
    """Hears how a study goes on."""

    def begun(self, trial: Trial) -> None:
        """A run begins, or goes on."""
        ...

    def advanced(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A round of it ended; `row` is its row of rounds.jsonl."""
        ...

    def ended(self, trial: Trial, status: str) -> None:
        """It is "completed", or failed for the reason that `status` says."""
        ...


@dataclass(eq=False)
class _Hand:
    process: BaseProcess
    line: Connection
    trial: Trial
    peak_bytes: int = 0


@dataclass
class Crew:
    """Runs trials in up to `jobs` processes at a time; a second one begins only where memory is free for it.

    A crew of one test may bring its own `free_bytes`; `target` is what a process does (`worker.work`).
    """

    directory: Path
    jobs: int = 1
    free_bytes: Callable[[], int | None] = field(default_factory=lambda: free_memory)
    target: Callable[[Connection, Path], None] = work

    def conduct(self, trials: Sequence[Trial], listener: Listener) -> dict[Trial, str]:
        """Run all `trials`; the status of each: "completed", or the reason why not."""
        waiting, ended = list(trials), {}
        peak = 0
        with self._hands() as hands:
            while waiting or hands:
                while waiting and len(hands) < self.jobs and self._has_room(hands, peak):
                    trial = waiting.pop(0)
                    listener.begun(trial)
                    hands.append(self._hire(trial))
                for hand in self._ready(hands):
                    said = self._heard(hand)
                    peak = max(peak, said.get("peak_bytes", 0))
                    hand.peak_bytes = said.get("peak_bytes", hand.peak_bytes)
                    if "row" in said:
                        listener.advanced(hand.trial, said["row"])
                        continue
                    ended[hand.trial] = said["end"]
                    listener.ended(hand.trial, said["end"])
                    if said.get("is_alive", True) and waiting:
                        hand.trial = waiting.pop(0)
                        listener.begun(hand.trial)
                        hand.line.send_bytes(_task(hand.trial))
                    else:
                        hands.remove(hand)
                        hand.line.close()
                        hand.process.join(PATIENCE)
        return ended

    def _has_room(self, hands: Sequence[_Hand], peak: int) -> bool:
        """The first is always let in; others once the first one's size is known, and fits beside those."""
        if not hands:
            return True
        free = self.free_bytes()
        return free is None or (peak > 0 and free > MARGIN * peak)

    def _hire(self, trial: Trial) -> _Hand:
        context = get_context("spawn")  # a forked process would have our threads' locks
        here, there = context.Pipe()
        self.directory.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=self.target, args=(there, self.directory / LOG), daemon=False)
        process.start()
        there.close()
        here.send_bytes(_task(trial))
        return _Hand(process, here, trial)

    def _ready(self, hands: Sequence[_Hand]) -> list[_Hand]:
        lines = {hand.line: hand for hand in hands}
        return [lines[line] for line in wait(list(lines), timeout=1.0) if isinstance(line, Connection)]

    def _heard(self, hand: _Hand) -> dict[str, Any]:
        try:
            return dict(json.loads(hand.line.recv_bytes()))
        except (EOFError, ConnectionError):
            hand.process.join(PATIENCE)
            code = hand.process.exitcode
            hint = ": perhaps memory ran out; take fewer jobs or smaller runs" if code == -9 else ""
            reason = f"its process ended with {code}{hint}; see {self.directory / LOG}"
            return {"end": reason, "is_alive": False}

    @contextmanager
    def _hands(self) -> Iterator[list[_Hand]]:
        """The processes at work; whatever ends the study ends them."""
        hands: list[_Hand] = []
        try:
            yield hands
        finally:
            for hand in hands:
                hand.process.terminate()
            deadline = time.monotonic() + PATIENCE
            for hand in hands:
                hand.process.join(max(0.0, deadline - time.monotonic()))
                if hand.process.is_alive():
                    hand.process.kill()
                    hand.process.join()
                hand.line.close()


def _task(trial: Trial) -> bytes:
    return json.dumps(trial.config.to_flower()).encode()


def free_memory() -> int | None:
    """Bytes that a new process may take, as Linux says; None elsewhere."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
