"""A budget of bytes in place of options: of several families the member whose ω is least for the vector at hand.

`Budget(bytes=4000)` looks at the update, fills the bytes with each family in turn, and sends it by the one with the
least ω: whole steps under a dither where they fit; where they do not, a sample of the coordinates with dithered values,
as keeping bits · (1 + ω) constant is cheaper than a coarser lattice; the largest coordinates where the tails are heavy.
A vector that fits as it is loses nothing.

Payloads are never longer than the budget. How long they are depends on draws, and the choice must not, or it would be a
bias. So lengths are tried with draws of fixed seeds, some room is left, and a draw that is longer all the same is
compressed once more, by a sparsifier that is sure to fit: an unbiased estimate of an unbiased estimate.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload
from ..ladders.identity import Identity
from ..ladders.top_k import TopK
from ..wire import encode_payload
from .base import Compressed, Compressor
from .dither import Dither
from .mlmc import MLMC
from .rand_k import RandK
from .systematic import Systematic

LEAST_BYTES = 14
"""Of an empty payload, the zero vector's: the header."""

_COARSEST = 2.8  # unit from which on sampling is cheaper than a coarser lattice
_FINEST = 2.0**-9
_FEWEST_BITS = 0.02  # a coordinate that a dither may take
_TRIES = 3  # payloads of what is to fit
_ROOM, _ROOM_BYTES = 0.03, 6  # left for draws that are longer
_STEPS = 6
_NEAR = 1.01  # this near to the most that fits

Family = Callable[[float], Compressor]


@dataclass(frozen=True, repr=False)
class Budget(Compressor):
    """Unbiased, in at most `bytes` bytes a payload, 14 or more.

    ValueError for a vector that is not zero where they hold not even one of its coordinates: 31 bytes always do.
    """

    bytes: int

    def __post_init__(self) -> None:
        if not isinstance(self.bytes, int) or isinstance(self.bytes, bool) or self.bytes < LEAST_BYTES:
            raise ValueError(
                f"Budget's bytes is a whole number of at least {LEAST_BYTES}, the length of an empty payload, "
                f"got {self.bytes!r}"
            )

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A payload of what `chosen` gives, which the log names; an empty one for zero."""
        if not vector.any():
            return Compressed(Payload(vector.numel()), 0.0)
        chosen = self.chosen(vector)
        sent = chosen.compress(vector, rng)
        if not self._fits(sent.payload):
            sent = self.sure(vector.numel()).compress(sent.payload.dense().to(vector.device), rng)
        return replace(sent, chosen=repr(chosen))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Those of the compressor that is chosen; where they are too long, those of what fits in their place."""
        if not vector.any():
            yield 1.0, Payload(vector.numel())
            return
        chosen = self.chosen(vector)
        for chance, payload in chosen.outcomes(vector):
            if self._fits(payload) or not chosen.lists_outcomes:
                yield chance, payload
                continue
            for share, rest in self.sure(vector.numel()).outcomes(payload.dense()):
                yield chance * share, rest

    @property
    def lists_outcomes(self) -> bool:
        """No: a dither may be chosen."""
        return False

    def omega(self, vector: Tensor) -> float | None:
        """That of the compressor that is chosen; draws that are compressed once more, one in thousands, aside."""
        return self.chosen(vector).omega(vector) if vector.any() else 0.0

    @property
    def is_whole(self) -> bool:
        """No: what is chosen may leave coordinates out."""
        return False

    def longest(self, size: int) -> int:
        """`bytes`."""
        return self.bytes

    def shortened(self, size: int, budget: int) -> "Budget":
        """With fewer bytes, if need be; ValueError where these hold not even one coordinate."""
        shorter = self if self.bytes <= budget else Budget(max(budget, LEAST_BYTES))
        if budget < LEAST_BYTES:
            raise ValueError(f"{budget} bytes does not hold a payload of one coordinate, nor an empty one")
        shorter.sure(size)
        return shorter

    def sure(self, size: int) -> Compressor:
        """The compressor with the least worst ω of those no payload of which, of `size` coordinates, is too long.

        ValueError where there is none.
        """
        return min(self._all_sure(size), key=lambda each: each.worst_omega(size) or 0.0)

    def chosen(self, vector: Tensor) -> Compressor:
        """The compressor of the least ω(v) whose payloads fit; a function of the vector alone."""
        size = vector.numel()
        if 4 * int(torch.count_nonzero(vector)) <= self.bytes and self._length(Identity(), vector, 1) <= self.bytes:
            return Identity()
        measured = [(each.omega(vector), each) for each in self._all_sure(size)]
        least, best = min(((omega, each) for omega, each in measured if omega is not None), key=lambda pair: pair[0])
        for find in (self._finest, self._widest_sample, *map(self._widest_of, _OF_THE_LARGEST)):
            found = find(vector, least)
            omega = None if found is None else found.omega(vector)
            if found is not None and omega is not None and omega < least:
                best, least = found, omega
        return best

    def _finest(self, vector: Tensor, least: float) -> Compressor | None:
        """The dither with the least unit that fits, by bisection; None if a unit of 2.8 does not."""
        if 8 * self.bytes < _FEWEST_BITS * vector.numel() or not self._takes(Dither(_COARSEST), vector):
            return None
        fits, too_long = _COARSEST, _FINEST
        while fits / too_long > _NEAR:
            unit = _rounded((fits * too_long) ** 0.5)
            if self._takes(Dither(unit), vector):
                fits = unit
            else:
                too_long = unit
        return Dither(fits)

    def _widest_sample(self, vector: Tensor, least: float) -> Compressor | None:
        """Dithered values of any coordinates, as many as fit."""
        return self._widest(vector, _sampled)

    def _widest_of(self, family: Family) -> Callable[[Tensor, float], Compressor | None]:
        """The most that fit of a family of large coordinates; None if even more than that have an ω above `least`."""

        def widest(vector: Tensor, least: float) -> Compressor | None:
            optimistic = family(self._most_places(vector.numel()) / vector.numel()).omega(vector)
            hopeless = optimistic is not None and optimistic >= least
            return None if hopeless else self._widest(vector, family)

        return widest

    def _most_places(self, size: int) -> float:
        """Coordinates whose places alone and one bit of each, log2 C(d, k) + k, are as long as the budget."""
        count = 8.0 * self.bytes
        for _ in range(30):
            count = min(8 * self.bytes / (math.log2(max(size / count, 1)) + 1), float(size))
        return max(count, 1.0)

    def _widest(self, vector: Tensor, family: Family) -> Compressor | None:
        """The member of a family that keeps the most coordinates, from length to length by the rule of three."""
        size = vector.numel()
        best, count = 0.0, float(max(min(self.bytes // 2, size), 1))
        for _ in range(_STEPS):
            share = _rounded(count / size)
            length = self._length(family(share), vector, 1)
            if length <= self._roomy and self._takes(family(share), vector):
                best = max(best, share)
            following = count * max(self._roomy - _FIXED, 1) / max(length - _FIXED, 1) * 0.998
            following = min(max(following, 1.0), float(size))
            if following <= best * size * _NEAR or following == count:
                break
            count = following
        return family(best) if best else None

    @property
    def _roomy(self) -> int:
        return int(self.bytes * (1 - _ROOM)) - _ROOM_BYTES

    def _takes(self, compressor: Compressor, vector: Tensor) -> bool:
        """Whether some payloads leave the room that others may take."""
        return self._length(compressor, vector, _TRIES) <= self._roomy

    def _length(self, compressor: Compressor, vector: Tensor, tries: int) -> int:
        """The longest of some payloads, always drawn alike."""
        drawn = (compressor.compress(vector, np.random.default_rng(seed)).payload for seed in range(tries))
        return max(len(encode_payload(payload)) for payload in drawn)

    def _fits(self, payload: Payload) -> bool:
        return len(encode_payload(payload)) <= self.bytes

    def _all_sure(self, size: int) -> list[Compressor]:
        """Those that are sure to fit; ValueError where there are none."""
        found: list[Compressor] = []
        for whole in _SPARSIFIERS:
            with suppress(ValueError):  # not even one coordinate
                found.append(whole.shortened(size, self.bytes))
        if not found:
            raise ValueError(
                f"a budget of {self.bytes} bytes does not hold a payload of one coordinate of {size}, 31 bytes do: "
                "raise it"
            )
        return found


_FIXED = 45  # bytes that do not grow with the coordinates

_SPARSIFIERS: tuple[Compressor, ...] = (
    Systematic(fraction=1.0),
    RandK(fraction=1.0),
    RandK(fraction=1.0, values="bfloat16"),
    RandK(fraction=1.0, values=Dither(_COARSEST)),
)
"""Payloads of these have a known longest one."""

_OF_THE_LARGEST: tuple[Family, ...] = (
    lambda fraction: MLMC(TopK(fraction=fraction), values=Dither(1.0)),
    lambda fraction: MLMC(TopK(fraction=fraction), values=Dither(2.0)),
    lambda fraction: Systematic(fraction=fraction),
)
"""Families by the share of coordinates that they keep; the places of these travel."""


def _sampled(fraction: float) -> RandK:
    """Any coordinates, whose places follow from a seed."""
    return RandK(fraction=fraction, values=Dither(_COARSEST))


def _rounded(number: float) -> float:
    """Four digits of it, as the log will show."""
    return float(f"{number:.4g}")
