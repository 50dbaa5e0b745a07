"""Clipping, noise and what they amount to."""

import math
import sys

import pytest
import torch

from fl_mlmc.aggregation.private import PrivateMean, epsilon
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


def test_epsilon_of_all_clients_is_that_of_the_gaussian_mechanism() -> None:
    pytest.importorskip("dp_accounting")
    noise, delta, rounds = 8.0, 1e-5, 10
    # RDP of a Gaussian of sensitivity 2 and deviation `noise`, composed: 2 α rounds / noise²; Mironov 2017, Prop. 3.
    crude = min(2 * a * rounds / noise**2 + math.log(1 / delta) / (a - 1) for a in [1 + x / 10 for x in range(1, 2000)])
    assert 0.7 * crude < epsilon(noise, delta, 5, 5, rounds) <= crude


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling() -> None:
    pytest.importorskip("dp_accounting")
    base = epsilon(2.0, 1e-5, 10, 1000, 10)
    assert epsilon(2.0, 1e-5, 10, 1000, 20) > base > epsilon(4.0, 1e-5, 10, 1000, 10)
    assert epsilon(2.0, 1e-5, 100, 1000, 10) > base


def test_without_the_accountant_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ValueError, match=r"pip install 'fl-mlmc\[privacy\]'"):
        epsilon(1.0, 1e-5, 1, 1, 1)
