"""Values as bfloat16, rounded at random: half the bytes, and the estimate stays unbiased.

bfloat16 is the upper half of a float32. Adding random bits to the lower half carries into the upper one with just the
probability that makes the rounding unbiased.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Payload, SeededBlock, SparseBlock
from ..pointwise import random_words

Values = Literal["float32", "bfloat16"]

_LOW = 0xFFFF
_ROUNDING = 2.0**-16  # variance over square: neighbours of 2^E (1 + …) are 2^(E−7) apart


def check_values(values: str, owner: str) -> None:
    """ValueError unless `values` names a format."""
    if values not in get_args(Values):
        raise ValueError(f"{owner}'s values is one of {get_args(Values)}, got {values!r}")


def value_bits(values: Values) -> float:
    """Bits of one value."""
    return 32.0 if values == "float32" else 16.0


def rounded_omega(omega: float, values: Values) -> float:
    """The worst ω once the values of an unbiased compressor with worst case `omega` are rounded: (1+ω)(1+2⁻¹⁶) − 1.

    Rounding a float v at random has variance at most 2⁻¹⁶ v², and E‖C(v)‖² ≤ (1 + ω)‖v‖².
    """
    return omega if values == "float32" else (1 + omega) * (1 + _ROUNDING) - 1


def rounded(payload: Payload, values: Values, rng: np.random.Generator) -> Payload:
    """The payload with its float values rounded at random, or as it is for float32."""
    if values == "float32":
        return payload
    blocks = (_replace(block, lambda v: _round(v, random_words(v.numel(), rng, v.device))) for block in payload.blocks)
    return Payload(payload.size, tuple(blocks))


def rounded_outcomes(outcomes: Iterator[tuple[float, Payload]], values: Values) -> Iterator[tuple[float, Payload]]:
    """The outcomes, each with every way of rounding its values."""
    for chance, payload in outcomes:
        if values == "float32":
            yield chance, payload
            continue
        for ways in product(*(list(_ways(block)) for block in payload.blocks)):
            yield chance * math.prod(share for share, _ in ways), Payload(payload.size, tuple(b for _, b in ways))


def rounding_variance(values: Tensor) -> Tensor:
    """float64 (v − low)(high − v) of each value between its neighbours in bfloat16."""
    words = values.contiguous().view(torch.int32)
    low, high = (bits.view(torch.float32).double() for bits in (words & ~_LOW, (words & ~_LOW) + _LOW + 1))
    return (values.double() - low).abs() * (high - values.double()).abs() * ((words & _LOW) != 0)


def block_variance(block: Block) -> float:
    """Variance that rounding a block's values adds."""
    if isinstance(block, DenseBlock | SparseBlock | SeededBlock):
        return float(rounding_variance(block.values).sum())
    return 0.0


def _round(values: Tensor, words: Tensor) -> Tensor:
    return ((values.contiguous().view(torch.int32) + (words & _LOW)) & ~_LOW).view(torch.float32)


def _ways(block: Block) -> Iterator[tuple[float, Block]]:
    if not isinstance(block, DenseBlock | SparseBlock | SeededBlock):
        yield 1.0, block
        return
    low = block.values.contiguous().view(torch.int32) & ~_LOW
    shares = ((block.values.view(torch.int32) & _LOW).double() / (_LOW + 1)).tolist()
    choices = [(0,) if share == 0 else (0, 1) for share in shares]
    for ups in product(*choices):
        chance = math.prod(p if up else 1 - p for up, p in zip(ups, shares, strict=True))
        values = (low + torch.tensor(ups, dtype=torch.int32) * (_LOW + 1)).view(torch.float32)
        yield chance, _replace(block, lambda _, values=values: values)


def _replace(block: Block, change) -> Block:  # type: ignore[no-untyped-def]
    if isinstance(block, DenseBlock | SparseBlock | SeededBlock):
        return replace(block, values=change(block.values))
    return block
