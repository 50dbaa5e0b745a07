"""A group's sum is the same wherever it was made, and sums of groups are added in their order."""

import doctest
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.aggregation import CoverageMean, Groups, GroupSum, Mean, PrivateMean, TrimmedMean, groups
from fl_mlmc.compression.blocks import DenseBlock, Payload, SparseBlock
from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan

SPEC = build_model("mlp(hidden=(6,))", (4,), 3).spec
PLANS = {width: plan(SPEC, "nested", width) for width in (0.5, 1.0)}


def test_the_example_is_true() -> None:
    assert doctest.testmod(groups).attempted > 0
    assert doctest.testmod(groups).failed == 0


@settings(max_examples=30, deadline=None)
@given(cohort_size=st.integers(0, 3000) | st.just(300_000))
def test_groups_are_all_of_the_cohort_in_its_order_and_follow_from_its_size_alone(cohort_size: int) -> None:
    cut = Groups(cohort_size)
    own = [cut.ranks(number) for number in range(len(cut))]
    assert sum(map(len, own)) == cohort_size
    assert [ranks[0] for ranks in own] == list(range(0, cohort_size, cut.size))
    for number in {0, len(cut) // 2, len(cut) - 1} if cohort_size else ():
        assert {cut.of(rank) for rank in own[number]} == {number}
        assert [rank for rank in own[number] if cut.ends_at(rank)] == [own[number][-1]]


def client(rng: np.random.Generator) -> dict[str, Any]:
    """What a fold is told of a client, with blocks, labels and parts of any kind."""
    own = PLANS[float(rng.choice([0.5, 1.0]))]
    values = torch.from_numpy(rng.standard_normal(own.size) * 10.0 ** rng.integers(-6, 6, own.size)).float()
    where = torch.from_numpy(np.sort(rng.choice(own.size, own.size // 4, replace=False)))
    block = SparseBlock(own.size, where, values[where]) if rng.random() < 0.5 else DenseBlock(values)
    told: dict[str, Any] = {"plan": own, "payload": Payload(own.size, (block,)), "weight": float(rng.integers(1, 999))}
    kind = rng.integers(3)
    return told | ({"labels": [0, 2]} if kind == 1 else {"only": where} if kind == 2 else {})


def counted(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "payload"}


def same(first: Mean, second: Mean) -> bool:
    return torch.equal(first.update, second.update) and torch.equal(first.coverage, second.coverage)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cohort_size=st.integers(1, 20), num_workers=st.integers(1, 5))
def test_who_sums_a_group_changes_no_byte(seed: int, cohort_size: int, num_workers: int) -> None:
    rng = np.random.default_rng(seed)
    cohort = [client(rng) for _ in range(cohort_size)]
    cut = Groups(cohort_size)
    here, plain, mixed = (CoverageMean(SPEC.size) for _ in range(3))
    for rank, told in enumerate(cohort):
        here.add(**told)
        plain.add(**told)
        if cut.ends_at(rank):
            here.end_group()
    workers = [CoverageMean(SPEC.size) for _ in range(num_workers)]
    sums: dict[int, bytes] = {}
    for number in rng.permutation(len(cut)):  # groups end in any order, on any worker
        worker = workers[rng.integers(num_workers)]
        for rank in cut.ranks(number):
            worker.add(**cohort[rank])
        sums[number] = pickle.dumps(worker.group_sum())
    for number in range(len(cut)):
        alone = number % 3 == 2  # one that came client by client
        for rank in cut.ranks(number):
            mixed.add(**cohort[rank]) if alone else mixed.count(**counted(cohort[rank]))
        mixed.end_group() if alone else mixed.merge(pickle.loads(sums[number]))
    assert same(mixed.result(), here.result())
    torch.testing.assert_close(here.result().update, plain.result().update, rtol=1e-5, atol=1e-9)
    assert torch.equal(here.result().coverage, plain.result().coverage)


def test_a_sum_travels_in_the_shorter_form() -> None:
    sums = torch.zeros(90, dtype=torch.float64)
    assert GroupSum.of(sums).num_bytes == 0
    sums[:59] = 0.1
    assert GroupSum.of(sums).num_bytes == 59 * 12
    sums[59] = 0.1
    assert GroupSum.of(sums).num_bytes == 90 * 8
    for count in (3, 80):
        sums = torch.zeros(90, dtype=torch.float64)
        sums[:count] = -0.1
        total = torch.full((90,), 0.3, dtype=torch.float64)
        GroupSum.of(sums).add_to(total)
        assert torch.equal(total, 0.3 + sums)


def test_a_sum_out_of_its_place_or_of_another_model_is_refused() -> None:
    fold, told = CoverageMean(SPEC.size), client(np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"the group's sum has 3 coordinates, the model {SPEC.size}"):
        fold.merge(GroupSum(3, np.zeros(3)))
    fold.add(**told)
    with pytest.raises(RuntimeError, match="a group is under way"):
        fold.merge(GroupSum(SPEC.size, np.zeros(SPEC.size)))


@pytest.mark.parametrize("fold", [TrimmedMean(4, 0.5), PrivateMean(1.0, 1.0, torch.ones(4))])
def test_a_fold_that_is_no_sum_says_so(fold: TrimmedMean | PrivateMean) -> None:
    assert not fold.is_sum
    with pytest.raises(NotImplementedError, match="needs every single update"):
        fold.group_sum()
