"""What the values of a sparsifier travel as: float32, bfloat16, or any unbiased quantiser of theirs.

`RandK(fraction=0.01, values=Dither(unit=2.0))` draws coordinates, and quantises those that it keeps as a vector of
their own. For an unbiased C over an unbiased quantiser Q of its values, ω = (1 + ω_C)(1 + ω_Q) − 1, as Q's error is
relative to the values' own energy: E‖Q(C(v))‖² = E‖C(v)‖² (1 + ω_Q).
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Protocol

import numpy as np
from torch import Tensor

from ..blocks import Block, Payload
from ..ladders.identity import Identity
from ..pointwise import energy
from .base import Compressed, Compressor
from .bfloat16 import BFloat16

Values = str | Compressor
"""One of the names in `NAMED`, or an unbiased compressor that says of itself that it is a quantiser, or its text."""

NAMED = ("float32", "bfloat16")


class TakesValues(Protocol):
    """A compressor with the option `values`."""

    @property
    def values(self) -> Values:
        """How the values travel that it keeps."""


def read_values(owner: TakesValues) -> None:
    """Put in place of the owner's `values` what their text means: "Dither(unit=2.0)" is that compressor.

    ValueError unless they name a format, or are an unbiased quantiser.
    """
    values, name = owner.values, type(owner).__name__
    known = f"{name}'s values is 'float32', 'bfloat16' or an unbiased quantiser such as Dither(unit=2.0)"
    if isinstance(values, str) and values not in NAMED:
        from .. import parse  # which knows of all compressors, those with values too

        try:
            values = parse(values)
        except ValueError as error:
            raise ValueError(f"{known}, got {values!r}: {error}") from error
        object.__setattr__(owner, "values", values)
    if not isinstance(values, Compressor):
        if values not in NAMED:
            raise ValueError(f"{known}, got {values!r}")
    elif not values.is_unbiased:
        raise ValueError(f"{known}; {values!r} is biased")
    elif not values.is_quantiser:
        raise ValueError(f"{known}; {values!r} leaves coordinates out, or does not say that it keeps all of them")


def quantiser(values: Values) -> Compressor:
    """The compressor that values go through."""
    if isinstance(values, Compressor):
        return values
    return Identity() if values == "float32" else BFloat16()


def value_bits(values: Values) -> float:
    """Bits of one value, where a formula counts them one by one: 32, but for bfloat16."""
    return 16.0 if values == "bfloat16" else 32.0


def quantised(sent: Compressed, values: Values, rng: np.random.Generator) -> Compressed:
    """What travels once the floats of each block are quantised; where they are not floats any more, as many bits fewer.

    The bits of a formula stay where `values` is a name, whose `value_bits` it has.
    """
    if values == "float32":
        return sent
    inner, blocks, bits = quantiser(values), [], sent.expected_bits
    for block in sent.payload.blocks:
        floats = block.floats()
        if floats is None or floats.numel() == 0:
            blocks.append(block)
            continue
        coded = inner.compress(floats, rng if values in NAMED else block.rng_of_values(rng))
        held = block.holding(coded.payload)
        blocks.extend(held)
        if values not in NAMED:
            shared = block.seed_bits + sum(each.seed_bits for each in coded.payload.blocks)
            shared -= sum(each.seed_bits for each in held)
            bits += coded.expected_bits - 32.0 * floats.numel() - shared
    return Compressed(Payload(sent.payload.size, tuple(blocks)), bits, sent.levels, sent.probabilities)


def quantised_outcomes(outcomes: Iterator[tuple[float, Payload]], values: Values) -> Iterator[tuple[float, Payload]]:
    """The outcomes, each with every outcome of its values."""
    inner = quantiser(values)
    for chance, payload in outcomes:
        if values == "float32":
            yield chance, payload
            continue
        ways: list[list[tuple[float, tuple[Block, ...]]]] = []
        for block in payload.blocks:
            floats = block.floats()
            if floats is None or floats.numel() == 0:
                ways.append([(1.0, (block,))])
            else:
                ways.append([(share, block.holding(coded)) for share, coded in inner.outcomes(floats)])
        for chosen in product(*ways):
            blocks = tuple(block for _, several in chosen for block in several)
            yield chance * math.prod(share for share, _ in chosen), Payload(payload.size, blocks)


def error_of(floats: Tensor, values: Values) -> float | None:
    """E‖Q(w) − w‖² of values w; None where that of their quantiser is no sum over coordinates, and not even."""
    inner = quantiser(values)
    if inner.even_omega is not None:
        return inner.even_omega * energy(floats)
    variances = inner.variances(floats)
    return None if variances is None else float(variances.sum())


def composed(omega: float | None, inner: float | None) -> float | None:
    """(1 + ω)(1 + ω_Q) − 1, None where one of them is not known."""
    if omega is None or inner is None:
        return None
    return omega + inner + omega * inner


def worst_composed(omega: float | None, values: Values, count: int) -> float | None:
    """The worst ω of C over a quantiser, of a C with worst case `omega` that sends `count` values at most."""
    return composed(omega, quantiser(values).worst_omega(max(count, 1)))


def longest_values(values: Values, count: int) -> int:
    """The most bytes of `count` values: as floats, or as the quantiser's blocks where these are sure to be shorter."""
    if values == "float32":
        return 4 * count
    length = quantiser(values).longest(count)
    return 4 * count if length is None else min(length, 4 * count)
