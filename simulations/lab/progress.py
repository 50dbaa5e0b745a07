"""What a study says while it goes on: bars in a terminal, a line a run where output is piped."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fl_mlmc.strategies.rows import headline

from .study import Trial
from .tables import duration


class Pace:
    """How long a study has left: rounds are counted, those of this start alone, on `clock` in seconds."""

    def __init__(self, trials: Sequence[Trial], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rounds = {trial: trial.config.num_rounds for trial in trials}
        self._first: dict[Trial, int] = {}
        self._at: dict[Trial, int] = {}
        self._over: set[Trial] = set()
        self._began = clock()

    def advance(self, trial: Trial, server_round: int) -> None:
        """A round of `trial` has ended; one that went on did not begin at the first."""
        self._first.setdefault(trial, server_round - 1)
        self._at[trial] = server_round

    def end(self, trial: Trial) -> None:
        """Nothing is left of `trial`, whatever it got to."""
        self._over.add(trial)

    @property
    def share(self) -> float:
        """Of all rounds, those that are done, 0 to 1."""
        return 1 - self._left() / max(sum(self._rounds.values()), 1)

    @property
    def seconds_left(self) -> float | None:
        """About; None before the first round."""
        done = sum(self._at[trial] - self._first[trial] for trial in self._at)
        return (self._clock() - self._began) / done * self._left() if done else None

    def _left(self) -> int:
        return sum(rounds - self._at.get(trial, 0) for trial, rounds in self._rounds.items() if trial not in self._over)


class Watched:
    """Tells `console` of a study's runs as they go on (a `crew.Listener`); alive inside a `with` block.

    `done` runs of the study were completed before.
    """

    def __init__(self, trials: Sequence[Trial], done: int, console: Console) -> None:
        self._console, self._pace = console, Pace(trials)
        self._total, self._done, self._failed = len(trials) + done, done, 0
        self._started: dict[Trial, float] = {}
        self._last: dict[Trial, Mapping[str, Any]] = {}
        self._bars = _bars(console) if console.is_terminal or console.is_jupyter else None
        self._tasks: dict[Trial, TaskID] = {}

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._whole = self._bars.add_task("", total=1.0, said=self._whole_text())
            self._bars.start()
        else:
            self._say(f"{self._total} runs, {self._done} done before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begun(self, trial: Trial) -> None:
        """Say which run is next."""
        self._started[trial] = time.monotonic()
        if self._bars is not None:
            self._tasks[trial] = self._bars.add_task(
                "", total=trial.config.num_rounds, said=escape(f"{trial.name}  starting")
            )

    def advanced(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """Move the bars."""
        self._last[trial] = row
        self._pace.advance(trial, int(row["round"]))
        if self._bars is not None:
            told = f"{trial.name}  {row['round']}/{trial.config.num_rounds}  {headline(row)}"
            self._bars.update(self._tasks[trial], completed=row["round"], said=escape(told))
            self._bars.update(self._whole, completed=self._pace.share, said=self._whole_text())

    def ended(self, trial: Trial, status: str) -> None:
        """Leave a line about a run that is over."""
        self._pace.end(trial)
        is_done = status == "completed"
        self._done, self._failed = self._done + is_done, self._failed + (not is_done)
        took = duration(time.monotonic() - self._started[trial])
        figures = headline(self._last[trial]) if trial in self._last else ""
        told = f"{figures}  in {took}" if is_done else f"FAILED after {took}: {status.partition(chr(10))[0]}"
        self._say(f"{self._done + self._failed}/{self._total}  {trial.name}  {told.strip()}{self._left_text()}")
        if self._bars is not None:
            self._bars.remove_task(self._tasks.pop(trial))
            self._bars.update(self._whole, completed=self._pace.share, said=self._whole_text())

    def _whole_text(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done} of {self._total} runs{failed}{self._left_text()}"

    def _left_text(self) -> str:
        left = self._pace.seconds_left
        return "" if left is None or not left else f"  {duration(left)} left"

    def _say(self, line: str) -> None:
        (self._bars.console if self._bars else self._console).print(line, highlight=False, markup=False, soft_wrap=True)
        self._console.file.flush()


def _bars(console: Console) -> Progress:
    width = max(4, min(20, console.width // 6))
    return Progress(BarColumn(width), TextColumn("{task.fields[said]}"), console=console)
