"""Single rounds against the recurrences as the papers write them, with nothing lost to compression."""

import numpy as np
import pytest
import torch

from fl_mlmc import Identity, RandK
from fl_mlmc.schemes import ADIANA, DASHAMVR, MARINA, Round, Turn


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def turn(number: int) -> Turn:
    return Turn(Round(0, number, 1, 1), 0, Identity(), np.random.default_rng(0))


def test_adiana_moves_its_sequences_as_written() -> None:
    scheme = ADIANA(smoothness=2.0, convexity=0.5, omega=1.0, probability=1.0, step=0.1).resolve(Identity(), 2, 1)
    y, z, w, h = vector(1, 2), vector(-1, 0), vector(3, 1), vector(0.5, 0.5)
    state = {"shift": h, "z": z, "anchor": w}
    theta = min(0.25, (0.1 * 0.5 / 1.0) ** 0.5)
    x = theta * z + w / 2 + (1 - theta - 0.5) * y
    assert torch.allclose(torch.stack(scheme.points(y, state)), torch.stack([x, w]))

    first, second = vector(4, -4), vector(1, 3)
    direction, after = scheme.estimate([first, second], y, state, Round(0, 1, 1, 1))
    y_next = x - 0.1 * (h + first)
    gamma = 0.1 / (2 * (theta + 0.1 * 0.5))
    beta = 1 - gamma * 0.5
    assert torch.allclose(y - direction, y_next)
    assert torch.allclose(after["z"], beta * z + (1 - beta) * x + gamma / 0.1 * (y_next - x))
    assert torch.allclose(after["shift"], h + 0.5 * second)
    assert torch.equal(after["anchor"], y)


def test_marina_sends_everything_first_and_then_as_often_as_its_coin_says() -> None:
    scheme = MARINA(probability=0.25)
    full = [scheme.is_full(Round(0, number, 4, 4)) for number in range(1, 2001)]
    assert all(scheme.is_full(Round(seed, 1, 4, 4)) for seed in range(20))
    assert np.mean(full) == pytest.approx(0.25, abs=0.04)
    changing = Turn(Round(0, full.index(False) + 1, 4, 4), 0, RandK(count=1), np.random.default_rng(0))
    found = vector(1, 2, 3, 4)
    (message,), _ = scheme.encode(lambda point: found, [found], {"found": found}, changing)
    assert not message.payload.dense().any()


def test_dasha_mvr_corrects_its_momentum_by_the_same_sample_at_the_point_before() -> None:
    scheme = DASHAMVR(momentum=0.25, memory_step=0.5)
    h, g, x, before = vector(1.0), vector(2.0), vector(3.0), vector(5.0)
    memory = {"gradient": h, "estimate": g, "point": before}
    (message,), after = scheme.encode(lambda point: 2 * point, [x], memory, turn(2))
    h_next = 2 * x + 0.75 * (h - 2 * before)
    sent = h_next - h - 0.5 * (g - h)
    assert torch.equal(after["gradient"], h_next)
    assert torch.allclose(message.payload.dense().double(), sent)
    assert torch.allclose(after["estimate"], g + sent)
    assert torch.equal(after["point"], x)
