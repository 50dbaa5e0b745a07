"""Loops over coordinates for `pointwise`, compiled by numba where it is installed (extra `fast`).

Each does to the bit what the torch expression at its call does: a test holds one against the other. The first vector of
`LONG` coordinates imports numba; nothing else does.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

LONG = 1 << 20
"""Shorter vectors are not worth the second that numba takes to load."""

_LOADED = 6  # times shorter, halving, a vector may be once numba is loaded

_KERNELS: dict[str, Callable[..., Any]] = {}


def kernel_for(name: str, size: int) -> Callable[..., Any] | None:
    """The compiled kernel of that name for a vector of `size`, None where torch is to do the work.

    Once a long vector has loaded numba, as those of which a stream is a part do, shorter ones are worth it too.
    """
    if size >= LONG:
        return _compiled(name) if has_numba() else None
    return _compiled(name) if size >= LONG >> _LOADED and "numba" in sys.modules else None


@cache
def has_numba() -> bool:
    """Whether the extra `fast` is installed."""
    return find_spec("numba") is not None


@cache
def _compiled(name: str) -> Callable[..., Any]:
    from numba import njit

    try:
        return njit(_KERNELS[name], cache=True, nogil=True)
    except RuntimeError:  # no folder that could be written to
        return njit(_KERNELS[name], nogil=True)


def _kernel(loop: Callable[..., Any]) -> Callable[..., Any]:
    _KERNELS[loop.__name__] = loop
    return loop


@_kernel
def round_at_random(part: Any, words: Any, out: Any, inverse: Any, half: Any, scale: Any) -> None:
    """half + sign · (⌊|v| · inverse⌋ + 1 with the chance that is left over)."""
    for i in range(part.size):
        steps = min(abs(part[i]) * inverse, half)
        low = np.floor(steps)
        if (words[i] & 0x7FFFFFFF) < np.int32((steps - low) * scale):
            low += np.float32(1)
        out[i] = np.int32(np.copysign(low, part[i]) + half)


@_kernel
def round_exponent(words: Any, random: Any, out: Any) -> None:
    """The exponent of a float32's bits, one more with the chance that its mantissa says."""
    for i in range(words.size):
        out[i] = ((words[i] & np.int32(0x7FFFFFFF)) + (random[i] & np.int32(0x7FFFFF))) >> 23


@_kernel
def digits(part: Any, out: Any, inverse: Any, largest: Any, scale: Any, shift: Any) -> None:
    """shift + sign · the whole part of |v| · inverse · scale."""
    for i in range(part.size):
        digit = np.int32(np.floor(min(abs(part[i]) * inverse, largest) * scale))
        out[i] = shift - digit if part[i] < 0 else shift + digit


@_kernel
def units_and_digit(part: Any, out: Any, inverse: Any, largest: Any, scale: Any, shift: Any) -> None:
    """shift + sign · (the whole part of |v| · inverse + one of its binary digits behind the point)."""
    for i in range(part.size):
        units = min(abs(part[i]) * inverse, largest)
        whole = np.floor(units)
        digit = np.int32(whole) + (np.int32((units - whole) * scale) & np.int32(1))
        out[i] = np.int32(shift) - digit if part[i] < 0 else np.int32(shift) + digit


@_kernel
def last_digits(part: Any, out: Any, inverse: Any, largest: Any, scale: Any, mask: Any) -> None:
    """The last of the first binary digits of |v| · inverse behind the point, as many as the mask has."""
    for i in range(part.size):
        units = min(abs(part[i]) * inverse, largest)
        out[i] = np.int32((units - np.floor(units)) * scale) & mask


@_kernel
def plane(part: Any, out: Any, inverse: Any, largest: Any, scale: Any) -> None:
    """1 + sign · the last of the first binary digits of |v| · inverse behind the point."""
    for i in range(part.size):
        units = min(abs(part[i]) * inverse, largest)
        bit = np.int32((units - np.floor(units)) * scale) & np.int32(1)
        out[i] = np.int32(1) - bit if part[i] < 0 else np.int32(1) + bit


@_kernel
def bits(words: Any, out: Any, low: Any, mask: Any) -> None:
    """Some bits of each word."""
    for i in range(words.size):
        out[i] = (words[i] >> low) & mask


@_kernel
def exponents_and_bits(words: Any, counts: Any, low: Any, width: Any) -> None:
    """Add up how often each exponent of a float32's bits, followed by some of its mantissa, occurs."""
    for i in range(words.size):
        exponent = words[i] >> np.int32(23) & np.int32(255)
        counts[exponent << width | (words[i] >> low & ((np.int32(1) << width) - np.int32(1)))] += 1


@_kernel
def tally(symbols: Any, lanes: Any) -> None:
    """Count symbols in four lanes: neighbours are often equal and would wait for each other."""
    whole = symbols.size - symbols.size % 4
    for i in range(0, whole, 4):
        lanes[0, symbols[i]] += 1
        lanes[1, symbols[i + 1]] += 1
        lanes[2, symbols[i + 2]] += 1
        lanes[3, symbols[i + 3]] += 1
    for i in range(whole, symbols.size):
        lanes[0, symbols[i]] += 1


@_kernel
def raised(words: Any, out: Any, low: Any) -> None:
    """The exponent of a float32's bits plus one bit of its mantissa."""
    for i in range(words.size):
        out[i] = (words[i] >> np.int32(23) & np.int32(255)) + (words[i] >> low & np.int32(1))


@_kernel
def letter(part: Any, out: Any, offset: Any, inverse: Any, first: Any, last: Any) -> None:
    """The letter of the nearest value of a lattice."""
    for i in range(part.size):
        near = np.rint((part[i] - offset) * inverse) - first
        out[i] = np.int32(min(max(near, np.float32(0)), last))


@_kernel
def letter_pair(part: Any, out: Any, fine: Any, coarse: Any, ratio: Any, shift: Any, spread: Any) -> None:
    """fine letter · (2 spread + 1) + spread + how far the coarse letter lies above the one predicted.

    Lattices are (offset, 1 / step, first, last).
    """
    for i in range(part.size):
        upper = np.rint((part[i] - fine[0]) * fine[1]) - fine[2]
        upper = min(max(upper, np.float32(0)), fine[3])
        lower = np.rint((part[i] - coarse[0]) * coarse[1]) - coarse[2]
        lower = min(max(lower, np.float32(0)), coarse[3])
        predicted = min(max(np.rint(upper * ratio + shift), np.float32(0)), coarse[3])
        out[i] = np.int32(upper * (np.float32(2) * spread + np.float32(1)) + (lower - predicted + spread))


@_kernel
def marked(symbols: Any, out: Any, marks: Any) -> Any:
    """Where the symbol is a marked one, and how many these are."""
    count = 0
    for i in range(symbols.size):
        out[count] = i
        count += marks[np.uintp(symbols[i])]
    return count


@_kernel
def look_up(symbols: Any, out: Any, table: Any) -> None:
    """table[symbol]."""
    for i in range(symbols.size):
        out[i] = table[symbols[i]]


@_kernel
def fill_noise(out: Any, begin: Any, key: Any) -> None:
    """The words of `noise` for places whose first has the counter `begin`; `key` is the seed's upper half."""
    for i in range(out.size):
        x = np.uint32(np.uint32(np.uint32(i) * np.uint32(0x9E3779B9)) + begin)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD))
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x735A2D97))
        x = np.uint32(x ^ (x >> np.uint32(15)) ^ key)
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD))
        x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x735A2D97))
        out[i] = np.int32(x ^ (x >> np.uint32(15)))


@_kernel
def coins(part: Any, words: Any, out: Any, scale: Any) -> Any:
    """Where the word is at most 2^32 · min(1, scale · |v|), and how many these are."""
    count = 0
    for i in range(part.size):
        level = np.int64(min(np.float64(abs(part[i])) * scale, 1.0) * 4294967296.0)
        if np.int64(np.uint32(words[i])) <= level:
            out[count] = i
            count += 1
    return count


@_kernel
def points(part: Any, out: Any, scale: Any, start: Any, begin: Any) -> Any:
    """Where chances min(1, scale · |v|), end to end from `begin` on, cover a point start, start + 1, …; how many do.

    And where they end. Rounding errors are taken out at whole numbers, as `line_ends` does.
    """
    count, covered, end, before = 0, 0.0, begin, np.ceil(begin - start)
    for i in range(part.size):
        magnitude = np.float64(abs(part[i]))
        covered += min(magnitude * scale, 1.0) if magnitude > 0 else 0.0
        end = begin + covered
        nearest = np.rint(end)
        if abs(end - nearest) < 1e-9:
            end = nearest
        if end - start > before:
            out[count] = i
            count += 1
            before = np.ceil(end - start)
    return count, end


@_kernel
def dithered(part: Any, words: Any, out: Any, scale: Any, inverse: Any) -> Any:
    """The whole number nearest to v · scale · inverse + ξ; at least the largest magnitude of them."""
    most = np.int32(0)
    for i in range(part.size):
        xi = np.float32(np.int32(words[i] >> np.int32(7)) | np.int32(1)) * np.float32(2.0**-25)
        number = np.int32(np.rint(part[i] * scale * inverse + xi))
        out[i] = number
        most = max(most, abs(number))
    return most


@_kernel
def undithered(words: Any, numbers: Any, out: Any, step: Any) -> None:
    """(q − ξ) · step."""
    for i in range(numbers.size):
        xi = np.float32(np.int32(words[i] >> np.int32(7)) | np.int32(1)) * np.float32(2.0**-25)
        out[i] = (np.float32(numbers[i]) - xi) * step


@_kernel
def context_places(words: Any, numbers: Any, out: Any, half: Any) -> None:
    """context · (2 half + 1) + half + the number, mirrored where ξ < 0, no further from zero than `half`."""
    width = np.int32(2) * half + np.int32(1)
    for i in range(numbers.size):
        sign = np.int32(words[i] >> np.int32(31))
        mirrored = np.int32((np.int32(numbers[i]) ^ sign) - sign)
        near = min(max(mirrored, np.int32(-half)), half)
        out[i] = np.int32(((words[i] ^ sign) >> np.int32(27)) * width + near + half)


@_kernel
def count_contexts(words: Any, lanes: Any, shift: Any) -> None:
    """Add up how often each context occurs, in lanes as `tally` does."""
    for i in range(words.size):
        lanes[i & 3, np.uintp((words[i] ^ (words[i] >> np.int32(31))) >> shift)] += 1


@_kernel
def apart(places: Any, codes: Any, escape: Any, ends: Any, out: Any, escapes: Any) -> None:
    """Each place's letter at the next end of its stream; where the letter is an escape, its coordinate too.

    A place's code is its stream times 2^16 and its letter.
    """
    num_escapes = 0
    for i in range(places.size):
        code = codes[np.uintp(places[i])]
        stream, letter = np.uintp(code >> np.uint32(16)), np.uint16(code)
        end = ends[stream]
        out[np.uintp(end)] = letter
        ends[stream] = end + np.uint64(1)
        if letter == escape:
            escapes[num_escapes] = i
            num_escapes += 1


@_kernel
def together(
    words: Any, letters: Any, ends: Any, shift: Any, first: Any, escape: Any, escapes: Any, taken: Any, out: Any
) -> Any:
    """Each coordinate's number: `first` + the next letter of its context, or the next escape; how many are taken."""
    for i in range(words.size):
        sign = np.int32(words[i] >> np.int32(31))
        context = np.uintp((words[i] ^ sign) >> shift)
        letter = np.int32(letters[np.uintp(ends[context])])
        ends[context] += 1
        if letter == escape:
            letter = escapes[taken]
            taken += 1
        out[i] = np.int32(((letter + first) ^ sign) - sign)
    return taken


@_kernel
def histogram(part: Any, counts: Any, low: Any, scale: Any, last: Any) -> None:
    """Add up how many coordinates fall into each of `last` + 1 equal bins."""
    for i in range(part.size):
        counts[np.int32(min(max((part[i] - low) * scale, np.float32(0)), last))] += 1


@_kernel
def join(symbols: Any, blocks: Any, base: Any, first: Any) -> None:
    """Block i is Σ base^r · digit(r · number of blocks + i): a digit is a symbol less `first`, missing ones are 0.

    `blocks` hold zeros, which the digits that are missing leave there.
    """
    for begin in range((symbols.size - 1) // blocks.size * blocks.size, -1, -blocks.size):
        for i in range(min(blocks.size, symbols.size - begin)):
            blocks[i] = blocks[i] * base + (symbols[begin + i] - first)


# States are unsigned, as signed indices would be looked at twice.


@_kernel
def push(blocks: Any, often: Any, starts: Any, inverses: Any, states: Any, words: Any) -> Any:
    """Code blocks, the last first, into rANS states of 40 bits; words fill up from the end, and begin where it says."""
    position = words.size
    for begin in range((blocks.size - 1) // states.size * states.size, -1, -states.size):
        row = blocks[begin : begin + states.size]
        for i in range(row.size - 1, -1, -1):
            lane = np.uintp(i)
            block, state = row[lane], states[lane]
            over = np.uint64(state >= often[block] << np.uint64(24))
            words[np.uintp(position - 1)] = np.uint16(state)
            position -= np.int64(over)
            state >>= over << np.uint64(4)
            times = np.uint64(np.int64((np.float64(np.int64(state)) + 0.5) * inverses[block]))
            states[lane] = state + starts[block] + times * (np.uint64(65536) - often[block])
    return position


@_kernel
def pop(states: Any, words: Any, often: Any, starts: Any, block_of: Any, blocks: Any) -> Any:
    """The blocks in rANS states of 40 bits, and how many words they took; more than there are if these end early.

    There is one word at least.
    """
    position, last = np.uint64(0), np.uint64(words.size - 1)
    for begin in range(0, blocks.size, states.size):
        row = blocks[begin : begin + states.size]
        for i in range(row.size):
            lane = np.uintp(i)
            state = states[lane]
            slot = state & np.uint64(0xFFFF)
            block = block_of[slot]
            row[lane] = block
            state = often[block] * (state >> np.uint64(16)) + slot - starts[block]
            under = np.uint64(state < np.uint64(1 << 24))
            more = state << np.uint64(16) | np.uint64(words[min(position, last)])
            states[lane] = more if under else state
            position += under
        if position > last + np.uint64(1):
            break
    return position
