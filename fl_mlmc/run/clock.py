"""The simulated clock: what turns a tier, a model's size, steps and bytes into seconds.

A phone at speed 0.1 that trains 4 steps of a submodel of 1 million parameters, fetched and sent at 1 MB/s in 4 MB and
0.2 MB, takes 4 + 4 · 10⁶ / (0.1 · 10⁸) + 0.2 = 4.6 seconds:

>>> Pace(step=1e6, speed=0.1e8, up=1e6, down=1e6).seconds(num_steps=4, uplink_bytes=2e5, downlink_bytes=4e6)
4.6

Every run is timed by this one formula; a round lasts until the last of its replies is in. Two draws may stretch it,
each a factor (`slowdown`): `stragglers` is a client's for the whole run, `jitter` is new in every round. Both follow
from the run's seed, so equal runs take equal times on every engine.
"""

import math
from dataclasses import dataclass, field, replace

from .rng import stream
from .slowdown import Even, Slowdown


@dataclass(frozen=True)
class Pace:
    """How fast one client computes and sends, on the simulated clock."""

    step: float
    """The work of one training step, or of one gradient: the seconds that it takes at speed 1."""
    speed: float = 1.0
    """Work done in a second."""
    up: float = math.inf
    """Uplink, bytes a second."""
    down: float = math.inf
    """Downlink, bytes a second."""

    def seconds(self, num_steps: float, uplink_bytes: float, downlink_bytes: float = 0.0) -> float:
        """The time of one part in a round, in seconds: the download, then all steps, then the upload.

        They follow each other: a client cannot compress a sum of gradients before it has the last of them.
        """
        return downlink_bytes / self.down + self.step * num_steps / self.speed + uplink_bytes / self.up

    def slowed(self, factor: float) -> "Pace":
        """The pace of a client that takes `factor` times as long for everything."""
        return replace(self, speed=self.speed / factor, up=self.up / factor, down=self.down / factor)


@dataclass(frozen=True)
class Clock:
    """How much longer than its tier says each client takes, by the run's `seed`."""

    seed: int
    jitter: Slowdown = field(default_factory=Even)
    """Drawn for each client in each round."""
    stragglers: Slowdown = field(default_factory=Even)
    """Drawn for each client, once a run."""

    def pace(self, usual: Pace, client: int, server_round: int) -> Pace:
        """The pace of a client in a round whose `usual` pace is that of its tier."""
        if self.is_even:
            return usual
        own = self.stragglers.factor(stream(self.seed, "straggler", client))
        now = self.jitter.factor(stream(self.seed, "jitter", server_round, client))
        return usual.slowed(own * now)

    @property
    def is_even(self) -> bool:
        """Whether all take as long as their tier says."""
        return isinstance(self.jitter, Even) and isinstance(self.stragglers, Even)
