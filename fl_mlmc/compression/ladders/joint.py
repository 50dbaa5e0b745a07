"""Several blocks of symbols as one: a letter for each sum of letters that occurs, so signs and headers travel once."""

from collections.abc import Iterable

import numpy as np
import torch

from ..blocks import Block, Lattice, SymbolBlock, Table
from ..pointwise import pointwise, tally

_MOST_PAIRS, _MOST_LETTERS = 1 << 20, 1 << 15


def joined(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """`blocks` with those of symbols added up wherever the sum is shorter than its parts."""
    done: list[Block] = []
    for block in blocks:
        last = done[-1] if done else None
        both = _sum(last, block) if isinstance(last, SymbolBlock) and isinstance(block, SymbolBlock) else None
        if both is None:
            done.append(block)
        else:
            done[-1] = both
    return tuple(done)


def lettered(pairs: torch.Tensor, counts: np.ndarray, used: np.ndarray, values: np.ndarray) -> SymbolBlock:
    """A block with a letter for each value: number `used[i]` of `pairs`, all below counts.size, means `values[i]`."""
    _, first, letters = np.unique(values.astype(np.float32), return_index=True, return_inverse=True)
    rename = np.zeros(counts.size, np.uint8 if first.size <= 256 else np.int16)
    rename[used] = letters
    table = torch.from_numpy(rename).to(pairs.device)
    symbols = pointwise(lambda part: table[part.int()], table.dtype, pairs, kernel=("look_up", rename))
    return SymbolBlock(symbols, Table(values[first]), np.bincount(letters, counts[used]).astype(np.int64))


def _sum(first: SymbolBlock, second: SymbolBlock) -> SymbolBlock | None:
    """The two as one block, None where that is longer or has too many letters."""
    width = second.alphabet.count
    if first.alphabet.count * width > _MOST_PAIRS:
        return None
    pairs = pointwise(lambda a, b: a.int().mul_(width).add_(b), torch.int32, first.symbols, second.symbols)
    counts = tally(pairs, first.alphabet.count * width)
    used = np.flatnonzero(counts)
    values = _values(first)[used // width] + _values(second)[used % width]
    num_letters = np.unique(values.astype(np.float32)).size
    if num_letters > _MOST_LETTERS:
        return None
    grid = counts.reshape(-1, width)
    apart = _length(first, grid.sum(axis=1)) + _length(second, grid.sum(axis=0))
    both = lettered(pairs, counts, used, values)
    return both if _length(both, both.counts) <= apart else None  # type: ignore[arg-type]


def _values(block: SymbolBlock) -> np.ndarray:
    alphabet = block.alphabet
    return alphabet.entries if isinstance(alphabet, Table) else alphabet.values().astype(np.float64)


def _length(block: SymbolBlock, counts: np.ndarray) -> float:
    """About how many bytes a block takes."""
    described = 21 if isinstance(block.alphabet, Lattice) else 9 + 4 * block.alphabet.count
    shares = counts[counts > 0] / block.size
    bits = float(-(shares * np.log2(shares)).sum())
    # Short streams are packed, as a code's description would be longer.
    packed = 8 / max(1, int(8 / np.log2(max(2, block.alphabet.count))))
    return described + block.size / 8 * min(packed, bits + 500 / block.size)
