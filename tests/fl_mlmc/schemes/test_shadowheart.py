"""Shadowheart SGD: its equilibrium time, what each client does in it, and the weights that keep the mean unbiased."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from fl_mlmc import Identity, RandK
from fl_mlmc.run.clock import Pace
from fl_mlmc.schemes import Round, Turn, Workload, parse_scheme
from fl_mlmc.schemes.base import decoded
from fl_mlmc.schemes.shadowheart import Shadowheart, equilibrium_time
from fl_mlmc.theory import bench
from fl_mlmc.theory.problems import homogeneous
from fl_mlmc.theory.theorems import Setup


def test_the_equilibrium_of_equal_clients_solves_its_quadratic() -> None:
    # n equal clients: n s = 2τω + 4τhωr/s + 2hr, a quadratic in s.
    n, h, t, omega, noise = 5, 2.0, 3.0, 9.0, 7.0
    b, c = 2 * t * omega + 2 * h * noise, 4 * t * h * omega * noise
    expected = (b + math.sqrt(b * b + 4 * n * c)) / (2 * n)
    assert equilibrium_time([h] * n, [t] * n, omega, noise) == pytest.approx(expected)


@pytest.mark.parametrize("case", range(12))
def test_the_equilibrium_time_is_the_best_of_all_sets_of_clients(case: int) -> None:
    # The definition without its order: any set may work, for as long as its slowest member needs for one gradient and
    # one message, and as the set needs together; s on a grid of 1e-4.
    rng = np.random.default_rng(case)
    h, t = np.exp(rng.normal(0, 2, 5)), np.exp(rng.normal(0, 2, 5)) * (rng.random(5) > 0.2)
    omega, noise = float(np.exp(rng.normal(1, 1))), float(rng.exponential(3) * (case % 4 > 0))
    grid = np.geomspace(1e-4, 1e5, 210_000)[:, None]
    best = math.inf
    for count in range(1, 6):
        for chosen in map(list, combinations(range(5), count)):
            a, b = h[chosen], t[chosen]
            spent = 2 * b * omega + 4 * a * b * omega * noise / grid + 2 * a * noise
            enough = 1 / (1 / np.maximum(spent, 1e-12)).sum(axis=1) <= grid[:, 0]
            best = min(best, max(a.max(), b.max(), float(grid[enough.argmax(), 0])))
    assert equilibrium_time(h.tolist(), t.tolist(), omega, noise) == pytest.approx(best, rel=2e-4)


def test_the_equilibrium_time_ignores_who_is_too_slow_and_never_grows_with_more_clients() -> None:
    fast = equilibrium_time([1.0] * 4, [1.0] * 4, 3.0, 2.0)
    assert equilibrium_time([1.0] * 4 + [1e9], [1.0] * 4 + [1e9], 3.0, 2.0) == fast
    assert equilibrium_time([1.0] * 5, [1.0] * 5, 3.0, 2.0) < fast
    assert (
        equilibrium_time([1.0, 2.0], [0.5, 0.1], 0.0, 0.0) == 1.0
    )  # nothing lost, no noise: one gradient of the fastest
    with pytest.raises(ValueError, match="more than no time"):
        equilibrium_time([0.0], [1.0], 1.0, 1.0)


def test_clients_do_what_fits_the_time_and_slow_ones_are_idle() -> None:
    scheme = Shadowheart(noise=4.0).resolve(RandK(count=2), 10, 4)
    compute, message = [1.0, 2.0, 5.0, 1e6], [0.5, 3.0, 1e-9, 1.0]
    time, loads = equilibrium_time(compute, message, 4.0, 4.0), scheme.workloads(compute, message)
    for h, t, load in zip(compute[:3], message[:3], loads, strict=False):
        b, m = math.floor(time / h), min(math.floor(time / t), 5)
        assert (load.gradients, load.messages) == (b, m)
        assert load.weight == pytest.approx(b * m / (b * 4 + 4 * 4.0 + m * 4.0))
    assert loads[3] == Workload(0, 0, 0.0)


def test_a_round_lasts_until_the_slowest_client_has_computed_and_then_sent() -> None:
    # Messages are compressions of the finished sum, so a client's two times add up: max_i (b_i h_i + m_i τ_i) ≤ 2 t*.
    problem, compressor = homogeneous(3, 10, convexity=0.1), RandK(count=2)
    paces = [Pace(1.0, up=40.0), Pace(2.0, up=13.0), Pace(5.0, up=1e9)]
    plain = Setup(parse_scheme("direct"), compressor, 0.1, None, False)
    message_bytes = bench.run(problem, plain, 1).bits[1] / 8
    compute, message = [pace.step for pace in paces], [message_bytes / pace.up for pace in paces]
    scheme = Shadowheart(noise=4.0)
    loads = scheme.resolve(compressor, 10, 3).workloads(compute, message)
    trace = bench.run(problem, Setup(scheme, compressor, 0.1, None, False), 4, paces=paces)
    parts = [(load.gradients * h, load.messages * t) for load, h, t in zip(loads, compute, message, strict=True)]
    assert trace.seconds == pytest.approx(np.arange(5) * max(map(sum, parts)))
    time = equilibrium_time(compute, message, 4.0, 4.0)
    assert max(map(max, parts)) < time < 0.9 * trace.seconds[1]
    assert trace.seconds[1] <= 2 * time


def test_without_noise_and_compression_every_client_has_a_weight() -> None:
    loads = Shadowheart(noise=0.0).resolve(Identity(), 10, 2).workloads([1.0, 1.0], [1.0, 1.0])
    assert loads[0].weight == loads[1].weight > 0


def test_who_cannot_send_computes_nothing() -> None:
    loads = Shadowheart(noise=1.0).resolve(RandK(count=2), 10, 3).workloads([1.0, 1.0, 1.0], [1.0, 1.0, 1e9])
    assert loads[2] == Workload(0, 0, 0.0)


def test_a_message_is_the_mean_of_independent_compressions_of_the_mean_gradient() -> None:
    scheme = parse_scheme("shadowheart(4.0)").resolve(RandK(count=2), 10, 1)
    point, seen = torch.zeros(10), []

    def find(point: torch.Tensor, sample: int = 0) -> torch.Tensor:
        seen.append(sample)
        return torch.arange(10.0) + sample

    turn = Turn(Round(0, 1, 1, 1), 0, RandK(count=2), np.random.default_rng(0), workload=Workload(3, 400, 1.0))
    (message,), _ = scheme.encode(find, [point], {}, turn)
    assert seen == [0, 1, 2]
    assert message.expected_bits == 400 * RandK(count=2).compress(point, np.random.default_rng(0)).expected_bits
    torch.testing.assert_close(decoded(message, point), torch.arange(10.0) + 1, rtol=0.35, atol=0.8)


def test_a_straggler_costs_synchronous_rounds_and_not_shadowheart() -> None:
    problem, compressor = homogeneous(4, 12, convexity=0.1), RandK(count=4)
    paces = [[Pace(step, up=12.5) for step in (1.0, 1.0, 1.0, slow)] for slow in (1.0, 300.0)]
    for scheme, ratio in ((Shadowheart(8.0), 2.0), (parse_scheme("direct"), 40.0)):
        method = Setup(scheme, compressor, 0.25, None, False)
        seconds = [bench.run(problem, method, 400, sigma=0.5, paces=each, target=0.1).seconds_to(0.1) for each in paces]
        assert seconds[0] is not None
        assert seconds[1] is not None
        assert (seconds[1] / seconds[0] < ratio) == isinstance(scheme, Shadowheart)


def test_it_needs_the_clients_paces() -> None:
    with pytest.raises(ValueError, match="by the clients' paces"):
        bench.run(homogeneous(2, 4), Setup(Shadowheart(1.0), RandK(count=2), 0.1, None, False), 1)
