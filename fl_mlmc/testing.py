"""The laws that every ladder, compressor and payload keeps, and the plain definitions that fast code is held against.

A law takes the thing and an input and raises AssertionError. They live in the library so that whoever writes a ladder
or a compressor of their own can put it through the same battery:

    from fl_mlmc.testing import check_compressor, check_ladder
    check_ladder(MyLadder(), vector)
    check_compressor(MLMC(MyLadder()), vector)

Expectations are exact: `Compressor.outcomes` lists every outcome with its probability, so vectors must be short.
"""

import re
import struct
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise, product, repeat
from pathlib import Path
from time import process_time
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import COMPRESSORS, decode, parse
from .compression.blocks import (
    Block,
    DenseBlock,
    Lattice,
    Payload,
    PlacedBlock,
    PowerBlock,
    RotatedBlock,
    SeededBlock,
    SparseBlock,
    SymbolBlock,
    Table,
    values_seed,
)
from .compression.bucketed import BucketBlock
from .compression.compressors.base import Compressor
from .compression.dithered import DitherBlock
from .compression.ladders.base import Ladder
from .compression.wire import WireError, decode_payload, encode_payload
from .compression.wire.kinds import SEEDED, SYMBOLS
from .compression.wire.limits import work_limit
from .compression.wire.symbols.lanes import encode_lanes
from .compression.wire.symbols.modes import LANES, MAX_DEPTH, RANS, SPLIT
from .compression.wire.symbols.parts import join_parts
from .compression.wire.symbols.rans_model import block_shares, encode_model, frequencies

# Scaled values travel as float32: a sum of outcomes carries a few of its rounding errors.
RELATIVE = 2e-6

FUZZ_SIZES = (1, 2, 4, 5, 9, 20, 50, 90, 100, 200, 300, 500, 700, 1000, 2000, 3000, 4000, 20_000)

_LIBRARY = str(Path(__file__).parent)


def edge_vectors() -> Mapping[str, Tensor]:
    """Short inputs, 1-D float32, that have broken compressors before."""
    generator = torch.Generator().manual_seed(7)
    return {
        "zero": torch.zeros(5),
        "one element": torch.tensor([-3.5]),
        "one zero": torch.zeros(1),
        "one non-zero": torch.tensor([0.0, 0.0, 2.5, 0.0, 0.0, 0.0, 0.0]),
        "all ties": torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]),
        "negative zero": torch.tensor([-0.0, 1.0, -2.0]),
        "prime length": torch.randn(7, generator=generator),
        "denormals": torch.tensor([1e-45, -3e-42, 0.0, 7e-40, 2e-39]),
        "denormals beside ones": torch.tensor([1e-40, 1.0, -1e-42, 0.75, -0.5]),
        "large": torch.tensor([3e37, -1e37, 5e36, 0.0, 2.5e37]),
        "wide range": torch.tensor([1e-20, -1e-10, 1.0, 1e10, -1e15, 3e-5]),
        "powers of two": torch.tensor([1.0, -2.0, 4.0, -0.5, 0.25, 8.0]),
    }


def sorted_groups(vector: Tensor, edges: list[int]) -> list[tuple[list[int], list[float]]]:
    """Top-k's increments by their plain definition: (indices, values) of ranks edges[l] to edges[l + 1].

    Ranks are by falling magnitude, ties by position; the indices of a group come sorted.
    """
    values = vector.tolist()
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    groups = [sorted(order[low:high]) for low, high in pairwise(edges)]
    return [(group, [values[i] for i in group]) for group in groups]


def check_compressor(compressor: Compressor, vector: Tensor) -> None:
    """All laws of a compressor at one short vector, 1-D float32; those of unbiased ones if it says that it is one."""
    check_text(compressor)
    check_encoding(compressor, vector)
    check_refusals(compressor)
    check_bounds(compressor, vector)
    if compressor.is_unbiased:
        check_unbiased(compressor, vector)
        check_omega(compressor, vector)


def check_ladder(ladder: Ladder, vector: Tensor, norm_tolerance: float = 0.01) -> None:
    """Increments and base sum to the vector, and what the rungs say of them is true."""
    rungs = ladder.climb(vector)
    scale = float(vector.abs().max())
    assert rungs.size == vector.numel()
    assert 0 <= ladder.stop <= rungs.num_levels, f"{ladder} stops at {ladder.stop} of {rungs.num_levels} levels"
    increments = [rungs.increment(level).dense().double() for level in range(1, rungs.num_levels + 1)]
    base = torch.zeros(vector.numel()) if rungs.base is None else rungs.base.dense()
    total = base.double() + torch.stack(increments).sum(dim=0)
    _assert_close(total, vector, scale, f"{ladder}: base and increments do not sum to the vector")

    norms, costs, prior = rungs.norms(), rungs.costs(), rungs.prior()
    actual = np.array([float(increment.norm()) for increment in increments])
    assert norms.shape == costs.shape == prior.shape == (rungs.num_levels,)
    # Increments below float32's smallest number are zero as blocks and positive as norms.
    np.testing.assert_allclose(norms, actual, rtol=norm_tolerance, atol=1e-38, err_msg=f"{ladder}: norms")
    assert (norms[actual > 0] > 0).all(), f"{ladder}: a level with an increment has norm zero, it would never be drawn"
    assert (prior[actual > 0] > 0).all(), f"{ladder}: a level with an increment has prior zero"
    assert np.isfinite(costs).all()
    assert (costs > 0).all(), f"{ladder}: costs are bits, got {costs}"
    assert abs(prior.sum() - 1) < 1e-9, f"{ladder}: the prior sums to {prior.sum()}"

    for level in {1, ladder.stop, rungs.num_levels}:
        climbed = Payload(rungs.size, rungs.rung(level)).dense()
        plain = sum(increments[:level], base.double())
        _assert_close(climbed, plain, scale, f"{ladder}: rung {level} is not the base and its increments")
    _assert_close(Payload(rungs.size, rungs.rung(rungs.num_levels)).dense(), vector, scale, f"{ladder}: top rung")


def check_unbiased(compressor: Compressor, vector: Tensor) -> None:
    """Averaged exactly over its outcomes, what the receiver decodes is the vector."""
    mean = torch.zeros(vector.numel(), dtype=torch.float64)
    chance, largest = 0.0, float(vector.abs().max())
    for probability, payload in compressor.outcomes(vector):
        decoded = decode(encode_payload(payload), vector.numel()).double()
        mean += probability * decoded
        chance += probability
        largest = max(largest, probability * float(decoded.abs().max()))
    assert abs(chance - 1) < 1e-9, f"{compressor}: the probabilities of its outcomes sum to {chance}"
    _assert_close(mean, vector, largest, f"{compressor} is biased")


def check_omega(compressor: Compressor, vector: Tensor) -> None:
    """`omega` is E‖C(v) − v‖² / ‖v‖², summed over the outcomes; compressors without a formula say None."""
    omega = compressor.omega(vector)
    energy = float(vector.double().square().sum())
    if omega is None or 0 < energy < 1e-80:  # the smallest denormals have no digits to round to
        return
    if energy == 0:
        assert omega == 0, f"{compressor}: omega of the zero vector is {omega}"
        return
    error = sum(
        probability * float((payload.dense().double() - vector.double()).square().sum())
        for probability, payload in compressor.outcomes(vector)
    )
    # Denormal values keep few digits, on the wire as in the vector.
    slack = 1e-5 if float(vector.abs().max()) > 1e-30 else 0.1
    np.testing.assert_allclose(omega, error / energy, rtol=slack, atol=slack, err_msg=f"{compressor}: omega")


def check_bounds(compressor: Compressor, vector: Tensor) -> None:
    """What it says of all vectors of this size holds for this one: ω, α, bias and variance, and the longest payload."""
    size = vector.numel()
    length = compressor.longest(size)
    if length is not None:
        for seed in range(3):
            sent = len(compressor.encode(vector, np.random.default_rng(seed)))
            assert sent <= length, f"{compressor}: {sent} bytes, of at most {length}"
    worst, alpha = compressor.worst_omega(size), compressor.contraction(size)
    assert worst is None or (compressor.is_unbiased and worst >= 0), f"{compressor}: worst ω {worst}"
    assert alpha is None or 0 < alpha <= 1, f"{compressor}: α {alpha}"
    pair = compressor.bias_and_variance(size)
    magnitudes = vector.abs()[vector != 0]
    if magnitudes.numel() == 0 or float(magnitudes.min()) < 1e-30:  # bounds leave out denormals
        return
    mean, moment = torch.zeros(size, dtype=torch.float64), 0.0
    for probability, payload in compressor.outcomes(vector):
        decoded = payload.dense().double()
        mean += probability * decoded
        moment += probability * float(decoded.square().sum())
    norm = float(vector.double().square().sum())
    bias = float((mean - vector.double()).square().sum()) / norm
    variance = max(moment - float(mean.square().sum()), 0.0) / norm
    for bound in (worst, None if alpha is None else 1 - alpha):
        if bound is not None:
            assert bias + variance <= bound * (1 + 1e-5) + 1e-5, f"{compressor}: error {bias + variance} over {bound}"
    if pair is None:
        return
    for step, clients in product((0.05, 0.5, 1.0), (1, 8)):
        seen, bound = _left_by_ef_bv((bias**0.5, variance), step, clients), _left_by_ef_bv(pair, step, clients)
        assert seen <= bound * (1 + 1e-5) + 1e-5, f"{compressor}: bias {bias**0.5}, variance {variance}, not {pair}"


def _left_by_ef_bv(pair: tuple[float, float], step: float, clients: int) -> float:
    """(1 − λ + λη)² + λ²ω/n, which is what EF-BV makes of bias and variance: what a step λ leaves of a distance."""
    bias, variance = pair
    return (1 - step + step * bias) ** 2 + step**2 * variance / clients


def check_encoding(compressor: Compressor, vector: Tensor, seed: int = 0) -> None:
    """Equal generators give equal bytes; the bytes hold the very payload; blocks add up the same in every way."""
    compressed = compressor.compress(vector, np.random.default_rng(seed))
    data = compressor.encode(vector, np.random.default_rng(seed))
    assert data == encode_payload(compressed.payload) == compressor.encode(vector, np.random.default_rng(seed))
    assert compressed.expected_bits >= 0
    assert len(compressed.levels) == len(compressed.probabilities)
    check_round_trip(compressed.payload)
    assert decode_payload(data, vector.numel()).dense().isfinite().all()


def check_round_trip(payload: Payload) -> None:
    """Decoding gives back the payload bit for bit, and a sum is the same dense, added and added by index."""
    data = encode_payload(payload)
    decoded = decode_payload(data, payload.size)
    assert _bits(decoded.dense()) == _bits(payload.dense()), "decoding changed a value"
    assert encode_payload(decoded) == data, "a decoded payload has other bytes than it came from"

    twice = torch.zeros(payload.size, dtype=torch.float64)
    decoded.add_to(twice, 2.0)
    mirrored = torch.zeros(payload.size + 3, dtype=torch.float64)
    decoded.add_to(mirrored, 2.0, torch.arange(payload.size).flip(0) + 3)
    assert torch.equal(mirrored[3:].flip(0), twice)
    assert not mirrored[:3].any()
    scale = float(payload.dense().abs().max())
    _assert_close(twice, payload.dense().double() * 2, 4 * scale, "add_to and dense disagree")


def check_draws(compressor: Compressor, vector: Tensor, num_draws: int = 120) -> None:
    """`compress` gives the outcomes that `outcomes` lists, about as often as listed; or their means, see there."""
    if not compressor.lists_outcomes:
        _check_means(compressor, vector, num_draws)
        return
    expected: Counter[bytes] = Counter()
    for probability, payload in compressor.outcomes(vector):
        expected[_bits(payload.dense())] += probability  # type: ignore[assignment]
    rng = np.random.default_rng(11)
    seen = Counter(_bits(compressor.compress(vector, rng).payload.dense()) for _ in range(num_draws))
    unknown = set(seen) - set(expected)
    assert not unknown, f"{compressor} gave {len(unknown)} results that it does not list as outcomes"
    for outcome, probability in expected.items():
        spread = np.sqrt(num_draws * probability * (1 - min(probability, 1)))
        assert abs(seen[outcome] - num_draws * probability) <= 5 * spread + 1, (
            f"{compressor} gave an outcome of probability {probability} {seen[outcome]} times in {num_draws}"
        )


def _check_means(compressor: Compressor, vector: Tensor, num_draws: int) -> None:
    """Mean and mean square of each decoded coordinate are those over `outcomes`, as near as so many draws come."""
    mean, square = torch.zeros(2, vector.numel(), dtype=torch.float64)
    for probability, payload in compressor.outcomes(vector):
        decoded = payload.dense().double()
        mean += probability * decoded
        square += probability * decoded.square()
    rng = np.random.default_rng(11)
    drawn = torch.stack([compressor.compress(vector, rng).payload.dense().double() for _ in range(num_draws)])
    for seen, expected in ((drawn, mean), (drawn.square(), square)):
        slack = 6 * seen.std(dim=0) / num_draws**0.5 + 1e-6 * float(expected.abs().max())
        away = (seen.mean(dim=0) - expected).abs()
        assert bool((away <= slack).all()), f"{compressor}: draws are off by {away}, of at most {slack}"


def check_text(compressor: Compressor) -> None:
    """`repr` is the text that `parse` reads back, if all its names are registered ones."""
    if set(re.findall(r"(\w+)\(", repr(compressor))) <= set(COMPRESSORS):
        assert parse(repr(compressor)) == compressor
        assert repr(parse(repr(compressor))) == repr(compressor)


def check_refusals(compressor: Compressor) -> None:
    """What is no finite, non-empty 1-D float32 tensor is refused with an error that says so."""
    bad = [
        (torch.zeros(0), "non-empty"),
        (torch.zeros(2, 2), "1-D"),
        (torch.zeros(3, dtype=torch.float64), "float64"),
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.tensor([1.0, float("inf")]), "finite"),
        (torch.tensor([-float("inf"), 0.0]), "finite"),
    ]
    for vector, word in bad:
        refusal = _refusal(compressor, vector)
        assert word in refusal, f"{compressor} refused {vector} without saying {word!r}: {refusal}"


def _refusal(compressor: Compressor, vector: Tensor) -> str:
    try:
        compressor.encode(vector, np.random.default_rng(0))
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{compressor} took {vector}")


def check_hostile(data: bytes, size: int, rng: np.random.Generator, num_forgeries: int = 200) -> None:
    """Damaged bytes raise WireError; forged ones with a valid checksum do, or hold a sound payload. Never more memory.

    `data` is a valid payload of `size` coordinates.
    """
    decode_payload(data, size)
    for damaged in _damages(data):
        _assert_refused(damaged, size)
    for other in {size - 1, size + 1, 1, 2**32 - 1, 0, -1} - {size}:
        _assert_refused(data, other)
    for forged in _forgeries(data, rng, num_forgeries):
        decode_within_bounds(forged, size)


def decode_within_bounds(data: bytes, size: int) -> Payload | None:
    """The payload in bytes that nobody vouches for, None if they are refused; AssertionError on anything else.

    Failures are other errors, payloads whose values or sums are not finite, allocations beyond twice the expected
    vector (and 256 KiB, and 2 KiB a block), and work beyond what bytes and coordinates pay for: in lines of the library
    that are run, the same on every machine, and in seconds, of which a slow machine has plenty.
    """
    most_seconds = 1 + 2e-4 * (len(data) + size)
    start = process_time()
    with _at_most_lines(10 * work_limit(size) + 40 * len(data) + 20_000, f"{len(data)} bytes, {size} coordinates"):
        payload = _decode_within_memory(data, size)
        if payload is not None:
            _check_sound(payload, size)
    seconds = process_time() - start
    assert seconds <= most_seconds, f"decoding {len(data)} bytes took {seconds:.1f} s for {size} coordinates"
    return payload


def _decode_within_memory(data: bytes, size: int) -> Payload | None:
    most = 2 * 4 * size + 2**18 + 2**11 * sum(data[5:6])
    payload, peak = _decode_and_measure(data, size)
    if peak > most:  # numba loads a kernel when it is first called: that is no payload's memory, and comes once
        payload, peak = _decode_and_measure(data, size)
    assert peak <= most, f"decoding {len(data)} bytes took {peak} bytes for {size} coordinates, expected at most {most}"
    return payload


def _decode_and_measure(data: bytes, size: int) -> tuple[Payload | None, int]:
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        payload = decode_payload(data, size)
    except WireError:
        payload = None
    peak = tracemalloc.get_traced_memory()[1] - before
    if not already:
        tracemalloc.stop()
    return payload, peak


def _check_sound(payload: Payload, size: int) -> None:
    assert payload.size == size
    assert sum(block.held_bytes for block in payload.blocks) <= work_limit(size)
    dense = payload.dense()
    assert dense.shape == (size,)
    assert dense.dtype == torch.float32
    assert dense.isfinite().all()
    exact = torch.zeros(size, dtype=torch.float64)
    payload.add_to(exact)
    assert exact.float().isfinite().all()


@contextmanager
def _at_most_lines(most: int, what: str) -> Iterator[None]:
    """AssertionError as soon as more than so many lines of the library are run inside."""
    line, previous = repeat(None, most).__next__, sys.gettrace()  # a count that allocates nothing

    def count(frame: FrameType, event: str, argument: Any) -> Callable:
        try:
            line()
        except StopIteration:
            raise AssertionError(f"{what}: decoding runs more than {most} lines") from None
        return count

    sys.settrace(lambda frame, event, argument: count if frame.f_code.co_filename.startswith(_LIBRARY) else None)
    try:
        yield
    finally:
        sys.settrace(previous)


def sealed(data: bytes) -> bytes:
    """`data` with the checksum that its other bytes call for: a forgery that only a careful reader refuses."""
    if len(data) < 14:
        return data
    checksum = zlib.crc32(data[14:], zlib.crc32(data[:10] + bytes(4)))
    return data[:10] + struct.pack("<I", checksum) + data[14:]


def fuzz_payload(data: bytes) -> None:
    """Decode a fuzzer's input as the blocks of a payload with a valid header; any failure is a finding.

    The first byte chooses the size that the reader expects, the second is the number of blocks.
    """
    if len(data) < 2:
        return
    size = FUZZ_SIZES[data[0] % len(FUZZ_SIZES)]
    decode_within_bounds(sealed(_head(data[1], size) + data[2:]), size)


def fuzz_input(payload: bytes, size: int) -> bytes:
    """The input that `fuzz_payload` reads as `payload`, which holds `size` coordinates."""
    return bytes([FUZZ_SIZES.index(size), payload[5]]) + payload[14:]


def fuzz_seeds() -> Mapping[str, bytes]:
    """A fuzzer's first inputs: payloads of every kind of block and mode, and forgeries that once did harm."""
    samples = {name: (encode_payload(payload), payload.size) for name, payload in sample_payloads().items()}
    long = {name: (data, payload.size) for name, (data, payload) in long_payloads().items()}
    payloads = {**samples, **long, **greedy_payloads(), **overflowing_payloads()}
    return {name: fuzz_input(data, size) for name, (data, size) in payloads.items() if size in FUZZ_SIZES}


def sample_payloads() -> Mapping[str, Payload]:
    """One payload of every kind of block, for golden vectors and as seeds of a fuzzer."""
    return {name: Payload(blocks[0].size if blocks else 4, blocks) for name, blocks in _sample_blocks().items()}


def long_payloads() -> Mapping[str, tuple[bytes, Payload]]:
    """(bytes, what they hold) of short vectors in the modes that a writer keeps for long ones."""
    lanes = {
        "lanes": SymbolBlock(((_digits(3000) / 400) ** 3).byte(), Lattice(17, 0.5, -8)),
        "lanes-signs": SymbolBlock((_digits(1000) % 3 // 2).byte(), Lattice(2, 2.0, -1)),
        "lanes-gaps": SymbolBlock((_digits(1000) % 3 ** (1 + _digits(1000) % 3) * 9).byte(), Lattice(250, 0.5, -8)),
        "lanes-wide": SymbolBlock((_digits(2000) + _digits(2001)[1:]).short(), Lattice(2100, 0.1, -1500)),
    }
    return {name: (_in_lanes(block), Payload(block.size, (block,))) for name, block in lanes.items()}


def _in_lanes(block: SymbolBlock) -> bytes:
    alphabet, symbols = block.alphabet, block.symbols.numpy()
    assert isinstance(alphabet, Lattice)
    counts = np.bincount(symbols, minlength=alphabet.count)
    # As if each symbol said much, so that there are several lanes.
    coded = encode_lanes(symbols.view(np.uint16) if alphabet.count > 256 else symbols, counts, 12.0 * block.size)
    return forged_payload(block.size, [(SYMBOLS, _symbols_body(alphabet, bytes([LANES]) + coded))])


def forged_payload(size: int, bodies: Iterable[tuple[int, bytes]]) -> bytes:
    """A payload of the kinds and bodies of its blocks, whatever these are."""
    blocks = [struct.pack("<BI", kind, len(body)) + body for kind, body in bodies]
    return sealed(_head(len(blocks), size) + b"".join(blocks))


def _head(num_blocks: int, size: int) -> bytes:
    return b"MLMC" + struct.pack("<BBII", 1, num_blocks, size, 0)


def _symbols_body(alphabet: Lattice, stream: bytes) -> bytes:
    return struct.pack("<BHffi", 0, alphabet.count, alphabet.offset, alphabet.step, alphabet.first) + stream


def greedy_payloads() -> Mapping[str, tuple[bytes, int]]:
    """(bytes, size) of payloads of few bytes that ask a reader for much: a second and more before steps were counted.

    Each is made of blocks that a reader takes, up to the one with which its work would be too much.
    """
    greedy = {}
    for size in (300, 4000, 65_000):
        copies = min(255, work_limit(size) // size)
        for name, code in (("lanes", _one_lane), ("rans", _one_state)):
            body = _symbols_body(Lattice(9, 1e-3), _nested(code, 9, size))
            greedy[f"greedy-{name}-{size}"] = forged_payload(size, [(SYMBOLS, body)] * copies), size
        greedy[f"greedy-seeded-{size}"] = forged_payload(size, [(SEEDED, bytes(8))] * 255), size
    return greedy


def overflowing_payloads() -> Mapping[str, tuple[bytes, int]]:
    """(bytes, size) of payloads whose blocks are finite and whose sums are not, or hardly."""
    size, most = 20, float(np.finfo(np.float32).max)
    blocks: Mapping[str, tuple[Block, ...]] = {
        "sparse": tuple(SparseBlock(size, torch.tensor([3]), torch.tensor([3e38])) for _ in range(4)),
        "dense": (DenseBlock(torch.full((size,), -3e38)), DenseBlock(torch.full((size,), -1e38))),
        "seeded": tuple(SeededBlock(size, 5, torch.full((4,), 2e38)) for _ in range(2)),
        "symbols": tuple(SymbolBlock(torch.ones(size).byte(), Lattice(2, 2e38)) for _ in range(2)),
        "powers": tuple(PowerBlock(torch.zeros(size).bool(), torch.full((size,), 254).byte(), 1.5) for _ in range(2)),
        "back-again": tuple(DenseBlock(torch.full((size,), each)) for each in (3e38, 3e38, -3e38)),
        # In float32 none of the small ones changes the sum, in float64 they do.
        "by-little": (DenseBlock(torch.tensor([most])), *(DenseBlock(torch.tensor([9e30])),) * 200),
    }
    return {
        f"overflowing-{name}": (forged_payload(several[0].size, map(_body_of, several)), several[0].size)
        for name, several in blocks.items()
    }


def _body_of(block: Block) -> tuple[int, bytes]:
    """(kind, body) of a block as a writer has them."""
    data = encode_payload(Payload(block.size, (block,)))
    return data[14], data[19:]


def _nested(code: Callable[[int, int, int], bytes], letters: int, count: int, depth: int = 0) -> bytes:
    """As many streams of `count` symbols as the format allows in one: splits in whose second part all symbols lie."""
    if depth == MAX_DEPTH:
        return code(0, letters, count)
    parts = code(1, 2, count), _nested(code, letters - 1, count, depth + 1)
    return bytes([SPLIT, 1, letters - 1]) + join_parts(*parts)


def _one_lane(letter: int, letters: int, count: int) -> bytes:
    """`count` times a letter, all in one lane of rANS: so frequent that its state never gives up a word."""
    head, model = encode_model(_mostly(letter, letters, count), count, group=1)
    often = frequencies(block_shares(model.weights, 1)).tolist()
    place, state = model.letters.tolist().index(letter), 1 << 24
    for _ in range(count):
        state = (state // often[place] << 16) + state % often[place] + sum(often[:place])
    return bytes([LANES]) + head + (1).to_bytes(2, "little") + state.to_bytes(5, "little")


def _one_state(letter: int, letters: int, count: int) -> bytes:
    """The same, a symbol a step of rANS: the block of the heaviest letter leaves the state 1 as it is."""
    return bytes([RANS]) + encode_model(_mostly(letter, letters, count), count, group=1)[0] + b"\1"


def _mostly(letter: int, letters: int, count: int) -> np.ndarray:
    """How often each letter is said to occur."""
    counts = np.zeros(letters, np.int64)
    counts[letter], counts[letter - 1] = count - 1, 1
    return counts


def _sample_blocks() -> Mapping[str, tuple[Block, ...]]:
    indices = torch.tensor([0, 3, 4, 17, 40, 99])
    values = torch.tensor([1.5, -2.0, 1e-40, 3e38, -0.0, 0.1])
    return {
        "zero": (),
        "dense": (DenseBlock(torch.tensor([0.0, -1.0, 0.1, 1e-45, 3e38])),),
        "sparse": (SparseBlock(100, indices, values),),
        "sparse-empty": (SparseBlock(9, indices[:0], values[:0]),),
        "sparse-first": (SparseBlock(50, indices[:1], values[:1]),),
        "dense-as-sparse-is-longer": (SparseBlock(2, torch.tensor([0, 1]), torch.tensor([1.0, 2.0])),),
        "sparse-bfloat16": (SparseBlock(100, indices[:3], torch.tensor([1.5, -2.0, 2.0**-130])),),
        "lettered": (SparseBlock(300, torch.arange(0, 300, 3), (_digits(100) % 2 - 0.5) * 3),),
        "lettered-and-others": (
            SparseBlock(300, torch.arange(0, 300, 3), torch.where(_digits(100) % 9 == 0, _digits(100) / 7, 0.25)),
        ),
        "masked": (DenseBlock(torch.arange(90).float() * (torch.arange(90) % 5 == 0)),),
        "seeded": (SeededBlock(1000, 2**63 + 5, values),),
        "seeded-most": (SeededBlock(20, 5, torch.arange(1.0, 15.0)),),
        "ternary": (SymbolBlock((_digits(500) % 3).byte(), Lattice(3, 0.25, -1)),),
        "rare-symbols": (SymbolBlock((_digits(3000) // 251).byte(), Lattice(5, 1e-3, 0, 7.0)),),
        "many-symbols": (SymbolBlock((_digits(700) % 200).byte(), Lattice(200, 0.5, -100)),),
        "skewed-symbols": (SymbolBlock(((_digits(4000) / 400) ** 4).byte(), Lattice(50, 0.5, -3)),),
        "table": (SymbolBlock((_digits(300) % 4).byte(), Table(np.array([-3.5, 0.0, 0.1, 3e38]))),),
        "wide-symbols": (SymbolBlock((_digits(2000) * 3).short(), Lattice(3100, 0.1, -1500)),),
        "low-bits": (SymbolBlock((torch.arange(4000) % 64 + torch.arange(4000) // 64).byte(), Lattice(127, 0.5, -63)),),
        "plain-symbols": (SymbolBlock((_digits(50) % 17).byte(), Lattice(17, 0.5, -8)),),
        "plain-wide-symbols": (SymbolBlock((_digits(50) * 8).short(), Lattice(8192, 0.1, -4096)),),
        "rans-symbols": (SymbolBlock(((_digits(300) / 400) ** 3).byte(), Lattice(17, 0.5, -8)),),
        "rans-runs": (SymbolBlock((_digits(3000) % 97 // 93).byte(), Lattice(4, 1e-3, 0, 7.0)),),
        "rans-listed": (SymbolBlock((_digits(200) % 3 % 2 * 70 + 9).byte(), Lattice(90, 0.5, -100)),),
        "rans-one-letter": (SymbolBlock(torch.full((700,), 70).byte(), Lattice(90, 0.5, -100)),),
        "trits": (SymbolBlock((_digits(4000) % 3).byte(), Lattice(3, 0.25, -1)),),
        "wide-lattice": (SymbolBlock(_digits(300).int() * 4099, Lattice(2**22 - 1, 1e-3, 1 - 2**21)),),
        "wide-upper": (SymbolBlock((_digits(300) * 99 + _digits(301)[1:] ** 2).int(), Lattice(2**22 - 1, 1e-3, -9)),),
        "cut": (DenseBlock((_digits(300) * 4099 - 2**20).float()),),
        "powers": (PowerBlock(_digits(200) % 2 == 0, (_digits(200) % 9 + 120).byte()),),
        "powers-and-bits": (
            PowerBlock(_digits(200) % 2 == 0, (_digits(200) % 30 * 8).byte(), 1.0, 0.75, (_digits(200) % 2).byte(), 1),
        ),
        "powers-and-numbers": (
            PowerBlock(_digits(200) % 2 == 0, (_digits(200) % 30 * 8).byte(), 1.0, 2**-10, _digits(200).short(), 10),
        ),
        "rotated": (
            RotatedBlock(SymbolBlock((_digits(200) % 2).byte(), Table(np.array([-0.75, 0.75]))), _scales(2), 2**63 + 5),
        ),
        "rotated-long": (
            RotatedBlock(SymbolBlock((_digits(9000) % 4).byte(), Lattice(4, 1.0, -2, 0.5)), _scales(3), 7),
        ),
        "dithered": (DitherBlock(2**63 + 5, 0.25, ((_digits(300) % 5) - 2).to(torch.int8)),),
        "dithered-contexts": (DitherBlock(7, 1.5, ((_digits(20_000) / 600) ** 2).round().to(torch.int8)),),
        "dithered-escapes": (
            DitherBlock(2**64 - 1, 1e-3, torch.where(_digits(1000) % 97 == 0, _digits(1000) * -(2**19), 1).int()),
        ),
        "dithered-wide": (DitherBlock(0, 1e-3, (_digits(700) - 500).short()),),
        "bucketed": (BucketBlock((_digits(500) % 7).byte(), 3, 0.25, (_digits(8) / 100).float(), 64),),
        "bucketed-wide": (BucketBlock((_digits(300) % 601).short(), 300, 1e-3, _scales(150), 2),),
        "placed": (PlacedBlock(4000, torch.arange(0, 4000, 9), _signs(445)),),
        "placed-seeded": (PlacedBlock(4000, 11, _signs(90)),),
        "placed-marks": (PlacedBlock(2000, _digits(2000) % 5 < 4, _signs(int((_digits(2000) % 5 < 4).sum()))),),
        "placed-one-seed": (PlacedBlock(4000, 2**64 - 9, _signs(90, values_seed(2**64 - 9))),),
        "placed-blocks": (
            PlacedBlock(
                4000,
                torch.arange(0, 500, 7),
                Payload(72, (SymbolBlock((_digits(72) % 3).byte(), Lattice(3, 0.25, -1)), *_signs(72).blocks)),
            ),
        ),
        "two-blocks": (SparseBlock(100, indices, values), SparseBlock(100, indices[:2] + 1, values[:2])),
    }


def _scales(count: int) -> Tensor:
    """Factors of the parts of a rotated vector."""
    return 2.0 ** (torch.arange(count) % 99)


def _signs(count: int, seed: int = 3) -> Payload:
    """As many values of a dither: plus or minus one step, but for the noise."""
    return Payload(count, (DitherBlock(seed, 2.5, (_digits(count) % 2 * 2 - 1).to(torch.int8)),))


def _digits(count: int) -> Tensor:
    """Numbers below 1021 without a visible pattern, equal on every machine."""
    return (torch.arange(count) * 7919 + 13) ** 2 % 1021


def _damages(data: bytes) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]
    yield data + b"\0"
    yield data * 2
    for position in range(len(data)):
        for flip in (1, 128, 255):
            yield data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :]


def _forgeries(data: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    yield sealed(data + b"\0")
    for position in range(14, min(len(data), 64)):
        for byte in (0, 1, 127, 255):
            yield sealed(data[:position] + bytes([byte]) + data[position + 1 :])
        yield sealed(data[:position] + b"\xff\xff\xff\xff" + data[position + 4 :])
        yield sealed(data[:position])
    for _ in range(count):
        forged = bytearray(data)
        for _ in range(int(rng.integers(1, 6))):
            forged[int(rng.integers(len(forged)))] = int(rng.integers(256))
        forged[:10] = data[:10]
        yield sealed(bytes(forged))


def _assert_refused(data: bytes, size: int) -> None:
    try:
        decode_payload(data, size)
    except WireError:
        return
    raise AssertionError(f"{len(data)} damaged bytes were decoded as {size} coordinates: {data[:64].hex()}")


def _assert_close(actual: Tensor, expected: Tensor, scale: float, message: str) -> None:
    np.testing.assert_allclose(
        actual.double().cpu().numpy(),
        expected.double().cpu().numpy(),
        rtol=RELATIVE,
        atol=scale * RELATIVE + 1e-42,
        err_msg=message,
    )


def _bits(vector: Tensor) -> bytes:
    return vector.cpu().numpy().tobytes()
