"""What ALGORITHMS says that RABO and RAFBO do on the bilevel quadratic, where ∇F is known exactly."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from fl_mlmc.bilevel import FiniteDifference, Held, Penalty, Point, Rabo, Rafbo, Steps, simulate
from fl_mlmc.bilevel.base import Method
from fl_mlmc.bilevel.quadratic import Quadratic, quadratic
from fl_mlmc.submodels import IndexPlan

NESTED = (1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25)


def held_by_rule(task: Quadratic, widths: Sequence[float], rule: str = "nested") -> Callable[[int, int], Held]:
    return cache(lambda server_round, client: Held.of(task.problem, rule, widths[client], server_round, client))


def final_gradient(
    task: Quadratic, method: Method, num_rounds: int, widths: Sequence[float] | None = None, rule: str = "nested"
) -> float:
    """‖∇F‖ after so many rounds; full masks by default."""
    held_of = held_by_rule(task, widths or [1.0] * len(task.clients), rule)
    trace = simulate(task.problem, task.clients, method, num_rounds, held_of)
    return float(task.hypergradient(trace.point.x).norm())


def first_gradient(task: Quadratic) -> float:
    return float(task.hypergradient(task.problem.start(0, torch.float64)[0]).norm())


@pytest.mark.parametrize(
    ("heterogeneity", "step", "num_rounds"), [(1.0, 0.2, 280), pytest.param(0.0, 0.1, 600, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("lower", ["global", "personal"])
def test_full_masks_are_exact(lower: str, heterogeneity: float, step: float, num_rounds: int) -> None:
    task = quadratic(num_clients=2, heterogeneity=heterogeneity, lower=lower)
    assert first_gradient(task) > 1
    assert final_gradient(task, Rabo(Steps(step, 0.5, 0.5)), num_rounds) < 1e-12


@pytest.mark.sweep(quick=lambda widths: len(widths) == 4)
@pytest.mark.parametrize(
    ("rule", "widths"),
    [("nested", NESTED[::2]), ("random", (0.5,) * 4), ("nested", NESTED), ("random", (0.5,) * 8)],
)
def test_masks_do_no_harm_where_coordinates_do_not_mix_and_clients_are_alike(
    rule: str, widths: tuple[float, ...]
) -> None:
    task = quadratic(num_clients=len(widths), heterogeneity=0.0, separable=True)
    assert final_gradient(task, Rabo(Steps(0.2, 0.5, 0.5)), 220, widths, rule) < 1e-12


@pytest.mark.parametrize(
    ("separable", "heterogeneity", "rule", "widths"),
    [
        (True, 1.0, "nested", NESTED),
        (False, 0.0, "nested", NESTED),
        (False, 0.0, "rolling", (0.5,) * 8),
    ],
)
def test_masks_that_do_not_match_leave_a_floor(
    separable: bool, heterogeneity: float, rule: str, widths: tuple[float, ...]
) -> None:
    task = quadratic(separable=separable, heterogeneity=heterogeneity)
    floor = final_gradient(task, Rabo(Steps(0.2, 0.5, 0.5)), 80, widths, rule)
    assert 0.2 < floor < first_gradient(task)


def test_the_floor_of_mismatched_masks_does_not_fall_with_the_step() -> None:
    task = quadratic(heterogeneity=0.0)
    coarse = final_gradient(task, Rabo(Steps(0.2, 0.5, 0.5)), 60, NESTED)
    fine = final_gradient(task, Rabo(Steps(0.1, 0.5, 0.5)), 120, NESTED)
    assert fine == pytest.approx(coarse, rel=0.01)


def test_local_steps_are_exact_where_clients_are_alike() -> None:
    task = quadratic(num_clients=2, heterogeneity=0.0)
    assert final_gradient(task, Rafbo(5, Steps(0.1, 0.4, 0.4)), 200) < 1e-12


def test_local_steps_leave_a_floor_in_proportion_to_the_step() -> None:
    task = quadratic(num_clients=2)
    floors = [
        final_gradient(task, Rafbo(5, Steps(eta, 4 * eta, 4 * eta)), round(3 / eta)) for eta in (0.1, 0.05, 0.025)
    ]
    assert all(1.5 < coarse / fine < 2.2 for coarse, fine in pairwise(floors)), floors


def test_clients_of_many_steps_do_not_pull_harder() -> None:
    """With normalised updates unequal numbers of local steps end near the common solution, without far from it."""
    task = quadratic(num_clients=2)
    steps = Steps(0.025, 0.1, 0.1)
    mixed = [Rafbo(1, steps), Rafbo(7, steps)]
    held_of = held_by_rule(task, (1.0, 1.0))
    trace = simulate(task.problem, task.clients, mixed, 100, held_of)
    alike = simulate(task.problem, task.clients, Rafbo(4, steps), 100, held_of)
    floors = [float(task.hypergradient(each.point.x).norm()) for each in (trace, alike)]
    assert floors[0] < 3 * floors[1], floors


@pytest.mark.parametrize(
    ("coverages", "num_rounds"), [((1, 8), 100), pytest.param((1, 2, 4, 8), 200, marks=pytest.mark.long)]
)
def test_noise_falls_with_coverage(coverages: tuple[int, ...], num_rounds: int) -> None:
    """E‖∇F‖² at some coverages: the eight clients hold windows of so many eighths, evenly spread."""
    size, burn_in = 128, 30
    task = quadratic(size=size, heterogeneity=0.0, separable=True, noise=0.5)
    floors = {}
    for coverage in coverages:
        squares: list[float] = []

        def observe(server_round: int, point: Point, squares: list[float] = squares) -> None:
            squares.append(float(task.hypergradient(point.x).square().sum()))

        trace = simulate(
            task.problem, task.clients, Rabo(Steps(0.2, 0.4, 0.4)), num_rounds, windows(task, coverage), observe=observe
        )
        assert {row.coverage_outer_min for row in trace.rows} == {coverage}
        assert {row.coverage_inner_min for row in trace.rows} == {coverage}
        floors[coverage] = float(np.mean(squares[burn_in:]))
    products = np.array([coverage * floor for coverage, floor in floors.items()])
    assert products.max() / products.min() < 1.2, floors
    for coverage, floor in floors.items():
        assert floor == pytest.approx(floors[1] / coverage, rel=0.25)


def windows(task: Quadratic, coverage: int) -> Callable[[int, int], Held]:
    """Client i of n holds the units from i/n of them on, `coverage`/n of them, around the end."""
    size, n = task.problem.outer_spec.size, len(task.clients)

    @cache
    def held(client: int) -> Held:
        kept = {"units": np.sort((client * size // n + np.arange(coverage * size // n)) % size)}
        return Held(task.problem, IndexPlan(task.problem.outer_spec, kept), IndexPlan(task.problem.inner_spec, kept))

    return lambda server_round, client: held(client)


def test_partial_participation_still_converges() -> None:
    task = quadratic(num_clients=6, heterogeneity=0.0)
    held_of = held_by_rule(task, [1.0] * 6)
    trace = simulate(task.problem, task.clients, Rafbo(3, Steps(0.1, 0.4, 0.4)), 320, held_of, cohort_size=2)
    assert float(task.hypergradient(trace.point.x).norm()) < 1e-12


def test_the_penalty_form_is_off_in_proportion_to_delta() -> None:
    task = quadratic(num_clients=2, heterogeneity=0.0)
    errors = [final_gradient(task, Rabo(Steps(0.1, 0.5, 0.5), Penalty(delta)), 450) for delta in (0.1, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.15), errors


def test_finite_differences_are_exact_on_quadratics_whatever_their_step() -> None:
    task = quadratic(num_clients=2)
    for epsilon in (1.0, 1e-2):
        method = Rabo(Steps(0.2, 0.5, 0.5), FiniteDifference(epsilon))
        assert final_gradient(task, method, 300) < 1e-12
