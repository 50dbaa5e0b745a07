import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl_mlmc.models import build_model
from fl_mlmc.submodels import Axis, WidthSpec, plan
from fl_mlmc.submodels.laws import check_plan, cut
from fl_mlmc.submodels.plan import IndexPlan
from fl_mlmc.submodels.rules import RULES

WIDTHS = (0.0625, 0.25, 0.3, 0.5, 1.0)
SPEC = build_model("cnn(conv=(6, 10), dense=9)", (3, 9, 8), 4).spec


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("width", WIDTHS)
def test_every_rule_keeps_the_laws_of_plans(rule, width):
    for server_round, client in ((1, 0), (2, 0), (7, 3)):
        check_plan(plan(SPEC, rule, width, server_round, client, seed=5))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_full_width_is_the_full_model_bit_for_bit(rule):
    vector = torch.randn(SPEC.size)
    own = plan(SPEC, rule, 1.0, server_round=3, client=2)
    assert own.is_full
    assert torch.equal(own.indices, torch.arange(SPEC.size))
    assert torch.equal(own.gather(vector), vector)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_both_sides_compute_the_same_plan(rule):
    from fl_mlmc.submodels.plan import _plan

    here = plan(SPEC, rule, 0.5, 4, 7, seed=1)
    _plan.cache_clear()
    there = plan(SPEC, rule, 0.5, 4, 7, seed=1)
    assert here is not there
    assert torch.equal(here.indices, there.indices)


def test_units_of_a_repeated_axis_are_cut_in_every_repeat():
    # Two heads of three rows; keep units 0 and 2: rows 0, 2 of head 0 and 3, 5 of head 1.
    layer = nn.Linear(2, 6, bias=False)
    spec = WidthSpec.of(layer, {"head": 3}, {"weight": (Axis("head", outer=2), None)})
    own = IndexPlan(spec, {"head": np.array([0, 2])})
    assert own.gather(torch.arange(12)).tolist() == [0, 1, 4, 5, 6, 7, 10, 11]
    check_plan(own)


def test_a_unit_with_inner_neighbours_keeps_them_together():
    # Three channels of two pixels each, flattened; keep channel 1: columns 2 and 3 of each row.
    spec = WidthSpec.of(nn.Linear(6, 2, bias=False), {"c": 3}, {"weight": (None, Axis("c", inner=2))})
    own = IndexPlan(spec, {"c": np.array([1])})
    assert own.gather(torch.arange(12)).tolist() == [2, 3, 8, 9]
    check_plan(own)


@st.composite
def random_plans(draw):
    sizes = {name: draw(st.integers(1, 4)) for name in "abc"}
    names = st.sampled_from([None, "a", "b", "c"])
    shapes, axes = {}, {}
    for number in range(draw(st.integers(1, 3))):
        row = []
        for _ in range(draw(st.integers(0, 3))):
            name = draw(names)
            row.append(name and Axis(name, draw(st.integers(1, 2)), draw(st.integers(1, 2))))
        axes[f"t{number}"] = tuple(row)
        shapes[f"t{number}"] = tuple(
            axis.outer * sizes[axis.units] * axis.inner if axis else draw(st.integers(1, 3)) for axis in row
        )
    kept = {
        name: np.array(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))), np.int64)
        for name, size in sizes.items()
    }
    return IndexPlan(WidthSpec(sizes, shapes, axes), kept)


@settings(max_examples=150, deadline=None)
@given(random_plans())
def test_plans_of_any_shape_keep_the_laws_and_cut_tensor_by_tensor(own):
    check_plan(own)
    full = torch.arange(own.spec.size, dtype=torch.float64)
    parts = full.split([int(np.prod(shape)) for shape in own.spec.shapes.values()])
    cuts = [
        cut(own, name, part.view(shape)).reshape(-1)
        for (name, shape), part in zip(own.spec.shapes.items(), parts, strict=True)
    ]
    assert torch.equal(own.gather(full), torch.cat(cuts))
