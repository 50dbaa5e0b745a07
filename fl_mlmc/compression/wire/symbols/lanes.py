"""Mode 9, rANS of long streams: many states side by side, so that no loop waits for one of them.

Block i belongs to lane i mod L, and every L blocks the states take the words they need in the order of the lanes
(Fabian Giesen 2014, arXiv 1402.3392). States have 40 bits, so that float64 divides them without an error.

>>> symbols = np.random.default_rng(0).choice(np.arange(3, dtype=np.uint8), 6000, p=[0.6, 0.3, 0.1])
>>> counts = np.bincount(symbols)
>>> bits = float(counts @ np.log2(6000 / counts))
>>> coded = encode_lanes(symbols, counts, bits)
>>> round(bits / 8), len(coded)
(962, 973)
>>> bool((decode_lanes(memoryview(coded), 6000, 3, Budget(10_000)) == symbols).all())
True
"""

import math

import numpy as np

from ...kernels import kernel_for
from ..errors import WireError
from ..limits import Budget
from .packed import BYTE
from .rans_model import (
    BITS,
    TOTAL,
    block_shares,
    decode_model,
    encode_model,
    frequencies,
    group_size,
    join,
)

MOST_LETTERS = 1 << 12
"""Alphabets with more letters are refused."""

_LOW, _WORD = 24, 16  # states are 2^24 to 2^40 between steps; words that leave them have 16 bits
_STATE_BYTES = 5  # of 8 that a number has in memory
_MOST_KINDS = 1 << 12  # of blocks
_LOSS = 0.004  # share of the bits that rare blocks may take from frequent ones
_MOST_LOSS = 0.007  # the same, for blocks of one letter
_MOST_GAPS = 1.25  # letters from the first to the last over those that occur
_LANE_BITS = 1 << 12  # of entropy that pay for the 32 bits of another lane
_MOST_LANES, _MOST_STEPS = 1 << 12, 1 << 16
_ROW_STEPS = 32  # what a block of each lane costs together; a writer has 36 lanes at least
_STRETCH = 1 << 14  # blocks that are looked up together


def is_worth_lanes(counts: np.ndarray, bits: float) -> bool:
    """Whether letters that occur `counts` times, `bits` of entropy in all, keep near it in blocks of one letter."""
    num_letters = int(np.count_nonzero(counts))
    return 1 < num_letters <= TOTAL * _MOST_LOSS * bits / counts.sum()


def encode_lanes(symbols: np.ndarray, counts: np.ndarray, bits: float, most_steps: float = np.inf) -> bytes:
    """The code of uint8 or uint16 `symbols` that occur `counts` times, `bits` of entropy in all; at least two occur.

    There are so many lanes that a reader takes about `most_steps` a symbol at most.
    """
    counts, group = _without_gaps(counts, bits)
    head, model = encode_model(counts, symbols.size, group)
    blocks = _joined(symbols, model.letters, group)
    least = max(-(-blocks.size // _MOST_STEPS), math.ceil(_ROW_STEPS * blocks.size / (most_steps * symbols.size)))
    num_lanes = max(1, min(int(bits) // _LANE_BITS, _MOST_LANES, blocks.size), least)
    states, words = _push(blocks, frequencies(block_shares(model.weights, group)), num_lanes, symbols.size)
    octets = states.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :_STATE_BYTES]
    return b"".join([head, num_lanes.to_bytes(2, "little"), octets.tobytes(), words.astype("<u2", copy=False).data])


def decode_lanes(body: memoryview, size: int, alphabet: int, budget: Budget) -> np.ndarray:
    """The `size` symbols below `alphabet` in `body`, uint16 above 256; WireError if it holds or costs anything else."""
    model, body = decode_model(body, size, alphabet)
    letters, group = model.letters, model.group
    kinds, num_blocks, num_lanes = letters.size**group, -(-size // group), int.from_bytes(body[:2], "little")
    if not 1 < kinds <= _MOST_KINDS or model.by_run or not num_lanes <= num_blocks <= num_lanes * _MOST_STEPS:
        raise WireError(f"rANS stream has {num_blocks} of {kinds} kinds of blocks in {num_lanes} lanes")
    budget.step(_ROW_STEPS * -(-num_blocks // num_lanes))
    end = 2 + _STATE_BYTES * num_lanes
    if len(body) < end or (len(body) - end) % 2:
        raise WireError(f"rANS stream has {len(body) - 2} bytes for {num_lanes} states and whole words")
    octets = np.zeros((num_lanes, 8), np.uint8)
    octets[:, :_STATE_BYTES] = np.frombuffer(body[2:end], np.uint8).reshape(num_lanes, _STATE_BYTES)
    states = octets.view("<i8").astype(np.int64).ravel()
    if states.min() < 1 << _LOW:
        raise WireError(f"rANS stream has a state of {states.min()}, below 2^{_LOW}")
    words = np.frombuffer(body[end:], "<u2").astype(np.uint16)  # aligned, for one kind of compiled loop
    blocks = _pop(states, words, frequencies(block_shares(model.weights, group)), num_blocks, size)
    dtype = np.uint8 if alphabet <= BYTE else np.uint16
    return _letters(blocks, letters.astype(dtype), group, size)


def _without_gaps(counts: np.ndarray, bits: float) -> tuple[np.ndarray, int]:
    """(counts, letters in a block), a few letters between others as if they occurred: then no place is looked up."""
    size, letters = int(counts.sum()), np.flatnonzero(counts)
    filled = counts.copy()
    inside = filled[letters[0] : letters[-1] + 1]
    np.maximum(inside, 1, out=inside)
    group = group_size(letters.size, size, bits, _MOST_KINDS, _LOSS)
    if inside.size <= _MOST_GAPS * letters.size and group_size(inside.size, size, bits, _MOST_KINDS, _LOSS) == group:
        return filled, group
    return counts, group


def _joined(symbols: np.ndarray, letters: np.ndarray, group: int) -> np.ndarray:
    """Blocks of the places that symbols have among `letters`."""
    first, last = int(letters[0]), int(letters[-1])
    if last - first >= letters.size:
        places = np.zeros(last + 1, symbols.dtype)
        places[letters] = np.arange(letters.size)
        renamed, first = np.empty_like(symbols), 0
        _look_up(places, symbols, renamed)
        symbols = renamed
    if group == 1 and first == 0:
        return symbols
    compiled = kernel_for("join", symbols.size)
    if compiled is None:
        return join(symbols - symbols.dtype.type(first), letters.size, group)
    dtype = np.uint8 if letters.size**group <= BYTE else np.uint16
    blocks = np.zeros(-(-symbols.size // group), dtype)
    compiled(symbols, blocks, dtype(letters.size & np.iinfo(dtype).max), symbols.dtype.type(first))
    return blocks


def _letters(blocks: np.ndarray, letters: np.ndarray, group: int, size: int) -> np.ndarray:
    """The `size` letters in blocks of places of `letters`; WireError unless what fills the last ones is zero."""
    padding = np.arange(size, group * blocks.size)
    if (blocks[padding % blocks.size] // letters.size ** (padding // blocks.size) % letters.size).any():
        raise WireError("rANS stream has non-zero padding")
    if group == 1 and int(letters[-1]) == letters.size - 1:
        return blocks.astype(letters.dtype, copy=False)
    out, kinds = np.empty((group, blocks.size), letters.dtype), np.arange(letters.size**group)
    for digit, row in enumerate(out):
        _look_up(letters[kinds // letters.size**digit % letters.size], blocks, row)
    return out.reshape(-1)[:size]


def _look_up(table: np.ndarray, numbers: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with table[number]."""
    compiled = kernel_for("look_up", numbers.size)
    if compiled is None:
        np.take(table, numbers, out=out, mode="clip")
    else:
        compiled(numbers, out, table)


def _push(blocks: np.ndarray, often: np.ndarray, num_lanes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(states at the end, words) of the blocks of `size` symbols, the last first."""
    starts, states = np.cumsum(often) - often, np.full(num_lanes, 1 << _LOW)
    compiled = kernel_for("push", size)
    if compiled is not None:
        words = np.empty(blocks.size, np.uint16)
        counts, begins, unsigned = (array.view(np.uint64) for array in (often, starts, states))
        return states, words[compiled(blocks, counts, begins, 1 / often, unsigned, words) :]
    # Float64 holds states exactly, and numpy has vector instructions for it.
    x, pieces = states.astype(np.float64), [np.zeros(0, np.uint16)]
    numbers = np.stack([often * 2.0**_LOW, 1 / often, starts, TOTAL - often])
    rows = max(1, _STRETCH // num_lanes) * num_lanes
    for begin in reversed(range(0, blocks.size, rows)):
        chosen = numbers.take(blocks[begin : begin + rows], axis=1, mode="clip")
        for lane in reversed(range(0, chosen.shape[1], num_lanes)):
            full, inverse, start, spare = chosen[:, lane : lane + num_lanes]
            state = x[: full.size]
            over = np.flatnonzero(state >= full)
            leaving = state[over]
            kept = np.floor(leaving * 2.0**-_WORD)
            pieces.append((leaving - kept * 2.0**_WORD).astype(np.uint16))
            state[over] = kept
            times = (state + 0.5) * inverse
            np.floor(times, out=times)
            times *= spare
            state += times
            state += start
    return x.astype(np.int64), np.concatenate(pieces[::-1])


def _pop(states: np.ndarray, words: np.ndarray, often: np.ndarray, num_blocks: int, size: int) -> np.ndarray:
    """The blocks of `size` symbols, the first first; `states` are worked on in place."""
    starts, blocks = np.cumsum(often) - often, np.empty(num_blocks, np.uint8 if often.size <= BYTE else np.uint16)
    block_of = np.repeat(np.arange(often.size, dtype=blocks.dtype), often)
    compiled = kernel_for("pop", size)
    if compiled is not None and words.size:
        counts, begins, unsigned = (array.view(np.uint64) for array in (often, starts, states))
        position = compiled(unsigned, words, counts, begins, block_of, blocks)
    else:
        position = 0
        for begin in range(0, num_blocks, states.size):
            here = blocks[begin : begin + states.size]
            x = states[: here.size]
            slot = x & (TOTAL - 1)
            np.take(block_of, slot, out=here, mode="clip")
            x >>= BITS
            x *= often[here]
            x += slot - starts[here]
            under = np.flatnonzero(x < 1 << _LOW)
            taken = words[position : position + under.size]
            position += under.size
            if taken.size < under.size:
                break
            x[under] = x[under] << _WORD | taken
    if position != words.size or (states != 1 << _LOW).any():
        raise WireError("rANS stream does not end at the states that it starts from")
    return blocks
