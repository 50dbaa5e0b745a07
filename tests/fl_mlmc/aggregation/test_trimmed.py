"""The trimmed mean and the median, against numpy on every coordinate's own values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_mlmc.aggregation import trimmed as robust
from fl_mlmc.aggregation.trimmed import TrimmedMean, trimmed_mean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan


@pytest.mark.parametrize("trim", [0.1, 0.25, 0.34, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10])
def test_the_trimmed_mean_is_the_definition(trim: float, count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.normal(size=(10, 50)).astype(np.float32)
    values[count:] = np.inf
    found = trimmed_mean(torch.from_numpy(values), torch.full((50,), count), trim)
    cut = min(int(trim * count + 1e-9), (count - 1) // 2)
    expected = np.sort(values[:count], axis=0)[cut : count - cut].astype(np.float64).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    if trim == 0.5:
        np.testing.assert_allclose(found, np.median(values[:count].astype(np.float64), axis=0), rtol=1e-6, atol=1e-7)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EXTREMES = st.sampled_from([np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal, -0.0, 1.0])


@st.composite
def columns_with_liars(draw: st.DrawFn) -> tuple[list[float], list[float], float]:
    """Honest values and fewer lies than the trim cuts at one end."""
    trim = draw(st.sampled_from([0.1, 0.2, 0.25, 0.34, 0.49, 0.5]))
    count = draw(st.integers(1, 30))
    num_liars = draw(st.integers(0, min(int(count * trim + 1e-9), (count - 1) // 2)))
    signed = st.one_of(FLOATS, EXTREMES, EXTREMES.map(lambda value: -value))
    honest = draw(st.lists(signed, min_size=count - num_liars, max_size=count - num_liars))
    return honest, draw(st.lists(st.one_of(signed, st.just(-np.inf)), min_size=num_liars, max_size=num_liars)), trim


@given(columns_with_liars())
def test_liars_below_the_bound_cannot_leave_the_honest_values(column: tuple[list[float], list[float], float]) -> None:
    honest, lies, trim = column
    values = torch.tensor([*lies, *honest], dtype=torch.float32)[:, None]
    found = float(trimmed_mean(values, torch.tensor([len(values)]), trim)[0])
    assert float(np.float32(min(honest))) <= found <= float(np.float32(max(honest)))


@pytest.mark.parametrize("lie", [-5e15, -1e16, -3e38, -np.inf, 3e38])
def test_one_liar_of_five_moves_the_mean_by_what_it_cuts_and_no_more(lie: float) -> None:
    values = torch.tensor([0.5, 0.6, 0.55, 0.52, lie])[:, None]
    kept = (0.5, 0.52, 0.55) if lie < 0 else (0.52, 0.55, 0.6)
    assert float(trimmed_mean(values, torch.tensor([5]), 0.2)[0]) == pytest.approx(sum(kept) / 3, rel=1e-6)


def test_only_clients_that_hold_a_coordinate_count() -> None:
    spec = build_model("mlp(hidden=(8,))", (1, 2, 2), 3).spec
    plans = [plan(spec, "nested", width) for width in (0.5, 0.5, 1.0, 1.0, 1.0)]
    rng = np.random.default_rng(0)
    fold, table = TrimmedMean(spec.size, 0.5), np.full((5, spec.size), np.nan)
    for row, own in zip(table, plans, strict=True):
        update = torch.from_numpy(rng.normal(size=own.size)).float()
        fold.add(own, Payload(own.size, (DenseBlock(update),)), weight=1e9)
        full = torch.zeros(spec.size)
        own.scatter_add(full, update)
        held = torch.zeros(spec.size)
        own.scatter_add(held, torch.ones(1).expand(own.size))
        row[held.numpy() > 0] = full[held > 0].numpy()
    result = fold.result()
    np.testing.assert_allclose(result.update, np.nanmedian(table, axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(result.coverage, (~np.isnan(table)).sum(0))


def test_a_long_model_is_sorted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = build_model("mlp(hidden=(8,))", (1, 2, 2), 3).spec
    own, rng = plan(spec, "nested", 1.0), np.random.default_rng(0)
    fold = TrimmedMean(spec.size, 0.5)
    for _ in range(3):
        update = torch.from_numpy(rng.normal(size=own.size)).float()
        fold.add(own, Payload(own.size, (DenseBlock(update),)), weight=1)
    whole = fold.result().update
    monkeypatch.setattr(robust, "_STRETCH", 7)
    assert torch.equal(fold.result().update, whole)


def test_an_update_of_another_size_and_parts_of_updates_are_refused() -> None:
    own = plan(build_model("mlp(hidden=(8,))", (1, 2, 2), 3).spec, "nested", 1.0)
    fold, short = TrimmedMean(own.size, 0.5), Payload(own.size - 1, (DenseBlock(torch.zeros(own.size - 1)),))
    with pytest.raises(ValueError, match=f"has {own.size - 1} coordinates, its plan {own.size}"):
        fold.add(own, short, 1)
    with pytest.raises(ValueError, match="parts of updates are for aggregation 'mean'"):
        fold.add(own, Payload(own.size, (DenseBlock(torch.zeros(own.size)),)), 1, labels=[0])


def test_nobody_gives_zero() -> None:
    result = TrimmedMean(4, 0.5).result()
    assert result.update.tolist() == [0, 0, 0, 0]
    assert result.coverage.tolist() == [0, 0, 0, 0]
