"""Width rules: which units of a hidden dimension a submodel keeps.

Tensors that follow the same hidden dimension get the same units, whatever the rule: both ends of a residual
connection agree.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .. import own, registry


@dataclass(frozen=True)
class Rule:
    """Picks units, as a pure function of the plan's arguments.

    `pick(units, kept, server_round, rng)` gives `kept` different indices below `units`, int64, ascending. `rng` is
    seeded by the run, the hidden dimension and whichever of round and client the rule looks at. `cuts_depth`: the
    rule keeps whole stages with all their units, instead of some units of every stage.
    """

    pick: Callable[[int, int, int, np.random.Generator], np.ndarray]
    per_round: bool = False
    per_client: bool = False
    cuts_depth: bool = False

    def picked(self, units: int, kept: int, server_round: int, rng: np.random.Generator) -> np.ndarray:
        """What `pick` gives; ValueError if it is not what a pick must be."""
        picked = np.asarray(self.pick(units, kept, server_round, rng))
        steps = np.diff(picked) if picked.ndim == 1 else np.zeros(1)
        if (
            picked.shape != (kept,)
            or picked.dtype.kind != "i"
            or (steps <= 0).any()
            or not 0 <= picked[0] <= picked[-1] < units
        ):
            raise ValueError(
                f"a width rule picks {kept} ascending indices below {units}, it gave {picked.dtype} {picked[:8]} "
                f"of shape {picked.shape}"
            )
        return picked.astype(np.int64, copy=False)


def _first(units: int, kept: int, server_round: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(kept)


def _window(units: int, kept: int, server_round: int, rng: np.random.Generator) -> np.ndarray:
    # Ascending, where the paper keeps the window's own order: units carry no order, and two runs are two slices.
    return np.sort((server_round + np.arange(kept)) % units)


def _subset(units: int, kept: int, server_round: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.choice(units, kept, replace=False))


RULES: Mapping[str, Rule] = {
    # The first units, always: HeteroFL, Diao et al. 2021, arXiv 2010.01264, section 3.
    "nested": Rule(_first),
    # The first units too; the client draws a width up to its own for each minibatch (`OrderedDropout`): FjORD,
    # Horváth et al. 2021, arXiv 2102.13451.
    "ordered-dropout": Rule(_first),
    # A window that moves by one unit a round and wraps around: FedRolex, Alam et al. 2022, arXiv 2212.01548, eq. 2.
    "rolling": Rule(_window, per_round=True),
    # A subset drawn anew for each client and round: federated dropout, Caldas et al. 2018, arXiv 1812.07210.
    "random": Rule(_subset, per_round=True, per_client=True),
    # The first stages, each whole, with their classifiers: DepthFL, Kim et al. 2023 (ICLR).
    "depth": Rule(_first, cuts_depth=True),
}


def rule_named(text: str) -> Rule:
    """The rule that `text` names: one of `RULES`, or "rules.py:mine", a Rule or a function that makes one.

    ValueError that lists the known ones.
    """
    if text in RULES:
        return RULES[text]
    if own.references(text):
        return registry.build(text, {}, "width rule", Rule, own.EVERY)
    raise ValueError(
        f"unknown width rule {text!r}; known: {', '.join(sorted(RULES))}, or one of your own, 'path/to/file.py:NAME'"
    )
