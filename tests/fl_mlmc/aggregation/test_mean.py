import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl_mlmc import parse
from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.compression.blocks import DenseBlock, Payload, SparseBlock
from fl_mlmc.submodels import WidthSpec, plan
from fl_mlmc.submodels.laws import reference_mean
from fl_mlmc.submodels.plan import IndexPlan
from fl_mlmc.submodels.rules import RULES

ROOT = Path(__file__).parents[3]
SPEC = WidthSpec.of(nn.Linear(3, 4), {"out": 4, "in": 3}, {"weight": ("out", "in"), "bias": ("out",)})


def dense(values):
    return Payload(len(values), (DenseBlock(torch.as_tensor(values, dtype=torch.float32)),))


def test_memory_does_not_grow_with_the_number_of_replies():
    # In a process of its own: the peak of this one may lie behind it. Every client has a plan of its own.
    code = r"""
import re, torch
from pathlib import Path
from torch import nn
from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.submodels import WidthSpec, plan
spec = WidthSpec.of(nn.Linear(1000, 1000, device="meta"), {"o": 1000, "i": 1000}, {"weight": "oi", "bias": "o"})
mean = CoverageMean(spec.size)
for client in range(100):
    own = plan(spec, "random", 0.5, 1, client)
    mean.add(own, Payload(own.size, (DenseBlock(torch.ones(own.size)),)), 1.0)
    if client in (19, 99):
        # Not ru_maxrss, which begins with that of the process that started this one.
        print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
assert int(mean.result().coverage.max()) > 20
"""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}  # what is freed is gone, not kept in pieces
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    after_20, after_100 = map(int, done.stdout.split())
    assert after_100 - after_20 < 20, f"peak memory went from {after_20} to {after_100} MiB by 80 updates of 1 MiB"


def test_heterofl_on_a_toy_case_done_by_hand():
    # A 2 × 2 layer without bias. Client A holds all of it, client B the first row and column only.
    spec = WidthSpec.of(nn.Linear(2, 2, bias=False), {"o": 2, "i": 2}, {"weight": ("o", "i")})
    mean = CoverageMean(4)
    mean.add(plan(spec, "nested", 1.0), dense([1.0, 2.0, 3.0, 4.0]), 1.0)
    mean.add(plan(spec, "nested", 0.5), dense([5.0]), 1.0)
    result = mean.result()
    assert result.update.tolist() == [3.0, 2.0, 3.0, 4.0]  # (1 + 5) / 2, and A alone elsewhere
    assert result.coverage.tolist() == [2, 1, 1, 1]


def test_an_update_counts_only_where_it_says_that_it_speaks():
    spec = WidthSpec.of(nn.Linear(2, 2, bias=False), {"o": 2, "i": 2}, {"weight": ("o", "i")})
    mean = CoverageMean(4)
    mean.add(plan(spec, "nested", 1.0), dense([1.0, 2.0, 3.0, 4.0]), 1.0, only=torch.tensor([0, 3]))
    mean.add(plan(spec, "nested", 1.0), dense([6.0, 6.0, 6.0, 6.0]), 3.0, only=torch.tensor([2, 3]))
    mean.add(plan(spec, "nested", 0.5), dense([5.0]), 1.0, only=torch.tensor([0]))
    result = mean.result()
    assert result.update.tolist() == [3.0, 0.0, 6.0, 5.5]
    assert result.coverage.tolist() == [2, 0, 1, 2]


def test_a_coordinate_that_nobody_holds_gets_no_update():
    mean = CoverageMean(SPEC.size)
    own = plan(SPEC, "nested", 0.5)
    mean.add(own, dense(np.ones(own.size)), 2.0)
    result = mean.result()
    held = torch.zeros(SPEC.size, dtype=torch.bool)
    held[own.indices] = True
    assert torch.equal(result.coverage > 0, held)
    assert torch.equal(result.update, held.float())


@st.composite
def cohorts(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    updates = []
    for client in range(draw(st.integers(0, 20))):
        rule = draw(st.sampled_from(["nested", "any"]))
        if rule == "nested":
            own = plan(SPEC, rule, draw(st.sampled_from([0.25, 0.5, 1.0])), 1, client)
        else:
            kept = {n: np.sort(rng.choice(u, rng.integers(1, u + 1), replace=False)) for n, u in SPEC.units.items()}
            own = IndexPlan(SPEC, kept)
        update = torch.from_numpy(rng.standard_normal(own.size)).float()
        updates.append((own, update, float(rng.integers(1, 50))))
    return updates


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.booleans())
def test_the_mean_equals_its_ten_line_reference(updates, sparse):
    mean = CoverageMean(SPEC.size)
    for own, update, weight in updates:
        if sparse:
            places = torch.arange(own.size)[::2]
            update[1::2] = 0.0
            mean.add(own, Payload(own.size, (SparseBlock(own.size, places, update[places]),)), weight)
        else:
            mean.add(own, dense(update), weight)
    expected, coverage = reference_mean(SPEC.size, updates)
    result = mean.result()
    torch.testing.assert_close(result.update.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(result.coverage, coverage)


def test_at_full_width_the_mean_is_the_weighted_mean_of_all():
    rng = np.random.default_rng(0)
    own = plan(SPEC, "nested", 1.0)
    updates = rng.standard_normal((5, SPEC.size)).astype(np.float32)
    weights = np.array([1.0, 4.0, 2.0, 3.0, 10.0])
    mean = CoverageMean(SPEC.size)
    for update, weight in zip(updates, weights, strict=True):
        mean.add(own, dense(update), weight)
    np.testing.assert_allclose(mean.result().update, weights @ updates / weights.sum(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("text", ["MLMC(TopK(count=3))", "MLMC(FixedPoint(bits=3, unit=1.0), 'fixed')"])
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"depth"}))
def test_unbiased_compression_stays_unbiased_through_tiers(rule, text):
    """Enumerated: the mean over all pairs of outcomes of two clients is the mean of their uncompressed updates."""
    rng = np.random.default_rng(3)
    compressor = parse(text)
    plans = [plan(SPEC, rule, width, 1, client) for client, width in enumerate((0.5, 1.0))]
    updates = [torch.from_numpy(rng.standard_normal(own.size)).float() for own in plans]
    outcomes = [list(compressor.outcomes(update)) for update in updates]
    expectation = torch.zeros(SPEC.size, dtype=torch.float64)
    for p0, first in outcomes[0]:
        for p1, second in outcomes[1]:
            mean = CoverageMean(SPEC.size)
            mean.add(plans[0], first, 3.0)
            mean.add(plans[1], second, 5.0)
            expectation += p0 * p1 * mean.result().update.double()
    expected, _ = reference_mean(SPEC.size, [(plans[0], updates[0], 3.0), (plans[1], updates[1], 5.0)])
    torch.testing.assert_close(expectation, expected, rtol=1e-5, atol=1e-6)


def test_an_update_of_another_size_than_its_plan_is_refused():
    with pytest.raises(ValueError, match="the update has 3 coordinates, its plan 16"):
        CoverageMean(SPEC.size).add(plan(SPEC, "nested", 1.0), dense([1.0, 2.0, 3.0]), 1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_is_positive(weight):
    own = plan(SPEC, "nested", 1.0)
    with pytest.raises(ValueError, match="a weight is positive, got"):
        CoverageMean(SPEC.size).add(own, dense(np.ones(own.size)), weight)


HEAD = WidthSpec.of(nn.Linear(4, 3), {"classes": 3, "h": 4}, {"weight": ("classes", "h"), "bias": ("classes",)})


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_of_labels_a_client_lacks_are_left_out_of_its_update(sparse):
    wide, narrow = plan(HEAD, "nested", 1.0), plan(HEAD, "nested", 0.5)
    updates = [torch.arange(1.0, 16.0), torch.arange(1.0, 10.0)]
    mean = CoverageMean(HEAD.size)
    for own, update, labels in ((wide, updates[0], [0, 1]), (narrow, updates[1], {1})):
        block = SparseBlock(own.size, torch.arange(own.size), update) if sparse else DenseBlock(update)
        mean.add(own, Payload(own.size, (block,)), 1.0, labels)
    result = mean.result()
    # weight rows 0, 1, 2 of four columns, then the bias; row 2 is nobody's, row 1 belongs to both
    assert result.coverage.tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 0, 0, 0, 0, 1, 2, 0]
    assert result.update.tolist() == [1, 2, 3, 4, (5 + 3) / 2, (6 + 4) / 2, 7, 8, 0, 0, 0, 0, 13, (14 + 8) / 2, 0]


def test_averaging_by_label_names_what_it_needs():
    with pytest.raises(
        ValueError, match="whose classifier follows the hidden dimension 'classes'; this one has out, in"
    ):
        CoverageMean(SPEC.size).add(plan(SPEC, "nested", 1.0), dense(np.ones(SPEC.size)), 1.0, [0])
    with pytest.raises(ValueError, match=r"labels lie below 3, at least one, got \[3\]"):
        CoverageMean(HEAD.size).add(plan(HEAD, "nested", 1.0), dense(np.ones(HEAD.size)), 1.0, [3])
    for labels in (["1", 2], [[1]], [1.0]):
        with pytest.raises(ValueError, match="labels are whole numbers, got"):
            CoverageMean(HEAD.size).add(plan(HEAD, "nested", 1.0), dense(np.ones(HEAD.size)), 1.0, labels)


@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
@pytest.mark.parametrize(
    "text",
    [
        "Identity()",
        "TopK(fraction=0.3)",
        "RandK(fraction=0.4)",
        "QSGD(levels=4)",
        "Natural()",
        "MLMC(FixedPoint(bits=4))",
        "MLMC(FloatingPoint(bits=3))",
        "TernGrad()",
    ],
)
def test_every_kind_of_payload_is_averaged_as_its_dense_vector(rule, text):
    own = plan(SPEC, rule, 0.5, 2, 1)
    update = torch.randn(own.size, generator=torch.Generator().manual_seed(4))
    payload = parse(text).compress(update, np.random.default_rng(0)).payload
    means = []
    for sent in (payload, dense(payload.dense().numpy())):
        mean = CoverageMean(SPEC.size)
        mean.add(own, sent, 2.0)
        means.append(mean.result())
    torch.testing.assert_close(means[0].update, means[1].update)
    assert torch.equal(means[0].coverage, means[1].coverage)
