import pytest
from torch import nn

from fl_mlmc.submodels import Axis, WidthSpec


def spec(weight, bias=("hidden",), units=None):
    return WidthSpec.of(nn.Linear(4, 6), units or {"hidden": 6}, {"weight": weight, "bias": bias})


def test_a_name_stands_for_an_axis():
    assert spec(("hidden", None)).axes["weight"] == (Axis("hidden"), None)
    assert spec(("hidden", None)).size == 30


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: spec((None, "hidden")),
            r"axis 1 of tensor 'weight' has length 4, but 1 × 6 units of 'hidden' × 1 are 6",
        ),
        (
            lambda: spec((Axis("hidden", outer=2, inner=3), None)),
            "axis 0 of tensor 'weight' has length 6, but 2 × 6 units of 'hidden' × 3 are 36",
        ),
        (
            lambda: spec(("hiden", None)),
            "axis 0 of tensor 'weight' follows unknown hidden dimension 'hiden'; known: hidden",
        ),
        (lambda: spec(("hidden",)), "tensor 'weight' has 2 axes, the width spec names 1"),
        (lambda: WidthSpec.of(nn.Linear(4, 6), {}, {"weight": (None, None)}), "same tensors; only one has bias"),
    ],
)
def test_an_axis_that_does_not_fit_is_an_error_that_names_tensor_and_axis(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("units", "width", "kept"), [(6, 1.0, 6), (6, 0.5, 3), (6, 0.51, 4), (6, 0.01, 1), (100, 0.07, 7), (10, 0.7, 7)]
)
def test_a_width_keeps_the_share_of_units_rounded_up(units, width, kept):
    assert WidthSpec.of(nn.Linear(4, units), {"h": units}, {"weight": ("h", None), "bias": ("h",)}).kept(width) == {
        "h": kept
    }


@pytest.mark.parametrize("width", [0.0, -0.5, 1.01, float("nan")])
def test_a_width_outside_the_unit_interval_is_refused(width):
    with pytest.raises(ValueError, match=r"a width lies in \(0, 1\]"):
        spec(("hidden", None)).kept(width)
