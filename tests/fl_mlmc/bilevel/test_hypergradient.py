"""The estimators against exact Hessian-vector products, which only these tests build."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from fl_mlmc.bilevel import BilevelProblem, Estimator, Exact, FiniteDifference, Held, Penalty, Point
from fl_mlmc.bilevel.quadratic import quadratic
from fl_mlmc.submodels import Axis, WidthSpec


class Data:
    """No minibatches: the losses below are functions of x and y alone."""

    def inner(self, rng: np.random.Generator) -> None: ...

    def outer(self, rng: np.random.Generator) -> None: ...


def curved(size: int = 6) -> BilevelProblem:
    """Smooth losses whose third and fourth derivatives do not vanish."""
    spec = {name: WidthSpec({"units": size}, {name: (size,)}, {name: (Axis("units"),)}) for name in "xy"}
    return BilevelProblem(
        outer_loss=lambda x, y, batch: (y["y"] - 1).square().sum() / 2 + (x["x"] * y["y"]).sin().sum(),
        inner_loss=lambda x, y, batch: (x["x"].exp() * y["y"]).exp().sum() + y["y"].pow(4).sum() / 4,
        outer_spec=spec["x"],
        inner_spec=spec["y"],
        strong_convexity=0.1,
        sliced=False,
    )


def point_of(size: int, scale: float = 0.5, seed: int = 0) -> Point:
    generator = torch.Generator().manual_seed(seed)
    return Point(*(scale * torch.randn(3, size, generator=generator, dtype=torch.float64)))


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_error_falls_with_the_square_of_delta(width: float) -> None:
    held = Held.of(curved(), "nested", width)
    x, y, v = held.gather(point_of(6))
    exact = Exact().products(held, x, y, v, None)
    errors = []
    for epsilon in (0.3, 0.03, 0.003):
        products = FiniteDifference(epsilon).products(held, x, y, v, None)
        errors.append([float((estimate - true).norm()) for estimate, true in zip(products, exact, strict=True)])
    for coarse, fine in pairwise(np.array(errors)):
        np.testing.assert_allclose(coarse / fine, 100, rtol=0.1)


def test_the_quartic_term_costs_what_it_should() -> None:
    """On (c/4) Σ y⁴ the error of Hv is exactly c δ² v³."""
    task = quadratic(num_clients=1, quartic=0.7)
    held = Held.of(task.problem, "nested", 1.0)
    x, y, v = point_of(12)
    batch = task.clients[0].inner(np.random.default_rng(0))
    hv, jv = FiniteDifference(0.1).products(held, x, y, v, batch)
    exact_hv, exact_jv = Exact().products(held, x, y, v, batch)
    torch.testing.assert_close(hv - exact_hv, 0.7 * (0.1 / v.norm()) ** 2 * v**3, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(jv, exact_jv, rtol=1e-11, atol=1e-12)


def test_at_the_solution_the_outer_direction_is_the_hypergradient() -> None:
    task = quadratic(num_clients=1)
    (client,) = task.clients
    held = Held.of(task.problem, "nested", 1.0)
    x = point_of(12).x
    y = torch.linalg.solve(client.A, client.B @ x + client.b)
    point = Point(x, y, torch.linalg.solve(client.A, y - client.t))
    seen = FiniteDifference().directions(held, point, client, np.random.default_rng(0))
    torch.testing.assert_close(seen.outer, task.hypergradient(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen.inner, torch.zeros_like(y), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen.system, torch.zeros_like(y), rtol=0, atol=1e-10)


def test_the_closed_form_is_the_derivative_of_the_outer_objective() -> None:
    """The oracle itself, against differences of F in each direction of x."""
    for lower in ("global", "personal"):
        task = quadratic(num_clients=3, size=4, lower=lower)  # type: ignore[arg-type]
        x, eye = point_of(4).x, torch.eye(4, dtype=torch.float64)
        slopes = [(task.objective(x + 1e-4 * unit) - task.objective(x - 1e-4 * unit)) / 2e-4 for unit in eye]
        torch.testing.assert_close(task.hypergradient(x), torch.stack(slopes), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("estimator", [FiniteDifference(), Penalty()])
def test_a_step_takes_four_first_order_backward_passes(estimator: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[bool] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(options.get("create_graph", False))
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    estimator.directions(Held.of(curved(), "nested", 1.0), point_of(6), Data(), np.random.default_rng(0))
    assert passes == [False] * 4


def test_both_signs_of_a_difference_see_the_same_minibatch() -> None:
    """The noise of g's gradients is far larger than the difference, and cancels."""
    task = quadratic(num_clients=1, noise=100.0)
    held = Held.of(task.problem, "nested", 1.0)
    x, y, v = point_of(12)
    batch = task.clients[0].inner(np.random.default_rng(0))
    hv, _ = FiniteDifference(1.0).products(held, x, y, v, batch)
    torch.testing.assert_close(hv, task.clients[0].A @ v, rtol=1e-9, atol=1e-9)


def test_directions_stay_inside_the_submodel() -> None:
    """Gradients at the cut point equal those of the full losses with all else at zero, cut."""
    task = quadratic(num_clients=1)
    held = Held.of(task.problem, "random", 0.5, client=3)
    point = point_of(12)
    own = FiniteDifference().directions(held, held.gather(point), task.clients[0], np.random.default_rng(0))
    full = Held.of(task.problem, "nested", 1.0)
    zeroed = Point(
        *(torch.zeros_like(part).index_copy(0, held.outer.indices, held.outer.gather(part)) for part in point)
    )
    whole = FiniteDifference().directions(full, zeroed, task.clients[0], np.random.default_rng(0))
    for part, expected in zip(own[:3], whole[:3], strict=True):
        torch.testing.assert_close(part, held.outer.gather(expected), rtol=1e-10, atol=1e-10)


def test_v_is_kept_in_its_ball() -> None:
    estimator, v = FiniteDifference(), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(estimator.project(v, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(estimator.project(v, 6.0), v)
    assert torch.equal(estimator.project(v, float("inf")), v)
    assert torch.equal(estimator.project(torch.zeros(2), 1.0), torch.zeros(2))


def test_nothing_breaks_at_v_zero() -> None:
    point = point_of(6)._replace(v=torch.zeros(6, dtype=torch.float64))
    held = Held.of(curved(), "nested", 1.0)
    seen = FiniteDifference().directions(held, point, Data(), np.random.default_rng(0))
    assert seen.outer.isfinite().all()
    assert seen.system.isfinite().all()
    assert seen.curvature.isnan()
