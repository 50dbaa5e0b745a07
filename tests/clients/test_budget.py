"""A device's uplink budget: kept by the length of what is sent, without a look at what was drawn."""

import numpy as np
import pytest
import torch

from fl_mlmc import Budget, TopK, parse
from fl_mlmc.clients.budget import check_budget, fitting
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.training.local import TrainingError

COMPRESSORS = [
    "TopK(fraction=0.1)",
    "TopK(count=500)",
    "RandK(fraction=0.1)",
    "RandK(fraction=0.1, values='bfloat16')",
    "MLMC(TopK(fraction=0.1))",
    "MLMC(TopK(fraction=0.05), draws=3)",
    "MLMC(TopK(fraction=0.05), draws=3, replacement=False)",
    "MLMC(TopK(fraction=0.02), values='bfloat16')",
    "MLMC(TopK(fraction=0.05), draws=3, values='bfloat16')",
    "TopK(fraction=0.35)",
    "TopK(fraction=0.9)",
    "RandK(fraction=0.5)",
    "MLMC(TopK(fraction=0.2), draws=3, replacement=False)",
    "Systematic(fraction=0.1)",
    "Systematic(fraction=0.4, values='bfloat16')",
]


def task(budget: int) -> TrainTask:
    return TrainTask(1, 0, "small", 0.5, "", uplink_budget=budget)


def vectors(size: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(size)
    normal = torch.from_numpy(rng.normal(size=size)).float()
    spiky = normal.clone()
    spiky[: size // 3] *= 1e4  # one cluster of large entries
    # Entries of one magnitude share values once they are bfloat16, and shared values travel shorter; these do not.
    wide = torch.from_numpy(np.exp(10 * rng.normal(size=size))).float()
    return [wide, normal, spiky, torch.ones(size), torch.zeros(size)]


@pytest.mark.parametrize("text", COMPRESSORS)
@pytest.mark.parametrize("size", [7, 1000, 20_000])
def test_no_payload_is_longer_than_the_bound(text: str, size: int) -> None:
    compressor = parse(text)
    bound = compressor.longest(size)
    assert bound is not None
    for vector in vectors(size):
        lengths = [len(compressor.encode(vector, np.random.default_rng(seed))) for seed in range(10)]
        assert max(lengths) <= bound
    wide, normal = (len(compressor.encode(vector, np.random.default_rng(0))) for vector in vectors(size)[:2])
    assert bound <= 1.3 * max(wide, normal) + 64


@pytest.mark.parametrize("text", COMPRESSORS)
@pytest.mark.parametrize("budget", [100, 700, 3000])
def test_what_does_not_fit_gives_way_to_the_budget_or_is_shortened(text: str, budget: int) -> None:
    size = 20_000
    whole = parse(text)
    chosen = fitting(whole, size, budget)
    for vector in vectors(size)[:: 4 if isinstance(chosen, Budget) else 1]:  # its own tests have the others
        assert all(len(chosen.encode(vector, np.random.default_rng(seed))) <= budget for seed in range(2))
    assert chosen.longest(size) <= budget  # type: ignore[operator]
    assert chosen is whole or isinstance(chosen, Budget if whole.is_unbiased else TopK)
    assert chosen is whole or chosen.longest(size) > 0.8 * budget  # type: ignore[operator]


def test_where_not_the_mean_is_taken_nothing_begins_to_rescale() -> None:
    assert fitting(parse("Identity()"), 1000, 50) == Budget(50)
    assert fitting(parse("Identity()"), 1000, 50, is_mean=False) == parse("Identity()")
    assert fitting(parse("RandK(fraction=0.5)"), 1000, 50, is_mean=False) == Budget(50)


def test_a_budget_that_is_wide_enough_changes_nothing() -> None:
    compressor = parse("MLMC(TopK(fraction=0.01))")
    assert fitting(compressor, 1000, 10_000) is compressor


def test_a_budget_below_one_coordinate_is_an_error() -> None:
    with pytest.raises(TrainingError, match="20 bytes does not hold a payload of one coordinate"):
        fitting(parse("TopK(fraction=0.1)"), 1000, 20)


@pytest.mark.parametrize("text", ["QSGD(levels=4)", "MLMC(FixedPoint(bits=8))", "MLMC(TopK(fraction=0.1, growth=2))"])
def test_a_compressor_without_a_fraction_is_left_alone_and_its_payload_checked(text: str) -> None:
    compressor = parse(text)
    assert fitting(compressor, 1000, 50) is compressor
    payload = compressor.encode(vectors(1000)[0], np.random.default_rng(0))
    check_budget([payload], compressor, task(len(payload)))
    check_budget([payload], compressor, task(0))
    with pytest.raises(TrainingError, match=f"{len(payload)} bytes is over the uplink-budget of {len(payload) - 1}"):
        check_budget([payload], compressor, task(len(payload) - 1))
