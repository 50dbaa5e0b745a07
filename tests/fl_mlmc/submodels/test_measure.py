import pytest
import torch
from torch import nn

from fl_mlmc.models import build_model
from fl_mlmc.submodels.measure import StepCost, measure_step, widest_tier
from fl_mlmc.submodels.tier import parse_tiers

MODEL = build_model("mlp(hidden=(100,))", (10,), 3)
BATCH = torch.randn(8, 10), torch.zeros(8, dtype=torch.int64)


def by_size(module, inputs, labels):
    size = sum(parameter.numel() for parameter in module.parameters())
    return StepCost(seconds=size / 1000, memory_bytes=size * 10)


@pytest.mark.parametrize(
    ("budget", "name"), [("seconds=9", "wide"), ("seconds=1", "middle"), ("memory=9000", "middle"), ("up=1", "wide")]
)
def test_the_widest_tier_within_its_own_budget_is_chosen(budget, name):
    tiers = parse_tiers(f"narrow:0.1:0.3,wide:1:0.4:{budget},middle:0.5:0.3:{budget}")
    assert widest_tier(MODEL, tiers, *BATCH, measure=by_size).name == name


def test_no_tier_within_budget_is_an_error_that_says_what_was_measured():
    tiers = parse_tiers("a:0.5:0.5:seconds=0.1,b:1:0.5:seconds=0.2")
    with pytest.raises(ValueError, match=r"no tier \(b: 1\.4 s of 0\.2, 1\.4e\+04 bytes of inf; a: 0\.703 s of"):
        widest_tier(MODEL, tiers, *BATCH, measure=by_size)


def test_a_step_takes_time_and_holds_state_and_activations():
    narrow = measure_step(nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3)), *BATCH)
    wide = measure_step(nn.Sequential(nn.Linear(10, 2000), nn.ReLU(), nn.Linear(2000, 3)), *BATCH)
    assert 0 < narrow.seconds < 1
    parameters = 10 * 2000 + 2000 + 2000 * 3 + 3
    assert 12 * parameters + 4 * 8 * 2000 <= wide.memory_bytes <= 12 * parameters + 3 * 4 * 8 * 2000
    assert narrow.memory_bytes < wide.memory_bytes / 10
