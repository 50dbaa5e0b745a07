"""Shadowheart SGD against synchronous schemes on a simulated clock: seconds until f − f* is small.

Every method is given at the best of the same number of settings: steps by batch sizes, or by the noise σ²/ε that sets
Shadowheart's batches. Problem: the homogeneous quadratic with noisy gradients; clients differ in their pace only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from fl_mlmc import Compressor, parse
from fl_mlmc.run.clock import Pace
from fl_mlmc.schemes import Direct, Scheme
from fl_mlmc.schemes.ef21_sgdm import EF21SGDM
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.theory.bench import run
from fl_mlmc.theory.problems import homogeneous
from fl_mlmc.theory.theorems import Setup

CLIENTS, SIZE = 8, 40
TARGET, SIGMA = 0.05, 1.0
SEEDS = (0, 1, 2)
STEPS = (1.0, 0.5, 0.25)
BATCHES = (1, 2, 4, 8, 16)
"""Gradients that a client averages in a round, of the synchronous schemes."""
NOISES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""σ²/ε, Shadowheart's setting, from which its clients' batches follow."""
FINALISTS = 3
"""Settings, the best at the first seed, that are run at all seeds."""
WHOLE = 4.0 * SIZE
"""Bytes of an uncompressed message."""

_SPREAD = [2.0**number for number in range(CLIENTS)]
PACES: Mapping[str, Sequence[Pace]] = {
    "equal clients, messages of 10 s": [Pace(1.0, up=WHOLE / 10)] * CLIENTS,
    "gradients of 1 to 128 s, fast links": [Pace(seconds, up=WHOLE / 0.1) for seconds in _SPREAD],
    "messages of 1 to 128 s": [Pace(1.0, up=WHOLE / seconds) for seconds in _SPREAD],
}
"""The clients of each column of the table."""
METHODS: list[tuple[str, str]] = [
    ("direct", "Identity()"),
    ("direct", "MLMC(TopK(count=4))"),
    ("ef21_sgdm", "TopK(count=4)"),
    ("shadowheart", "RandK(count=4)"),
    ("shadowheart", "MLMC(TopK(count=4))"),
]


def cells() -> list[tuple[str, str, str]]:
    """(clock, scheme, compressor) of every row of the table."""
    return [(clock, *method) for clock in PACES for method in METHODS]


def best(cell: tuple[str, str, str], max_rounds: int = 200) -> dict[str, Any]:
    """The row of a cell: seconds to the target at the best setting, and which that is; None where none gets there.

    Every setting is run at the first seed and the best few at all of them; the one with the least mean is the best. One
    that misses the target at a seed is out.
    """
    clock, scheme, compressor = cell

    def measured(step: float, load: float, seed: int) -> tuple[float, int]:
        return _measured(PACES[clock], scheme, parse(compressor), step, load, max_rounds, seed)

    settings = list(product(STEPS, NOISES if scheme == "shadowheart" else BATCHES))
    first = {setting: measured(*setting, SEEDS[0]) for setting in settings}
    tries = []
    for setting in sorted(settings, key=lambda setting: first[setting])[:FINALISTS]:
        runs = [first[setting], *(measured(*setting, seed) for seed in SEEDS[1:])]
        seconds, rounds = zip(*runs, strict=True)
        tries.append((float(np.mean(seconds)), min(seconds), max(seconds), float(np.mean(rounds)), *setting))
    row: dict[str, Any] = {"clock": clock, "scheme": scheme, "compressor": compressor}
    names = ("seconds", "least", "largest", "rounds", "step", "batch or σ²/ε")
    if not np.isfinite(min(tries)[0]):
        return row | dict.fromkeys(names)
    return row | dict(zip(names, min(tries), strict=True))


def _measured(
    paces: Sequence[Pace], scheme: str, compressor: Compressor, step: float, load: float, max_rounds: int, seed: int
) -> tuple[float, int]:
    """Simulated seconds and rounds to the target; infinitely many seconds if it is not reached.

    `load` is the batch of every client, or Shadowheart's σ²/ε.
    """
    sigma = SIGMA
    if scheme != "shadowheart":  # a batch of gradients takes as long, and has less noise
        paces, sigma = [replace(pace, step=load * pace.step) for pace in paces], SIGMA / load**0.5
    if compressor.is_exact:  # the bench sends float64 as two float32, of which one would do here
        paces = [replace(pace, up=2 * pace.up) for pace in paces]
    schemes: Mapping[str, Scheme] = {
        "direct": Direct(),
        "ef21_sgdm": EF21SGDM(0.1),
        "shadowheart": Shadowheart(load),
    }
    setup = Setup(schemes[scheme], compressor, step, None, False)
    trace = run(homogeneous(CLIENTS, SIZE), setup, max_rounds, seed, sigma, paces=paces, target=TARGET)
    seconds = trace.seconds_to(TARGET)
    return (float("inf") if seconds is None else seconds), len(trace.errors) - 1
