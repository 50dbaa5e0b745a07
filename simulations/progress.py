"""What a run says while it goes on: a bar in a terminal or a notebook, a line a round where output is piped."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fl_mlmc.strategies.rows import counted, headline

LEAST_FOR_BAR = 70
"""Columns of a terminal from which on there is room for a bar beside the figures."""


class Telling:
    """Tells `console` of a run's rounds, as they end; alive inside a `with` block.

    A bar with round, accuracy, loss, uplink bytes and time left, where the console can redraw a line. Elsewhere, in a
    pipe, a file or a scheduler's log, a line a round: "round 3/20  accuracy 0.812  loss 0.613  uplink 12.3 kB".
    """

    def __init__(self, num_rounds: int, engine: str, console: Console) -> None:
        self._num_rounds, self._console = num_rounds, console
        self._bar = _bar(console) if console.is_terminal or console.is_jupyter else None
        self._engine = engine

    def __enter__(self) -> Self:
        if self._bar is None:
            self._say(f"starting engine {self._engine}, {counted(self._num_rounds, 'round')}")
        else:
            self._task = self._bar.add_task("", total=self._num_rounds, figures=f"starting engine {self._engine}")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, row: Mapping[str, Any]) -> None:
        """Tell of a round that has ended; `row` is its row of rounds.jsonl."""
        if self._bar is None:
            self._say(f"round {row['round']}/{self._num_rounds}  {headline(row)}")
        else:
            self._bar.update(self._task, completed=row["round"], figures=headline(row))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._console.file.flush()


def _bar(console: Console) -> Progress:
    """Round, figures and time left; a bar where there is room for it, and where not the figures' end is cut."""
    is_wide = console.width >= LEAST_FOR_BAR
    round_of = TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True))
    figures = TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="crop", ratio=1))
    left = TimeRemainingColumn(compact=not is_wide, table_column=Column(no_wrap=True))
    columns = [TextColumn("round"), round_of, BarColumn(), figures, left] if is_wide else [round_of, figures, left]
    return Progress(*columns, console=console, expand=True)
