"""What a client's local steps add up to: against torch's own optimizer on a gradient of 1."""

import pytest
import torch

from fl_mlmc.aggregation.fednova import StepNorm, step_norm
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.training.optimizers import make_optimizer


@pytest.mark.parametrize("optimizer", ["sgd", "sgd(momentum=0.9)", "sgd(momentum=0.5, nesterov=True)",
                                       "sgd(momentum=0.5, dampening=0.3)"])  # fmt: skip
@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_the_norm_is_how_far_the_optimizer_goes_along_a_gradient_of_one(optimizer: str, proximal: float) -> None:
    rate, weight = 0.1, torch.zeros(1, dtype=torch.float64, requires_grad=True)
    made = make_optimizer(optimizer, [weight], rate)
    for steps in range(1, 7):
        weight.grad = torch.ones(1, dtype=torch.float64) + proximal * weight.detach()
        made.step()
        assert step_norm(steps, optimizer, rate * proximal) == pytest.approx(-float(weight.detach()) / rate, rel=1e-12)


def test_closed_forms_of_the_paper() -> None:
    assert step_norm(7, "sgd") == 7
    assert step_norm(7, "sgd(momentum=0.9)") == pytest.approx((7 - 0.9 * (1 - 0.9**7) / 0.1) / 0.1)
    assert step_norm(7, "sgd", 0.05) == pytest.approx((1 - 0.95**7) / 0.05)
    assert step_norm(2**31, "sgd(momentum=0.9)") == pytest.approx(10 * 2**31, rel=1e-6)  # a liar's count costs no time


def test_the_effective_number_of_steps_is_the_mean_by_examples() -> None:
    norm = StepNorm(RunConfig(local_epochs=2, batch_size=10).training)
    assert [norm.of(count, 1) for count in (5, 10, 25)] == [2, 2, 6]
    assert norm.effective([10, 25], 1) == pytest.approx((10 * 2 + 25 * 6) / 35)
    assert norm.effective([], 1) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client_optimizer": "adam"}, "known of client-optimizer 'sgd'.*'adam' scales its steps"),
        ({"scheme": "ef21", "compressor": "TopK(fraction=0.1)"}, "goes with scheme 'direct', not 'ef21': clients with"),
        ({"aggregation": "median"}, "one liar could move: aggregation 'median'"),
        ({"dp_clip": 1.0, "dp_noise": 1.0}, "counts all clients alike, and weighting 'fednova'"),
        ({"task": "bilevel", "scheme": "rafbo"}, "is for task 'classification'"),
    ],
)
def test_what_it_does_not_go_with_is_refused_with_the_reason(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig().changed(weighting="fednova", **changes)
