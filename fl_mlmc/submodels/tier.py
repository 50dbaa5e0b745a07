"""Resource tiers: a named class of clients, and the width of the submodel it carries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from ..run.clock import Pace
from ..run.rng import stream

PARAMETER_STEPS_PER_SECOND = 1e8
"""What a client of speed 1 does: a training step of a submodel of 100 million parameters takes it a second."""


@dataclass(frozen=True)
class Tier:
    """Clients of one kind: `width` in (0, 1] of every hidden dimension, a `share` in [0, 1] of all clients.

    As text "name:width:share", with options after it: "phone:0.5:0.3:speed=0.2:up=1e6:down=8e6:seconds=2:memory=1e9".
    """

    name: str
    width: float
    share: float
    speed: float = 1.0
    """Relative compute speed, see `pace`."""
    up: float = math.inf
    """Uplink, bytes a second."""
    down: float = math.inf
    """Downlink, bytes a second."""
    bytes: float = math.inf
    """Most bytes of a payload that a client sends in a round: see `Budget` among the compressors."""
    seconds: float = math.inf
    """Budget of one training step, for clients that measure which tier they are of."""
    memory: float = math.inf
    """Budget of one training step in bytes, likewise."""
    cpus: float | None = None
    """Processors that a simulated client takes, and threads that it computes with; None: the run's `client-cpus`."""
    gpus: float | None = None
    """GPUs that a simulated client takes, a fraction shares one; None: the run's `client-gpus`."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tier needs a name")
        if not 0 < self.width <= 1:
            raise ValueError(f"tier {self.name!r} has width {self.width}, a width lies in (0, 1]")
        if not 0 <= self.share <= 1:
            raise ValueError(f"tier {self.name!r} has share {self.share}, a share lies in [0, 1]")
        for option in self._stated & set(TIER_OPTIONS):
            value, may_be_zero = getattr(self, option), option == "gpus"
            if not (value > 0 or (may_be_zero and value == 0)):
                least = "0 or more" if may_be_zero else "above 0"
                raise ValueError(f"tier {self.name!r} has {option} {value}, expected a number {least}")

    def __str__(self) -> str:
        options = (f":{option}={getattr(self, option):.15g}" for option in TIER_OPTIONS if option in self._stated)
        return f"{self.name}:{self.width:.15g}:{self.share:.15g}{''.join(options)}"

    @property
    def uplink_budget(self) -> int:
        """`bytes` as a whole number, 0 where there is no such limit."""
        return int(self.bytes) if self.bytes < math.inf else 0

    def pace(self, num_parameters: int) -> Pace:
        """How fast a client of this tier is with a submodel of `num_parameters`, on the simulated clock."""
        return Pace(num_parameters, self.speed * PARAMETER_STEPS_PER_SECOND, self.up, self.down)

    @property
    def _stated(self) -> set[str]:
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}


TIER_OPTIONS = ("speed", "up", "down", "bytes", "seconds", "memory", "cpus", "gpus")


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Tiers from "name:width:share,…", each with options as in `Tier`.

    ValueError that quotes the part that is no tier; or if shares do not add up to 1, or two names are the same.
    """
    tiers = tuple(_parse_tier(part.strip()) for part in text.split(","))
    names = [tier.name for tier in tiers]
    if len(set(names)) < len(names):
        raise ValueError(f"tier names must differ, got {', '.join(names)}")
    total = sum(tier.share for tier in tiers)
    if abs(total - 1) > 1e-6:
        shares = ", ".join(f"{tier.name} {tier.share:g}" for tier in tiers)
        raise ValueError(f"tier shares must add up to 1, they add up to {total:g} ({shares})")
    return tiers


@lru_cache(maxsize=8)
def assign_tiers(
    tiers: tuple[Tier, ...], num_clients: int, seed: int, assignment: str = "shares", server_round: int = 0
) -> np.ndarray:
    """(num_clients,) index of each client's tier.

    `assignment` is "shares" (the shares, rounded to whole clients, in an order drawn by seed), "redrawn" (in every
    round each client draws its tier by the shares, HeteroFL's dynamic setting), or a list of clients such as
    "0-29:sensor,30-49:phone,50:gateway".
    """
    if assignment == "shares":
        assigned = _by_shares(tiers, num_clients, seed)
    elif assignment == "redrawn":
        shares = np.array([tier.share for tier in tiers])
        rng = stream(seed, "tiers", server_round)
        assigned = rng.choice(len(tiers), num_clients, p=shares / shares.sum())
    else:
        assigned = _by_list(tiers, num_clients, assignment)
    assigned.flags.writeable = False
    return assigned


def _by_shares(tiers: Sequence[Tier], num_clients: int, seed: int) -> np.ndarray:
    exact = np.array([tier.share for tier in tiers]) * num_clients
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: num_clients - counts.sum()]:
        counts[index] += 1
    return stream(seed, "tiers").permutation(np.repeat(np.arange(len(tiers)), counts))


def _by_list(tiers: Sequence[Tier], num_clients: int, text: str) -> np.ndarray:
    assigned = np.full(num_clients, -1)
    for part in text.split(","):
        clients, _, name = part.strip().partition(":")
        first, _, last = clients.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(
                f"tier assignment {text!r}: {part.strip()!r} is not of the form FIRST-LAST:tier or CLIENT:tier; "
                'else the assignment is "shares" or "redrawn"'
            )
        start, stop = int(first), int(last or first) + 1
        if not start < stop <= num_clients:
            raise ValueError(f"tier assignment {part.strip()!r} does not lie in clients 0 to {num_clients - 1}")
        if (assigned[start:stop] >= 0).any():
            raise ValueError(f"tier assignment {part.strip()!r} names clients that have a tier already")
        assigned[start:stop] = list(tiers).index(tier_named(tiers, name))
    if (assigned < 0).any():
        missing = np.flatnonzero(assigned < 0)
        raise ValueError(f"tier assignment {text!r} leaves {len(missing)} clients without a tier, first {missing[0]}")
    return assigned


def tier_named(tiers: Sequence[Tier], name: str) -> Tier:
    """The tier of that name; ValueError that lists the known ones."""
    for tier in tiers:
        if tier.name == name:
            return tier
    raise ValueError(f"unknown tier {name!r}; known: {', '.join(tier.name for tier in tiers)}")


def _parse_tier(text: str) -> Tier:
    parts = text.split(":")
    options = dict(part.partition("=")[::2] for part in parts[3:])
    unknown = sorted(set(options) - set(TIER_OPTIONS))
    if unknown:
        raise ValueError(f"tier {text!r} has unknown option {unknown[0]!r}; known: {', '.join(TIER_OPTIONS)}")
    try:
        name, width, share = parts[:3]
        numbers = {option: float(value) for option, value in options.items()}
        return Tier(name, float(width), float(share), **numbers)
    except ValueError as error:
        if len(parts) >= 3 and str(error).startswith(("tier ", "a tier ")):
            raise
        raise ValueError(
            f"tier {text!r} is not of the form name:width:share, e.g. phone:0.5:0.3 or phone:0.5:0.3:speed=0.2:up=1e6"
        ) from error
