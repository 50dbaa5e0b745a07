"""Width rules: which units of a hidden dimension a submodel keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rule:
    """Picks units, as a pure function of the plan's arguments.

    `pick(units, kept, server_round, rng)` gives `kept` different indices below `units`, int64. `rng` is seeded by
    the run, the hidden dimension and whichever of round and client the rule looks at.
    """

    pick: Callable[[int, int, int, np.random.Generator], np.ndarray]
    per_round: bool = False
    per_client: bool = False


def _nested(units: int, kept: int, server_round: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(kept)


RULES: Mapping[str, Rule] = {
    "nested": Rule(_nested),  # the first units, always: HeteroFL, Diao et al. 2021, arXiv 2010.01264
}


def rule_named(name: str) -> Rule:
    """The rule of that name; ValueError that lists the known ones."""
    if name not in RULES:
        raise ValueError(f"unknown width rule {name!r}; known: {', '.join(sorted(RULES))}")
    return RULES[name]
