"""Mode 7, a range asymmetric numeral system (rANS) for short streams: a few bytes beyond the entropy.

Jarek Duda (2013), arXiv 1311.2540; the byte-aligned form is Fabian Giesen's. Letters travel with rough weights, a
count's leading bits, not with a code book; several letters form a block, and a state holds the blocks coded so far as
one large number. Every step waits for the one before, so longer streams are left to faster codes.

>>> symbols = np.zeros(1000, np.uint8)
>>> symbols[[5, 600, 601]] = [2, 1, 2]
>>> coded = encode_rans(symbols, np.bincount(symbols), bits=32.0)
>>> len(coded)  # flags and weights take four of them
8
>>> bool((decode_rans(memoryview(coded), 1000, 3, Budget(1000)) == symbols).all())
True
"""

import struct

import numpy as np

from ..errors import WireError
from ..limits import Budget
from .packed import BYTE, translated
from .rans_model import (
    BITS,
    TOTAL,
    block_shares,
    decode_model,
    encode_model,
    frequencies,
    group_size,
    join,
    part,
)

MOST_BLOCKS = 1 << 16
"""Longer streams are refused: their steps would take a reader's time out of proportion to their bytes."""

_WORD = 32  # bits that leave the state together
_FULL = 64  # bits of the state
_LOWEST = 1 << _WORD  # states below it take a word
_MOST_KINDS = BYTE  # of blocks
_LOSS = 0.002  # share of the bits that rare blocks may take from frequent ones


def encode_rans(symbols: np.ndarray, counts: np.ndarray, bits: float) -> bytes | None:
    """The code of uint8 `symbols` that occur `counts` times, `bits` of entropy in all; None where it takes too long."""
    size, num_letters = symbols.size, int(np.count_nonzero(counts))
    spare = size - int(counts.max())
    group = group_size(num_letters, size, bits, _MOST_KINDS, _LOSS)
    run = _longest_run(num_letters)
    by_run = num_letters > 1 and spare + (size - spare) // run < size // group
    if num_letters > 1 and (spare + (size - spare) // run if by_run else size // group) >= MOST_BLOCKS:
        return None
    head, model = encode_model(counts, size, group, by_run)
    if num_letters == 1:
        return head
    order = np.argsort(-model.weights, kind="stable")
    rank = np.zeros(counts.size, np.uint8)
    rank[model.letters[order]] = np.arange(num_letters)
    ranks = translated(symbols, rank)
    blocks = _join_runs(ranks, num_letters) if by_run else join(ranks, num_letters, group)
    often, _ = _run_blocks(model.weights[order]) if by_run else _group_blocks(model.weights[order], group)
    return head + _push(blocks, often)


def decode_rans(body: memoryview, size: int, alphabet: int, budget: Budget) -> np.ndarray:
    """The `size` uint8 symbols below `alphabet` in `body`; WireError if it holds other ones, or costs too much."""
    model, body = decode_model(body, size, alphabet)
    num_letters, group = model.letters.size, model.group
    if num_letters == 1 and not body:
        return np.full(size, model.letters[0], np.uint8)
    is_long = not model.by_run and (num_letters**group > _MOST_KINDS or -(-size // group) > MOST_BLOCKS)
    if num_letters == 1 or is_long:
        raise WireError(f"rANS stream has {group} of {num_letters} letters a block for {size} symbols")
    budget.step(min(size, MOST_BLOCKS))
    order = np.argsort(-model.weights, kind="stable")
    weights = model.weights[order]
    if model.by_run:
        ranks = _part_runs(_pop(body, size, *_run_blocks(weights)), size, num_letters)
    else:
        ranks = part(_pop(body, size, *_group_blocks(weights, group)), size, num_letters, group)
    return translated(ranks, model.letters[order].astype(np.uint8))


def _longest_run(num_letters: int) -> int:
    """Of the heaviest letter before another one, so that there are 256 blocks at most; one more stands for itself."""
    return (_MOST_KINDS - 1) // max(num_letters - 1, 1)


def _join_runs(ranks: np.ndarray, num_letters: int) -> np.ndarray:
    """Block 0 is a longest run of letter 0; block 1 + r · (num_letters − 1) + l one of r, then letter l + 1."""
    run, others = _longest_run(num_letters), np.flatnonzero(ranks)
    whole, rest = np.divmod(np.diff(others, prepend=-1) - 1, run)
    after = ranks.size - 1 - int(others[-1])
    blocks = np.zeros(others.size + int(whole.sum()) + -(-after // run), np.uint8)
    blocks[np.cumsum(whole + 1) - 1] = rest * (num_letters - 1) + ranks[others]
    return blocks


def _part_runs(blocks: np.ndarray, size: int, num_letters: int) -> np.ndarray:
    """The `size` letters in blocks that `_join_runs` made."""
    ends = np.cumsum(np.array(_run_lengths(num_letters), np.int32)[blocks], dtype=np.int32)[blocks > 0]
    if ends.size and ends[-1] > size:
        raise WireError(f"rANS stream has a letter beyond its {size} symbols")
    ranks = np.zeros(size, np.uint8)
    ranks[ends - 1] = (blocks[blocks > 0] - 1) % np.uint8(num_letters - 1) + 1
    return ranks


def _run_lengths(num_letters: int) -> list[int]:
    """Letters in each block of a run."""
    run = _longest_run(num_letters)
    return [run, *np.repeat(np.arange(1, run + 1), num_letters - 1).tolist()]


def _group_blocks(weights: np.ndarray, group: int) -> tuple[list[int], list[int]]:
    """(how often each block of `group` letters is to occur in 2^16, how many letters it holds)."""
    shares = block_shares(weights, group)
    return frequencies(shares).tolist(), [group] * shares.size


def _run_blocks(weights: np.ndarray) -> tuple[list[int], list[int]]:
    """The same of blocks that are runs."""
    heaviest = weights[0] / float(weights.sum())
    runs = np.multiply.accumulate(np.append(1.0, np.full(_longest_run(weights.size), heaviest)))
    shares = np.append(runs[-1], runs[:-1, None] * (weights[1:] / float(weights.sum())))
    often = 1 + np.floor(shares * (TOTAL - shares.size)).astype(np.int64)
    often[0] += TOTAL - int(often.sum())
    return often.tolist(), _run_lengths(weights.size)


def _push(blocks: np.ndarray, frequencies: list[int]) -> bytes:
    """The state that holds uint8 `blocks`, the last pushed first, and the words that have left it."""
    starts = np.cumsum([0, *frequencies[:-1]]).tolist()
    limits = [frequency << _FULL - BITS for frequency in frequencies]
    state, words = 1, []
    for block in reversed(blocks.tobytes()):
        frequency = frequencies[block]
        if state >= limits[block]:
            words.append(state & _LOWEST - 1)
            state >>= _WORD
        state = (state // frequency << BITS) + state % frequency + starts[block]
    words.reverse()
    return state.to_bytes(-(-state.bit_length() // 8), "little") + struct.pack(f"<{len(words)}I", *words)


def _pop(body: memoryview, size: int, frequencies: list[int], lengths: list[int]) -> np.ndarray:
    """The uint8 blocks that make up `size` letters; WireError unless the state ends where a writer's begins."""
    head = len(body) if len(body) <= 8 else 5 + (len(body) - 5) % 4
    if head == 0 or body[head - 1] == 0:
        raise WireError(f"rANS stream has no state in its {len(body)} bytes")
    state = int.from_bytes(body[:head], "little")
    words = np.frombuffer(body[head:], "<u4").astype(np.uint32).data
    starts = np.cumsum([0, *frequencies[:-1]]).tolist()
    block_of = np.repeat(np.arange(len(frequencies), dtype=np.uint8), frequencies).tobytes()
    blocks, position, num_words = bytearray(), 0, len(words)
    last_slot, lowest = TOTAL - 1, _LOWEST
    for _ in range(MOST_BLOCKS):
        slot = state & last_slot
        block = block_of[slot]
        blocks.append(block)
        state = frequencies[block] * (state >> BITS) + slot - starts[block]
        if state < lowest and position < num_words:
            state = state << _WORD | words[position]
            position += 1
        size -= lengths[block]
        if size <= 0:
            break
    if size > 0 or state != 1 or position != num_words:
        raise WireError("rANS stream does not end at the state that it starts from")
    return np.frombuffer(blocks, np.uint8)
