import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fl_mlmc.models import build_model
from fl_mlmc.submodels import Axis, WidthSpec, plan
from fl_mlmc.submodels.laws import check_plan, cut
from fl_mlmc.submodels.plan import IndexPlan
from fl_mlmc.submodels.rules import RULES

WIDTH_RULES = sorted(set(RULES) - {"depth"})
WIDTHS = (0.0625, 0.25, 0.3, 0.5, 1.0)
SPEC = build_model("cnn(conv=(6, 10), dense=9)", (3, 9, 8), 4).spec


@pytest.mark.parametrize("rule", WIDTH_RULES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_rule_keeps_the_laws_of_plans(rule, width):
    for server_round, client in ((1, 0), (2, 0), (7, 3)):
        check_plan(plan(SPEC, rule, width, server_round, client, seed=5))


@pytest.mark.parametrize("rule", WIDTH_RULES)
def test_full_width_is_the_full_model_bit_for_bit(rule):
    vector = torch.randn(SPEC.size)
    own = plan(SPEC, rule, 1.0, server_round=3, client=2)
    assert own.is_full
    assert torch.equal(own.indices, torch.arange(SPEC.size))
    assert torch.equal(own.gather(vector), vector)


@pytest.mark.parametrize("rule", WIDTH_RULES)
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
    needs = {}
    if axes and draw(st.booleans()):
        needs["t0"] = ("a", draw(st.integers(1, sizes["a"])))
    own = IndexPlan(WidthSpec(sizes, shapes, axes, needs), kept)
    assume(own.size > 0)
    return own


@settings(max_examples=150, deadline=None)
@given(random_plans())
def test_plans_of_any_shape_keep_the_laws_and_cut_tensor_by_tensor(own):
    check_plan(own)
    full = torch.arange(own.spec.size, dtype=torch.float64)
    parts = full.split([int(np.prod(shape)) for shape in own.spec.shapes.values()])
    cuts = [
        cut(own, name, part.view(shape)).reshape(-1)
        for (name, shape), part in zip(own.spec.shapes.items(), parts, strict=True)
        if own.spec.has(name, own.units)
    ]
    assert torch.equal(own.gather(full), torch.cat(cuts))


@settings(deadline=None)
@given(random_plans(), st.data())
def test_places_of_a_few_coordinates_are_those_of_the_whole_table(own, data):
    some = torch.tensor(sorted(data.draw(st.sets(st.integers(0, own.size - 1)))), dtype=torch.int64)
    assert torch.equal(own.places(some), own.indices[some])


def test_a_rolling_window_moves_by_one_unit_a_round_and_wraps():
    spec = WidthSpec.of(nn.Linear(1, 5, bias=False), {"h": 5}, {"weight": ("h", None)})
    windows = [plan(spec, "rolling", 0.6, server_round).kept["h"].tolist() for server_round in (1, 2, 3, 4, 5)]
    assert windows == [[1, 2, 3], [2, 3, 4], [0, 3, 4], [0, 1, 4], [0, 1, 2]]


def test_over_as_many_rounds_as_units_rolling_trains_each_unit_equally():
    counts = np.zeros(SPEC.units["conv2"], int)
    for server_round in range(1, SPEC.units["conv2"] + 1):
        counts[plan(SPEC, "rolling", 0.25, server_round).kept["conv2"]] += 1
    assert set(counts) == {3}  # ⌈0.25 · 10⌉


def test_random_subsets_differ_by_client_and_round():
    subsets = {
        tuple(plan(SPEC, "random", 0.5, server_round, client).kept["conv2"])
        for server_round in range(1, 4)
        for client in range(4)
    }
    assert len(subsets) > 6


def test_only_random_plans_depend_on_the_client():
    for rule in WIDTH_RULES:
        same = plan(SPEC, rule, 0.5, 3, client=1) is plan(SPEC, rule, 0.5, 3, client=2)
        assert same == (rule != "random")


def test_the_depth_rule_needs_a_model_with_exits():
    with pytest.raises(ValueError, match=r"this one has none\. Build it with exits"):
        plan(SPEC, "depth", 0.5)
