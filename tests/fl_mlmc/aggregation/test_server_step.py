import pytest
import torch

from fl_mlmc.aggregation import Mean, NotFiniteError, ServerOptimizer
from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.training.optimizers import OPTIMIZERS


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


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_every_optimizer_takes_the_largest_update_a_thousand_times(text: str) -> None:
    optimizer, vector = ServerOptimizer(text, 1.0, 2), torch.zeros(2)
    for _ in range(1000):
        vector = optimizer.step(vector, mean([LARGEST_UPDATE, -LARGEST_UPDATE], [1, 1]))
    assert vector[0] > 0 > vector[1]


@pytest.mark.parametrize(
    ("text", "rate", "update", "what"),
    [
        ("sgd", 1e10, 1e30, "the model"),
        ("sgd(momentum=0.9)", 1e10, 1e30, "the model"),
        ("adam", 0.1, 1e25, "exp_avg_sq"),  # the model would be finite, and stand still for ever
        ("adagrad", 0.1, 1e25, "sum"),
        ("rmsprop", 0.1, 1e25, "square_avg"),
    ],
)
def test_a_step_out_of_range_is_refused_and_changes_nothing(text: str, rate: float, update: float, what: str) -> None:
    optimizer, other = ServerOptimizer(text, rate, 2), ServerOptimizer(text, rate, 2)
    first = optimizer.step(torch.zeros(2), mean([1e-9, 0.0], [1, 1]))
    other.step(torch.zeros(2), mean([1e-9, 0.0], [1, 1]))
    kept = {name: value.clone() for name, value in optimizer.state().items()}
    with pytest.raises(NotFiniteError, match=rf"would make .*{what}.* not finite, by a mean whose largest"):
        optimizer.step(first, mean([1.0, update], [1, 1]))
    assert all(torch.equal(value, kept[name]) for name, value in optimizer.state().items())
    assert torch.equal(optimizer.step(first, mean([0.1, 0.1], [1, 1])), other.step(first, mean([0.1, 0.1], [1, 1])))


def test_a_later_step_does_not_write_over_a_state_that_was_given_out() -> None:
    optimizer = ServerOptimizer("adam", 0.1, 1)
    once = optimizer.step(torch.zeros(1), mean([1.0], [1]))
    state = optimizer.state()
    kept = {name: value.clone() for name, value in state.items()}
    optimizer.step(once, mean([5.0], [1]))
    assert all(torch.equal(value, kept[name]) for name, value in state.items())
