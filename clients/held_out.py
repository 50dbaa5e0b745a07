"""The part of a client's examples that it keeps to evaluate models on, and never trains on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.run.rng import stream


@dataclass(frozen=True, eq=False)
class Division:
    """The places of a client's examples, int64, ascending: those that it trains on, and those held out."""

    training: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @classmethod
    def draw(cls, num_examples: int, share: float, seed: int, client: int) -> "Division":
        """Hold out `share` of the examples, at least one if it is not 0, and never all: one example is trained on.

        The same ones in every round of a run.
        """
        wanted = max(1, round(share * num_examples)) if share else 0
        count = min(wanted, num_examples - 1)
        order = stream(seed, "held-out", client).permutation(num_examples) if count else np.arange(num_examples)
        return cls(np.sort(order[count:]), np.sort(order[:count]))
