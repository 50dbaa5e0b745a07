"""The simulated clock: how long a client takes for its part in a round. A round lasts as long as its slowest client."""

import math
from dataclasses import dataclass


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
