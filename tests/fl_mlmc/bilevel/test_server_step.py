"""The server's step, once for all methods."""

from dataclasses import replace

import pytest
import torch

from fl_mlmc.bilevel import Point, Rabo, Rafbo, Steps
from fl_mlmc.bilevel.base import Method
from fl_mlmc.bilevel.quadratic import quadratic
from fl_mlmc.bilevel.server_step import advance

PROBLEM = quadratic(num_clients=1, size=2).problem
POINT = Point(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([3.0, 0.0]))
UPDATE = Point(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]))


def values(point: Point) -> list[list[float]]:
    return [part.tolist() for part in point]


@pytest.mark.parametrize(
    ("method", "num_steps", "after"),
    [
        (Rabo(Steps(0.5, 0.25, 1.0)), 1, [[1.5, 1.5], [0.5, 0.0], [3.0, 4.0]]),
        (Rafbo(5), 0.5, [[1.5, 1.5], [1.0, 0.0], [3.0, 2.0]]),
        (Rafbo(5), 0, [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]),
    ],
)
def test_a_round_adds_the_mean_update_times_gain_and_steps(
    method: Method, num_steps: float, after: list[list[float]]
) -> None:
    assert values(advance(method, PROBLEM, POINT, UPDATE, num_steps)) == after


def test_v_ends_on_its_ball_and_x_and_y_do_not_care() -> None:
    bounded = replace(PROBLEM, strong_convexity=1.0, outer_gradient_bound=2.5)
    stepped = advance(Rabo(Steps(1.0, 1.0, 1.0)), bounded, POINT, UPDATE)
    assert values(stepped) == [[2.0, 1.0], [2.0, 0.0], [1.5, 2.0]]  # (3, 4) shortened from 5 to 2.5


def test_another_sum_gets_the_gained_change_and_its_v_is_kept_in_the_ball_too() -> None:
    bounded = replace(PROBLEM, strong_convexity=1.0, outer_gradient_bound=1.0)
    heard: list[Point] = []

    def jump(point: Point, change: Point) -> Point:
        heard.append(change)
        return Point(point.x, point.y, torch.tensor([0.0, 9.0]))

    stepped = advance(Rafbo(2), bounded, POINT, UPDATE, 2, jump)
    assert values(heard[0]) == [[2.0, -2.0], [4.0, 0.0], [0.0, 8.0]]
    assert values(stepped) == [[1.0, 2.0], [0.0, 0.0], [0.0, 1.0]]
