"""Shadowheart SGD against synchronous schemes on a simulated clock: seconds until f − f* is small.

Every method is given at the best of the same number of settings: steps by batch sizes, or by the noise σ²/ε that sets
Shadowheart's batches. Problem: the homogeneous quadratic with noisy gradients; clients differ in speed only.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fl_mlmc import Compressor, parse
from fl_mlmc.schemes import Direct, Scheme
from fl_mlmc.schemes.ef21_sgdm import EF21SGDM
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.theory.bench import Clock, run
from fl_mlmc.theory.problems import homogeneous
from fl_mlmc.theory.steps import Method

CLIENTS, SIZE = 8, 40
TARGET, SIGMA = 0.05, 1.0
STEPS = (0.5, 0.25)
SEEDS = (0, 1, 2)
BATCHES = (1, 8, 64)
"""Gradients a round; for Shadowheart σ²/ε."""
WHOLE = 32.0 * SIZE
"""Bits of an uncompressed message."""

_SPREAD = tuple(float(2**number) for number in range(CLIENTS))
CLOCKS: Mapping[str, Clock] = {
    "equal clients, messages of 10 s": Clock((1.0,) * CLIENTS, (10 / WHOLE,) * CLIENTS),
    "gradients of 1 to 128 s, fast links": Clock(_SPREAD, (0.1 / WHOLE,) * CLIENTS),
    "messages of 1 to 128 s": Clock((1.0,) * CLIENTS, tuple(each / WHOLE for each in _SPREAD)),
}
METHODS: list[tuple[str, str]] = [
    ("direct", "Identity()"),
    ("direct", "MLMC(TopK(count=4))"),
    ("ef21_sgdm", "TopK(count=4)"),
    ("shadowheart", "RandK(count=4)"),
    ("shadowheart", "MLMC(TopK(count=4))"),
]


def cells() -> list[tuple[str, str, str]]:
    """(clock, scheme, compressor) of every row of the table."""
    return [(clock, *method) for clock in CLOCKS for method in METHODS]


def best(cell: tuple[str, str, str], max_rounds: int = 200) -> dict[str, Any]:
    """The row of a cell: seconds to the target at the best setting, and which that is; None where none gets there.

    The setting with the least mean over the seeds; one that misses the target at a seed is out.
    """
    clock, scheme, compressor = cell
    tries = []
    for step in STEPS:
        for batch in BATCHES:
            runs = [
                _measured(CLOCKS[clock], scheme, parse(compressor), step, batch, max_rounds, seed) for seed in SEEDS
            ]
            seconds, rounds = zip(*runs, strict=True)
            tries.append((float(np.mean(seconds)), min(seconds), max(seconds), float(np.mean(rounds)), step, batch))
    mean, least, largest, mean_rounds, step, batch = min(tries)
    row = {"clock": clock, "scheme": scheme, "compressor": compressor}
    names = ("seconds", "least", "largest", "rounds", "step", "batch or σ²/ε")
    if not np.isfinite(mean):
        return row | dict.fromkeys(names)
    return row | dict(zip(names, (mean, least, largest, mean_rounds, step, batch), strict=True))


def _measured(
    clock: Clock, scheme: str, compressor: Compressor, step: float, batch: int, max_rounds: int, seed: int
) -> tuple[float, int]:
    """Seconds and rounds to the target; infinite if it is not reached."""
    sigma = SIGMA
    if scheme != "shadowheart":  # a batch of gradients takes as long, and has less noise
        clock, sigma = Clock(tuple(batch * each for each in clock.compute), clock.bit), SIGMA / batch**0.5
    if compressor.is_exact:  # the bench sends float64 as two float32, of which one would do here
        clock = Clock(clock.compute, tuple(each / 2 for each in clock.bit))
    schemes: Mapping[str, Scheme] = {
        "direct": Direct(),
        "ef21_sgdm": EF21SGDM(0.1),
        "shadowheart": Shadowheart(float(batch)),
    }
    method = Method(schemes[scheme], compressor, step, None, False)
    trace = run(homogeneous(CLIENTS, SIZE), method, max_rounds, seed, sigma, clock=clock, target=TARGET)
    seconds = trace.seconds_to(TARGET)
    return (float("inf") if seconds is None else seconds), len(trace.errors) - 1
