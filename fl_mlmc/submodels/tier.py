"""Resource tiers: a named class of clients, and the width of the submodel it carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..rng import stream


@dataclass(frozen=True)
class Tier:
    """Clients of one kind: `width` in (0, 1] of every hidden dimension, a `share` in [0, 1] of all clients."""

    name: str
    width: float
    share: float

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a tier needs a name")
        if not 0 < self.width <= 1:
            raise ValueError(f"tier {self.name!r} has width {self.width}, a width lies in (0, 1]")
        if not 0 <= self.share <= 1:
            raise ValueError(f"tier {self.name!r} has share {self.share}, a share lies in [0, 1]")

    def __str__(self) -> str:
        return f"{self.name}:{self.width:g}:{self.share:g}"


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Tiers from "name:width:share,…"; shares add up to 1, names differ."""
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
def assign_tiers(tiers: tuple[Tier, ...], num_clients: int, seed: int) -> np.ndarray:
    """(num_clients,) index of each client's tier: the shares, rounded to whole clients, in an order drawn by seed."""
    exact = np.array([tier.share for tier in tiers]) * num_clients
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: num_clients - counts.sum()]:
        counts[index] += 1
    assigned = stream(seed, "tiers").permutation(np.repeat(np.arange(len(tiers)), counts))
    assigned.flags.writeable = False
    return assigned


def tier_named(tiers: Sequence[Tier], name: str) -> Tier:
    """The tier of that name; ValueError that lists the known ones."""
    for tier in tiers:
        if tier.name == name:
            return tier
    raise ValueError(f"unknown tier {name!r}; known: {', '.join(tier.name for tier in tiers)}")


def _parse_tier(text: str) -> Tier:
    parts = text.split(":")
    try:
        name, width, share = parts
        return Tier(name, float(width), float(share))
    except ValueError as error:
        if len(parts) == 3 and str(error).startswith("tier "):
            raise
        raise ValueError(f"tier {text!r} is not of the form name:width:share, e.g. phone:0.5:0.3") from error
