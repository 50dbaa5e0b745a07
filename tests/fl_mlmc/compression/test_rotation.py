"""A rotation keeps lengths, is undone exactly, and spreads any vector evenly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc.compression.pointwise import STRETCH
from fl_mlmc.compression.rotation import BLOCK, Rotation, growth

SIZES = [1, 2, 3, 5, 7, 64, 100, 4095, BLOCK, BLOCK + 1, STRETCH, STRETCH + 5, 2 * STRETCH + BLOCK + 3]


def forth(vector: Tensor, seed: int = 7) -> Tensor:
    rotation = Rotation(vector.numel(), seed)
    return torch.cat([signs.forth(vector[start:stop]) for start, stop, signs in rotation.pieces()])


def back(vector: Tensor, seed: int = 7) -> Tensor:
    rotation = Rotation(vector.numel(), seed)
    return torch.cat([signs.back(vector[start:stop]) for start, stop, signs in rotation.pieces()])


def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix by its definition."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def plain(vector: Tensor, seed: int) -> np.ndarray:
    """The definition of the format's page, for one piece: every block from the front, then the one at the end."""
    out, size = vector.double().numpy().copy(), vector.numel()
    n = min(BLOCK, 2 ** int(np.log2(size)))
    words, per_block = np.random.Philox(key=seed), max(n // 64, 1)
    starts = [*range(0, size - n + 1, n), *([size - n] if size % n else [])]
    for start in starts:
        drawn = words.random_raw(2 * per_block).reshape(2, per_block)
        for side in drawn:
            bits = np.array([int(word) >> bit & 1 for word in side for bit in range(64)][:n])
            out[start : start + n] = hadamard(n) @ (out[start : start + n] * (1 - 2 * bits))
        out[start : start + n] /= n
    return out


@pytest.mark.parametrize("size", SIZES)
def test_lengths_are_kept_and_the_way_back_is_the_inverse(size: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size))
    assert float(forth(vector).norm()) == pytest.approx(float(vector.norm()), rel=1e-5)
    torch.testing.assert_close(back(forth(vector)), vector, rtol=0, atol=3e-6)
    torch.testing.assert_close(forth(back(vector)), vector, rtol=0, atol=3e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 100, 300])
def test_it_is_the_map_that_the_format_describes(size: int) -> None:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size))
    np.testing.assert_allclose(forth(vector, 2**63 + size).numpy(), plain(vector, 2**63 + size), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_parts_fill_the_vector(size: int) -> None:
    rotation = Rotation(size, 0)
    lengths = [rotation.part_lengths(start, stop) for start, stop, _ in rotation.pieces()]
    assert [sum(each) for each in lengths] == [stop - start for start, stop, _ in rotation.pieces()]
    assert sum(map(len, lengths)) == rotation.num_parts
    assert {length for each in lengths for length in each} <= {rotation.block, size % rotation.block}


@pytest.mark.parametrize("size", [64, 100, 5000])
def test_a_single_entry_is_spread_over_its_block(size: int) -> None:
    vector = torch.zeros(size)
    vector[3] = 1
    block = Rotation(size, 0).block
    assert float(forth(vector)[:block].abs().max()) < 6 / block**0.5


def test_nothing_grows_beyond_the_bound_on_the_way_back() -> None:
    for size in (5, 100, 5000):
        signs, alone = torch.ones(size), torch.zeros(size)
        alone[3] = 1
        for seed in range(20):
            towards_one = forth(alone, seed).sign()
            assert float(back(towards_one, seed).abs().max()) <= growth(Rotation(size, seed))
            assert float(back(signs, seed).abs().max()) <= growth(Rotation(size, seed))


def test_another_seed_is_another_rotation() -> None:
    vector = torch.ones(100)
    assert not torch.equal(forth(vector, 1), forth(vector, 2))
    assert torch.equal(forth(vector, 1), forth(vector, 1))
