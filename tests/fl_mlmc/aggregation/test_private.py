"""Clipping, noise and what they amount to."""

import pytest
import torch

from fl_mlmc.aggregation.private import PrivateMean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan

SPEC = build_model("mlp(hidden=(8,))", (1, 2, 2), 3).spec


def folded(fold: PrivateMean, *updates: torch.Tensor) -> torch.Tensor:
    own = plan(SPEC, "nested", 1.0)
    for update in updates:
        fold.add(own, Payload(own.size, (DenseBlock(update),)), weight=5)
    return fold.result().update


def test_a_long_update_is_shortened_and_a_short_one_is_not() -> None:
    long, short = torch.zeros(SPEC.size), torch.zeros(SPEC.size)
    long[0], short[1] = 100.0, 0.5
    expected = torch.full((SPEC.size,), 4.0, dtype=torch.float64)
    result = folded(PrivateMean(2.0, 1e-12, expected), long, short)
    assert result[:2].tolist() == pytest.approx([2.0 / 4, 0.5 / 4])


def test_the_divisor_is_not_who_answered() -> None:
    expected = torch.full((SPEC.size,), 3.0, dtype=torch.float64)
    update = torch.zeros(SPEC.size)
    update[0] = 0.3
    assert folded(PrivateMean(1.0, 1e-12, expected), update)[0] == pytest.approx(0.1)


def test_noise_has_the_stated_size_and_never_repeats() -> None:
    size = 200_000
    draws = [PrivateMean(0.5, 3.0, torch.full((size,), 2.0, dtype=torch.float64)).result().update for _ in range(2)]
    assert float(draws[0].std()) == pytest.approx(3.0 * 0.5 / 2, rel=0.02)
    assert abs(float(draws[0].mean())) < 0.01
    assert not torch.equal(*draws)


def test_what_nobody_holds_gets_no_noise() -> None:
    assert PrivateMean(1.0, 1.0, torch.zeros(5, dtype=torch.float64)).result().update.tolist() == [0.0] * 5
