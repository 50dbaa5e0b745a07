import dataclasses
import re
from typing import Any

import pytest
import torch

from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.bilevel import DivergenceError, Held, NotStronglyConvexError, Rabo, Rafbo, Steps, Trace, simulate
from fl_mlmc.bilevel.base import Method
from fl_mlmc.bilevel.quadratic import Quadratic, quadratic
from fl_mlmc.bilevel.simulate import covered_mean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.submodels import plan


def go(
    task: Quadratic, width: float = 1.0, num_rounds: int = 30, method: Method | None = None, **options: Any
) -> Trace:
    return simulate(
        task.problem,
        task.clients,
        method or Rabo(),
        num_rounds,
        lambda server_round, client: Held.of(task.problem, "nested", width, server_round, client),
        **options,
    )


def test_the_plain_mean_is_the_coverage_mean() -> None:
    spec = quadratic(num_clients=1).problem.state_spec
    plans = [plan(spec, "random", width, 3, client) for client, width in enumerate((0.25, 0.5, 0.5))]
    updates = [torch.randn(each.size) for each in plans]
    plain, count = covered_mean(plans, updates)
    mean = CoverageMean(spec.size)
    for each, update in zip(plans, updates, strict=True):
        mean.add(each, Payload(each.size, (DenseBlock(update),)), 1.0)
    torch.testing.assert_close(plain, mean.result().update)
    assert count.tolist() == mean.result().coverage.tolist()


@pytest.mark.parametrize(("lower", "values", "inner"), [("global", 3 * 6 * 3, 0), ("personal", 3 * 6, None)])
def test_the_log_tells_coverage_and_values_sent(lower: str, values: int, inner: int | None) -> None:
    trace = go(quadratic(num_clients=3, lower=lower), width=0.5)  # type: ignore[arg-type]
    row = trace.rows[-1]
    assert (row.coverage_outer_min, row.coverage_inner_min, row.uplink_values) == (0, inner, values)


def test_coordinates_that_nobody_ever_holds_are_reported() -> None:
    task = quadratic(num_clients=2)
    assert go(task, width=0.5).uncovered == {"x": 6}
    assert go(task).uncovered == {}


def test_uncovered_coordinates_keep_their_value() -> None:
    task = quadratic(num_clients=2)
    start = torch.ones(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    point = go(task, width=0.5, start=start).point
    assert (point.x[6:] == 1).all()
    assert (point.y[6:] == 1).all()
    assert (point.x[:6] != 1).all()


def test_one_local_step_is_rabo() -> None:
    task, steps = quadratic(num_clients=2), Steps(0.1, 0.3, 0.3)
    one, other = go(task, method=Rabo(steps)).point, go(task, method=Rafbo(1, steps)).point
    for part, expected in zip(one, other, strict=True):
        torch.testing.assert_close(part, expected)


def test_a_personal_y_stays_with_its_client() -> None:
    task = quadratic(num_clients=3, lower="personal")
    trace = go(task, cohort_size=2, num_rounds=5)
    assert not trace.point.y.any()
    assert not trace.point.v.any()
    assert set(trace.personal) <= {0, 1, 2}
    first, second = list(trace.personal.values())[:2]
    assert not torch.equal(first.y, second.y)


def test_same_seed_same_run() -> None:
    task = quadratic(num_clients=4, noise=0.3)
    runs = [go(task, num_rounds=3, cohort_size=2, seed=seed).point.x for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("method", [Rabo(), Rafbo(2)])
@pytest.mark.parametrize("lower", ["global", "personal"])
def test_v_never_leaves_its_ball(method: Method, lower: str) -> None:
    task = quadratic(num_clients=2, lower=lower)  # type: ignore[arg-type]
    problem = dataclasses.replace(task.problem, strong_convexity=0.5, outer_gradient_bound=0.05)
    trace = go(dataclasses.replace(task, problem=problem), method=method)
    points = [trace.point] if lower == "global" else list(trace.personal.values())
    for point in points:
        assert 0.05 < float(point.v.norm()) <= 0.1 * (1 + 1e-6)


def concave(task: Quadratic, shift: float) -> Quadratic:
    """The same problem with the inner Hessians moved down by `shift`."""
    eye = torch.eye(len(task.clients[0].b), dtype=torch.float64)
    clients = tuple(dataclasses.replace(client, A=client.A - shift * eye) for client in task.clients)
    return dataclasses.replace(task, clients=clients)


def test_an_inner_loss_that_is_not_strongly_convex_ends_in_advice_that_helps() -> None:
    task = concave(quadratic(num_clients=2), 2.0)
    with pytest.raises(NotStronglyConvexError, match="Try strong_convexity = ") as caught:
        go(task, num_rounds=300)
    advised = float(re.search(r"Try strong_convexity = (\S+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    helped = dataclasses.replace(task, problem=dataclasses.replace(task.problem, strong_convexity=advised))
    assert go(helped, num_rounds=300).rows[-1].curvature > advised / 2


def test_steps_that_are_too_long_are_told_from_it() -> None:
    with pytest.raises(DivergenceError, match="Take shorter steps") as caught:
        go(quadratic(num_clients=2), num_rounds=300, method=Rabo(Steps(0.05, 0.2, 20.0)))
    assert not isinstance(caught.value, NotStronglyConvexError)
