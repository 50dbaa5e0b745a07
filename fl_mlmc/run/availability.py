"""When clients are on: always, by a trace, by the time of day, or by chance. Times are simulated seconds.

As text: `"always"`, `"trace:phones.csv"`, `"diurnal(period=86400, on=0.4)"`, `"markov(on=600, off=1800)"`. A rule is a
value; `start` gives the presence of a run's clients, which says who is on at a time and until when.
"""

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .rng import stream

Clients = NDArray[np.int64]
TRACE = "trace:"
MOST_RETURNS = 10_000
"""Clients that come back, one after another, before the server gives up waiting for enough of them."""


class NobodyError(RuntimeError):
    """Too few clients are on, and no more will ever be."""


class Presence(ABC):
    """Who of a run's clients is on, at any time."""

    @abstractmethod
    def look(self, clients: Clients, now: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether each of `clients`, (n,), is on at `now`, and the time, later than that, at which it next changes.

        Infinity: never.
        """

    def wait(self, clients: Clients, now: float, least: int) -> float:
        """The first time from `now` on at which `least` of `clients` are on.

        NobodyError if there is none, or none until clients came back `MOST_RETURNS` times.
        """
        began = now
        for _ in range(MOST_RETURNS):
            is_on, until = self.look(clients, now)
            if int(is_on.sum()) >= least:
                return now
            if not math.isfinite(now := float(until[~is_on].min(initial=math.inf))):
                raise NobodyError(
                    f"{int(is_on.sum())} of {len(clients)} clients are on, {least} are needed, and nobody comes back: "
                    "take a longer trace, fewer rounds or a smaller quorum"
                )
        raise NobodyError(
            f"{least} of {len(clients)} clients are needed, and in {now - began:.4g} simulated seconds they were never "
            "on at once: take a smaller quorum, or an availability with more clients on"
        )


class Availability(ABC):
    """A rule of who is on when. Subclasses are frozen dataclasses."""

    @abstractmethod
    def start(self, num_clients: int, seed: int) -> Presence:
        """The presence of clients 0 to `num_clients` − 1, equal for equal seeds; ValueError if a file is no trace."""


@dataclass(frozen=True)
class Always(Availability):
    """Nobody ever leaves."""

    def start(self, num_clients: int, seed: int) -> Presence:
        """Everyone, for ever."""
        return _Everyone()


class _Everyone(Presence):
    def look(self, clients: Clients, now: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        return np.ones(len(clients), bool), np.full(len(clients), math.inf)


@dataclass(frozen=True)
class Diurnal(Availability):
    """Each client is on for a share `on` of every `period`, in seconds, around a time of day of its own.

    These times have the density (1 + cos 2πs) / period, with s the distance from half a period, in periods. So the
    share of clients that is on follows a sine of the day: on − sin(π on)/π · cos(2πt/period), least at t = 0.
    """

    period: float = 86400.0
    on: float = 0.4

    def __post_init__(self) -> None:
        if not self.period > 0:
            raise ValueError(f"diurnal's period is above 0, got {self.period!r}")
        if not 0 < self.on <= 1:
            raise ValueError(f"diurnal's on is a share in (0, 1], got {self.on!r}")

    def start(self, num_clients: int, seed: int) -> Presence:
        """Times of day drawn by `seed`."""
        grid = np.linspace(-0.5, 0.5, 4097)
        places = stream(seed, "availability").random(num_clients)
        offsets = np.interp(places, grid + 0.5 + np.sin(2 * np.pi * grid) / (2 * np.pi), grid)
        return _Days(self, (0.5 + offsets - self.on / 2) * self.period)


@dataclass(frozen=True, eq=False)
class _Days(Presence):
    rule: Diurnal
    starts: NDArray[np.float64]
    """When each client first goes on, in seconds."""

    def look(self, clients: Clients, now: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        period, on = self.rule.period, self.rule.on * self.rule.period
        if self.rule.on == 1:
            return _Everyone().look(clients, now)
        days = np.floor((now - self.starts[clients]) / period)
        began = self.starts[clients] + days * period
        is_on = now < began + on
        return is_on, np.where(is_on, began + on, began + period)


@dataclass(frozen=True)
class Markov(Availability):
    """Each client goes on and off by itself: for exponential times of mean `on` and `off`, in seconds."""

    on: float
    off: float

    def __post_init__(self) -> None:
        for name, mean in {"on": self.on, "off": self.off}.items():
            if not 0 < mean < math.inf:
                raise ValueError(f"markov's {name} is a mean time above 0 seconds, got {mean!r}")

    def start(self, num_clients: int, seed: int) -> Presence:
        """At time 0 a client is on with chance on / (on + off), as at any other time."""
        return _Chains(self, seed)


class _Chains(Presence):
    """The times at which each client changes, drawn a stretch at a time as far as they are asked for."""

    STRETCH = 64

    def __init__(self, rule: Markov, seed: int) -> None:
        self._rule, self._seed = rule, seed
        self._changes: dict[int, list[NDArray[np.float64]]] = {}

    def look(self, clients: Clients, now: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        states = [self._state(int(client), now) for client in clients]
        return np.array([is_on for is_on, _ in states], bool), np.array([until for _, until in states], np.float64)

    def _state(self, client: int, now: float) -> tuple[bool, float]:
        stretches = self._changes.setdefault(client, [])
        while not stretches or stretches[-1][-1] <= now:
            stretches.append(self._stretch(client, len(stretches), stretches[-1][-1] if stretches else 0.0))
        which = next(number for number, changes in enumerate(stretches) if changes[-1] > now)
        place = int(np.searchsorted(stretches[which], now, side="right"))
        num_changes = which * self.STRETCH + place  # even: as at the beginning
        return self._begins_on(client) == (num_changes % 2 == 0), float(stretches[which][place])

    def _stretch(self, client: int, number: int, start: float) -> NDArray[np.float64]:
        # A stretch has an even number of changes, so each begins in the state of time 0.
        times = stream(self._seed, "availability", client, number).standard_exponential(self.STRETCH)
        first, second = (self._rule.on, self._rule.off) if self._begins_on(client) else (self._rule.off, self._rule.on)
        times[0::2] *= first
        times[1::2] *= second
        return start + np.cumsum(times)

    def _begins_on(self, client: int) -> bool:
        chance = self._rule.on / (self._rule.on + self._rule.off)
        return bool(stream(self._seed, "availability", client).random() < chance)


@dataclass(frozen=True)
class Trace(Availability):
    """The intervals of a CSV file with the columns client, on and off: seconds since the start, off after on.

    A client's intervals do not overlap, in any order; "inf" is an off time. Who is not in the file is never on.
    """

    path: str

    def start(self, num_clients: int, seed: int) -> Presence:
        """The file, read; ValueError that names the line which is no interval."""
        return _Intervals(read_trace(Path(self.path), num_clients))


class _Intervals(Presence):
    def __init__(self, intervals: Mapping[int, Sequence[tuple[float, float]]]) -> None:
        # All changes of a client in one ascending array: even places are on times, odd ones off times.
        self._changes = {client: np.array(spans, np.float64).ravel() for client, spans in intervals.items()}

    def look(self, clients: Clients, now: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        is_on, until = np.zeros(len(clients), bool), np.full(len(clients), math.inf)
        for number, client in enumerate(clients.tolist()):
            if (changes := self._changes.get(client)) is not None:
                place = int(np.searchsorted(changes, now, side="right"))
                is_on[number] = place % 2 == 1
                until[number] = changes[place] if place < len(changes) else math.inf
        return is_on, until


def read_trace(path: Path, num_clients: int) -> dict[int, list[tuple[float, float]]]:
    """Each client's intervals (on, off) in seconds, ascending; touching ones are joined.

    ValueError with the line if the file is no such trace, FileNotFoundError if it is not there.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"client", "on", "off"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {rows.fieldnames}, expected client, on and off")
        for row in rows:
            try:
                client, on, off = int(row["client"]), float(row["on"]), float(row["off"])
            except (TypeError, ValueError):
                raise ValueError(f"{path} line {rows.line_num} is no client number and two times: {row}") from None
            if not (0 <= client < num_clients and 0 <= on < off):
                raise ValueError(
                    f"{path} line {rows.line_num}: expected a client from 0 to {num_clients - 1} and 0 ≤ on < off, got "
                    f"client {client}, on {on:g}, off {off:g}"
                )
            found.setdefault(client, []).append((on, off))
    for client, spans in found.items():
        joined: list[tuple[float, float]] = []
        for on, off in sorted(spans):
            if joined and on < joined[-1][1]:
                raise ValueError(f"{path}: client {client} is on from {on:g} s twice, its intervals overlap")
            if joined and on == joined[-1][1]:
                joined[-1] = (joined[-1][0], off)
            else:
                joined.append((on, off))
        found[client] = joined
    return found


RULES: Mapping[str, type[Availability]] = {"always": Always, "diurnal": Diurnal, "markov": Markov}


def parse_availability(text: str) -> Availability:
    """The rule that `text` spells; ValueError that lists the known ones. A trace's file is read by `start`.

    >>> parse_availability("markov(on=600, off=1800)")
    Markov(on=600, off=1800)
    """
    if text.startswith(TRACE):
        if not (path := text.removeprefix(TRACE).strip()):
            raise ValueError('"trace:" needs a file: "trace:phones.csv", with the columns client, on and off')
        return Trace(path)
    try:
        made: Availability = registry.build(text, RULES, "availability", Availability)
    except ValueError as error:
        raise ValueError(f"{error}; or a file, 'trace:FILE.csv'") from None
    return made


def rooted_availability(text: str) -> str:
    """The text with the path of a trace made absolute, for processes that stand elsewhere."""
    rule = parse_availability(text)
    return f"{TRACE}{Path(rule.path).expanduser().absolute()}" if isinstance(rule, Trace) else text
