"""Single rounds against the recurrences as the papers write them, worked out by hand."""

import numpy as np
import pytest
import torch

from fl_mlmc import Identity, RandK, TopK
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.schemes import ADIANA, DASHAMVR, MARINA, Round, Turn, parse_scheme

Named = dict[str, tuple[float, ...]]


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def turn(number: int, compressor: Compressor | None = None) -> Turn:
    return Turn(Round(0, number, 1, 1), 0, compressor or Identity(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "memory", "sent", "after"),
    [
        ("direct", {}, (3, 0), {}),
        ("ef14", {"error": (0, 4)}, (0, 5), {"error": (3, 0)}),
        ("ef21", {"estimate": (2, 4)}, (0, -3), {"estimate": (2, 1)}),
        ("ef21_sgdm(0.25)", {"estimate": (2, 4)}, (0, -3), {"estimate": (2, 1), "momentum": (3, 1)}),
        ("ef21_sgdm(0.25)", {"estimate": (2, 4), "momentum": (7, 1)}, (4, 0), {"estimate": (6, 4), "momentum": (6, 1)}),
        ("ef_bv(0.5, 0.25)", {"shift": (2, 4)}, (0, -3), {"shift": (2, 2.5)}),
        ("diana(0.5)", {"shift": (2, 4)}, (0, -3), {"shift": (2, 2.5)}),
        ("dasha(0.5)", {"found": (1, 2), "estimate": (3, 0)}, (1, 0), {"found": (3, 1), "estimate": (4, 0)}),
        ("marina(1.0)", {"found": (1, 2)}, (3, 1), {"found": (3, 1)}),  # everything
        ("marina(1e-9)", {"found": (1, 2)}, (2, 0), {"found": (3, 1)}),  # the change
    ],
)
def test_a_client_that_finds_3_1_and_keeps_the_largest_does_as_written(
    text: str, memory: Named, sent: tuple[float, ...], after: Named
) -> None:
    found = vector(3, 1)
    kept = {name: vector(*values) for name, values in memory.items()}
    (message,), now = parse_scheme(text).encode(lambda point: found, [found], kept, turn(2, TopK(count=1)))
    assert message.payload.dense().tolist() == list(sent)
    assert {name: tuple(each.tolist()) for name, each in now.items()} == after


@pytest.mark.parametrize(
    ("text", "state", "direction", "after"),
    [
        ("direct", {}, (4,), {}),
        ("ef14", {}, (4,), {}),
        ("ef21", {"estimate": (1,)}, (2,), {"estimate": (2,)}),
        ("ef21_sgdm", {"estimate": (1,)}, (2,), {"estimate": (2,)}),
        ("ef_bv(0.5, 0.125)", {"shift": (1,)}, (1.5,), {"shift": (1.5,)}),
        ("diana(0.5)", {"shift": (1,)}, (5,), {"shift": (1.5,)}),
        ("dasha(0.5)", {"estimate": (1,)}, (2,), {"estimate": (2,)}),
        ("dasha_mvr(0.5)", {"estimate": (1,)}, (2,), {"estimate": (2,)}),
        ("marina(1.0)", {"estimate": (1,)}, (4,), {"estimate": (4,)}),
        ("marina(1e-9)", {"estimate": (1,)}, (2,), {"estimate": (2,)}),
    ],
)
def test_a_server_that_gets_a_mean_of_4_from_a_quarter_of_the_clients_does_as_written(
    text: str, state: Named, direction: tuple[float, ...], after: Named
) -> None:
    # Whoever is not sampled keeps its memory, so the mean of all memories moves by a quarter of the mean.
    before = {name: vector(*values) for name, values in state.items()}
    step, now = parse_scheme(text).estimate([vector(4)], vector(9), before, Round(0, 2, 8, 2), 0.25)
    assert tuple(step.tolist()) == direction
    assert {name: tuple(each.tolist()) for name, each in now.items()} == after


def test_adianas_memory_learns_from_the_anchor_alone() -> None:
    scheme = ADIANA(smoothness=2.0, convexity=0.5, omega=1.0, probability=1.0, step=0.1)
    points, memory = [vector(3, 1), vector(1, 5)], {"shift": vector(1, 1)}
    (here, anchor), after = scheme.encode(lambda point: 2 * point, points, memory, turn(2, TopK(count=1)))
    assert here.payload.dense().tolist() == [5, 0]
    assert anchor.payload.dense().tolist() == [0, 9]
    assert after["shift"].tolist() == [1, 5.5]
    state = {"shift": vector(0), "z": vector(0), "anchor": vector(0)}
    _, now = scheme.estimate([vector(1), vector(8)], vector(1), state, Round(0, 2, 4, 1), 0.25)
    assert now["shift"].tolist() == [1]


def test_adianas_anchor_moves_as_often_as_its_probability_says_and_to_the_model_before_the_step() -> None:
    scheme = ADIANA(smoothness=2.0, convexity=0.5, omega=1.0, probability=0.2, step=0.1)
    state = {"shift": vector(0), "z": vector(0), "anchor": vector(-7)}
    means, model = [vector(1), vector(1)], vector(5)
    assert scheme.points(model, state)[0].item() == -7 / 2 + (1 / 2 - 1 / 4) * 5  # θ1 is 1/4 at most
    anchors = [
        scheme.estimate(means, model, state, Round(0, number, 1, 1))[1]["anchor"].item() for number in range(600)
    ]
    assert set(anchors) == {5, -7}
    assert np.mean([each == 5 for each in anchors]) == pytest.approx(0.2, abs=0.05)


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


def test_local_steps_are_geometric_each_on_a_sample_of_its_own() -> None:
    scheme, start = parse_scheme("proxskip(0.5, 0.25)"), vector(8.0)
    memory, counts = {"control": vector(1.0)}, []
    for number in range(1, 601):
        seen: list[int] = []

        def find(point: torch.Tensor, sample: int = 0, seen: list[int] = seen) -> torch.Tensor:
            seen.append(sample)
            return point

        (message,), after = scheme.encode(find, [start], memory, turn(number))
        counts.append(len(seen))
        assert seen == list(range(counts[-1]))
        moved = 1 + 7 * 0.5 ** counts[-1] - 8  # x ← x − (x − h) / 2 from 8 towards h = 1
        assert message.payload.dense().item() == pytest.approx(moved, rel=1e-6)
        settled = scheme.settle(after, vector(-2.0))
        assert settled["control"].item() == pytest.approx(1 + 0.25 / 0.5 * (-2.0 - moved), rel=1e-6)
    assert np.mean(counts) == pytest.approx(4, rel=0.1)
    assert np.mean(np.array(counts) == 1) == pytest.approx(0.25, abs=0.05)
