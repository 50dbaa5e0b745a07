import torch

from fl_mlmc.aggregation.mean import Mean
from fl_mlmc.aggregation.server_step import ServerOptimizer


def mean(update: list[float], coverage: list[int]) -> Mean:
    return Mean(torch.tensor(update), torch.tensor(coverage, dtype=torch.int32))


def test_sgd_at_rate_one_adds_the_mean() -> None:
    before = torch.tensor([1.0, 2.0])
    after = ServerOptimizer("sgd", 1.0, 2).step(before, mean([0.5, -1.0], [1, 1]))
    assert after.tolist() == [1.5, 1.0]
    assert before.tolist() == [1.0, 2.0]


def test_momentum_is_kept_between_rounds() -> None:
    optimizer = ServerOptimizer("sgd(momentum=0.5)", 1.0, 1)
    once = optimizer.step(torch.zeros(1), mean([1.0], [1]))
    assert optimizer.step(once, mean([1.0], [1])).tolist() == [2.5]


def test_what_nobody_held_does_not_move() -> None:
    optimizer = ServerOptimizer("adam", 0.1, 2)
    step = optimizer.step(torch.zeros(2), mean([1.0, 1.0], [1, 1]))
    assert optimizer.step(step, mean([1.0, 0.0], [1, 0]))[1] == step[1]
