import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc import MLMC, TopK, omega
from fl_mlmc.compression.blocks import SparseBlock
from fl_mlmc.testing import sorted_groups


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -3.0]), min_size=1, max_size=30),
    step=st.integers(1, 8),
)
def test_groups_are_those_of_a_stable_sort(values: list[float], step: int) -> None:
    vector = torch.tensor(values)
    rungs = TopK(count=step).climb(vector)
    edges = [*range(0, len(values), min(step, len(values))), len(values)]
    for level, (indices, entries) in enumerate(sorted_groups(vector, edges), start=1):
        block = rungs.increment(level)
        assert isinstance(block, SparseBlock)
        assert block.indices.tolist() == indices
        assert block.values.tolist() == entries


@pytest.mark.parametrize(
    ("rate", "step", "size", "expected"),
    [(0.05, 4, 400, 19.01485), (0.01, 8, 800, 47.20781), (0.2, 4, 1000, 4.06649), (0.001, 10, 1000, 96.96767)],
)
def test_omega_of_exponential_decay_is_the_closed_form(rate: float, step: int, size: int, expected: float) -> None:
    # Lemma 3.6: coth(rs/4) · tanh(rd/4) − 1
    vector = torch.exp(-rate * torch.arange(size, dtype=torch.float64) / 2).float()
    assert omega(MLMC(TopK(count=step)), vector) == pytest.approx(expected, rel=1e-5)


def test_equal_magnitudes_cost_as_much_as_random_entries() -> None:
    vector = torch.ones(40) * torch.tensor([1.0, -1.0]).repeat(20)
    assert omega(MLMC(TopK(count=4)), vector) == pytest.approx(9.0)


def test_one_non_zero_entry_is_sent_exactly() -> None:
    vector = torch.zeros(100)
    vector[37] = -2.5
    compressed = MLMC(TopK(count=3)).compress(vector, np.random.default_rng(0))
    assert torch.equal(compressed.payload.dense(), vector)
    assert omega(MLMC(TopK(count=3)), vector) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "takes one of fraction"),
        ({"fraction": 0.1, "count": 2}, "takes one of fraction"),
        ({"fraction": 0.0}, "0, 1"),
        ({"count": 0}, "at least 1"),
    ],
)
def test_options_without_meaning_are_refused(options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        TopK(**options)


def test_many_ties_are_broken_by_position() -> None:
    vector = torch.tensor([1.0, -1.0, 0.0, 1.0, -2.0]).repeat(600)
    rungs = TopK(count=250).climb(vector)
    edges = [*range(0, 3000, 250), 3000]
    for level, (indices, _) in enumerate(sorted_groups(vector, edges), start=1):
        assert rungs.increment(level).indices.tolist() == indices
