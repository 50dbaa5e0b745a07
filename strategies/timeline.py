"""A run's simulated time on the server: what the clock reads, who is on, and how long each reply takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fl_mlmc.run.config import RunConfig

from .round import Reading, Sent


@dataclass(frozen=True)
class Stay:
    """How long a client's part takes, in simulated seconds from its start, and how long it is waited for."""

    needed: float
    left: float = math.inf
    """Until it goes off."""
    deadline: float = math.inf
    """Until nobody is waited for any more."""

    @property
    def reason(self) -> str:
        """Why there is no reply, if the client leaves or is late; empty if there is one."""
        if self.seconds >= self.needed:
            return ""
        if self.left <= self.deadline:
            return f"it left after {self.left:.4g} s of {self.needed:.4g} s"
        return f"it needed {self.needed:.4g} s, the deadline is {self.deadline:.4g} s"

    @property
    def seconds(self) -> float:
        """Until the reply is there, the client is gone, or the deadline is over."""
        return min(self.needed, self.left, self.deadline)


class Timeline:
    """The simulated clock of a run, from 0. It stands still while a round is open; `advance` closes it.

    ValueError where the availability's file is no trace.
    """

    def __init__(self, config: RunConfig) -> None:
        self.now = 0.0
        """Simulated seconds since the run began."""
        self._clock = config.time.clock(config.seed)
        self._is_always = config.time.is_always
        self._presence = config.time.parsed_availability.start(config.cohort.num_clients, config.seed)

    def present(self, clients: Sequence[int], least: int) -> tuple[Sequence[int], float]:
        """Those of `clients` that are on, ascending, and the seconds that the clock had to go on until `least` are.

        NobodyError if so many never are.
        """
        if self._is_always:
            return clients, 0.0
        everyone = np.asarray(clients, np.int64)
        then = self._presence.wait(everyone, self.now, min(least, len(clients)))
        waited, self.now = then - self.now, then
        return self.on(clients), waited

    def on(self, clients: Sequence[int]) -> Sequence[int]:
        """Those of `clients` that are on now."""
        if self._is_always:
            return clients
        everyone = np.asarray(clients, np.int64)
        return everyone[self._presence.look(everyone, self.now)[0]].tolist()

    def stay(self, sent: Sent, num_steps: int, uplink_bytes: int, deadline: float = math.inf) -> Stay:
        """How long a client's part takes that begins now; of what it was `sent`, an anchor was there before.

        `num_steps` and `uplink_bytes` are what it did and sent; `deadline` in seconds from now.
        """
        client = sent.task.client
        pace = self._clock.pace(sent.seat.tier.pace(sent.plan.size), client, sent.task.server_round)
        needed = pace.seconds(num_steps, uplink_bytes, sent.downlink_bytes - sent.anchor_bytes)
        if self._is_always:
            return Stay(needed, deadline=deadline)
        _, until = self._presence.look(np.array([client]), self.now)
        return Stay(needed, float(until[0]) - self.now, deadline)

    def advance(self, seconds: float) -> None:
        """The round took so long."""
        self.now += seconds


def the_first(readings: Sequence[Reading], wanted: int) -> list[Reading]:
    """The same readings in their order, but of the good ones the first `wanted` on the clock alone; 0: all.

    Ties go by client number. The round is over for the others, and nobody was waited for any longer.
    """
    good = [reading.answer for reading in readings if not reading.answer.reason]
    by_time = sorted((answer.simulated_seconds or 0.0, answer.sent.task.client) for answer in good)
    if not wanted or len(by_time) < wanted:
        return list(readings)
    end = by_time[wanted - 1]

    def cut(reading: Reading) -> Reading:
        answer = reading.answer
        seconds = answer.simulated_seconds or 0.0
        if (seconds, answer.sent.task.client) <= end and not answer.reason:
            return reading
        reason = answer.reason or f"it needed {seconds:.4g} s, the round was over after {end[0]:.4g} s"
        waited = None if answer.simulated_seconds is None else min(seconds, end[0])
        return Reading(replace(answer, update=None, reason=reason, simulated_seconds=waited))

    return [cut(reading) for reading in readings]
