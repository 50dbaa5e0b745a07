"""A run as another terminal sees it: from its log alone, so it may run here, under Flower or on devices."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fl_mlmc.run.config import ConfigError
from fl_mlmc.run.log import CLIENTS, ROUNDS, RUN, read_run
from fl_mlmc.run.protocol import printable
from fl_mlmc.strategies.rows import headline

from .tables import duration

POLL_SECONDS = 0.5
WINDOW = 10
"""Rounds whose mean is a run's pace."""
LONGEST_REASON = 80
MOST_REASONS = 3


class Tail:
    """The rows of a growing log, each once it is whole; from the start again where a resume has cut it back."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Those that came since this was last asked; none of a file that is not there yet."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            if self._path.stat().st_size < self._position:
                self._position = 0
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                yield json.loads(line)


@dataclass
class Seen:
    """What the log says so far."""

    directory: Path
    last: Mapping[str, Any] = field(default_factory=dict)
    """The last round's row."""
    scored: Mapping[str, Any] = field(default_factory=dict)
    """The last row with an evaluation in it."""
    downlink_bytes: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    """Dropped replies by reason."""
    seconds: list[float] = field(default_factory=list)
    """Of every round."""

    def __post_init__(self) -> None:
        self._rounds, self._clients = Tail(self.directory / ROUNDS), Tail(self.directory / CLIENTS)

    def look(self) -> list[Mapping[str, Any]]:
        """Read on; the rows of rounds that ended since."""
        new: list[Mapping[str, Any]] = list(self._rounds.rows())
        for row in new:
            if row["round"] <= self.last.get("round", 0):  # the run was cut back, and goes on from there
                self.seconds, self.downlink_bytes = [], 0
            self.last = row
            if any(row.get(key) is not None for key in ("loss", "accuracy")):
                self.scored = row
            self.downlink_bytes += row.get("downlink_bytes") or 0
            self.seconds.append(float(row.get("seconds") or 0.0))
        for row in self._clients.rows():
            if row.get("status") != "ok":
                self.drops[printable(str(row.get("status")).removeprefix("dropped: "), LONGEST_REASON)] += 1
        return new

    @property
    def pace(self) -> float | None:
        """Seconds a round, of late; None before the first."""
        late = self.seconds[-WINDOW:]
        return sum(late) / len(late) if late else None


def follow(directory: Path, console: Console, once: bool = False) -> str:
    """Show the run in `directory` until it is over, or `once`; its status then. ConfigError where there is no run."""
    if not (directory / RUN).is_file():
        raise ConfigError(f"{directory} holds no run: it has no {RUN}")
    seen = Seen(directory)
    if not console.is_terminal:
        return _tell_lines(seen, console, once)
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            header = read_run(directory)
            seen.look()
            live.update(view(seen, header, console.width))
            if once or not _goes_on(directory, header):
                return str(header["status"])
            time.sleep(POLL_SECONDS)


def _tell_lines(seen: Seen, console: Console, once: bool) -> str:
    while True:
        header = read_run(seen.directory)
        total = header.get("config", {}).get("num-rounds", "?")
        for row in seen.look():
            line = f"round {row['round']}/{total}  {headline(row)}  {row.get('num_ok', '?')} replies"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.file.flush()
        if once or not _goes_on(seen.directory, header):
            for line in lines(seen, header):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            return str(header["status"])
        time.sleep(POLL_SECONDS)


def _goes_on(directory: Path, header: Mapping[str, Any]) -> bool:
    writer = writer_of(directory)
    return header["status"] == "running" and writer != 0


def view(seen: Seen, header: Mapping[str, Any], width: int) -> Table:
    """A bar of the rounds, and the lines below it."""
    total = header.get("config", {}).get("num-rounds", 0)
    bar = ProgressBar(total=max(total, 1), completed=seen.last.get("round", 0), width=min(width, 60))
    grid = Table.grid()
    grid.add_row(bar)
    for line in lines(seen, header):
        grid.add_row(Text(line, overflow="ellipsis", no_wrap=True))
    return grid


def lines(seen: Seen, header: Mapping[str, Any]) -> Iterator[str]:
    """How the run stands, the most wanted first: a narrow terminal shows the beginnings."""
    config = header.get("config", {})
    total, done = config.get("num-rounds", 0), seen.last.get("round", 0)
    left = ""
    if seen.pace is not None and header["status"] == "running":
        left = f"  {duration(seen.pace * max(total - done, 0))} left"
    yield f"round {done}/{total}{left}"
    if seen.scored:
        yield headline(seen.scored).partition("  uplink")[0]
    up = decimal(int(seen.last.get("cumulative_uplink_bytes") or 0))
    yield f"{up} up, {decimal(seen.downlink_bytes)} down"
    if seen.pace:
        yield f"{1 / seen.pace:.2f} rounds a second, engine {config.get('engine', '?')}"
    for reason, count in seen.drops.most_common(MOST_REASONS):
        yield f"{count} dropped: {reason}"
    writer = writer_of(seen.directory)
    if writer:
        yield f"process {writer}, {decimal(memory_of(writer))} with all that it started"
    status = printable(header["status"], 300)
    if status == "running" and writer == 0:
        yield f"nobody writes it any more; go on: fl-mlmc run --resume {seen.directory}"
    elif status != "running":
        yield status


def writer_of(directory: Path) -> int | None:
    """The process that writes the run, which has its lock (`run_lock.writing`); 0: none; None: not known here."""
    try:
        place = directory.stat()
        own = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:  # no Linux
        return None
    holders = [int(words[4]) for words in held if len(words) > 5 and words[1] == "FLOCK" and words[5] == own]
    if not holders:
        return 0
    return holders[0] if holders[0] > 0 else None  # one of another container


def memory_of(process: int) -> int:
    """Bytes in memory of a process and all that descend from it; pages that they share count for each."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(words[1])
        sizes[int(entry.name)] = int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(sizes.get(member, 0) for member in family)
