"""Every model through the same laws: adding a model is adding a row."""

import pytest
import torch
from torch import nn

from fl_mlmc.models import build_model, parse_model
from fl_mlmc.models.base import Model
from fl_mlmc.models.check import check_widths
from fl_mlmc.submodels import WidthSpec, plan
from fl_mlmc.submodels.flat import load_vector, to_vector
from fl_mlmc.submodels.laws import check_plan, check_sliced_equals_masked, check_submodule
from fl_mlmc.submodels.rules import RULES

WIDTHS = (0.0625, 0.3, 1.0)
MODELS = {
    "mlp": ("mlp(hidden=(12, 7))", (3, 4)),
    "cnn": ("cnn(conv=(6, 10), dense=9)", (1, 9, 8)),
    "cnn-batch": ("cnn(conv=(6, 10), norm='batch', dense=9)", (1, 9, 8)),
    "cnn-static": ("cnn(conv=(6, 10), norm='static', scaler=True, dense=0)", (1, 9, 8)),
    "cnn-group": ("cnn(conv=(6, 10), norm='group', groups=2, dense=9)", (1, 9, 8)),
    "resnet-batch": ("resnet18(hidden=(4, 6, 8, 10), depths=(1, 1, 1, 2), norm='batch')", (3, 16, 16)),
    "resnet-static": ("resnet18(hidden=(4, 6, 8, 10), depths=(2, 1, 1, 1))", (3, 16, 16)),
    "resnet-group": ("resnet18(hidden=(4, 6, 8, 10), depths=(1, 1, 1, 1), norm='group', groups=2)", (3, 16, 16)),
    "resnet-exits": ("resnet18(hidden=(4, 6, 8, 10), depths=(1, 1, 1, 2), exits=True)", (3, 16, 16)),
    "mlp-exits": ("mlp(hidden=(12, 7), exits=True)", (3, 4)),
    "cnn-exits": ("cnn(conv=(6, 10, 5), dense=0, norm='static', scaler=True, exits=True)", (1, 9, 8)),
    "char-lstm-exits": ("char_lstm(embedding=4, hidden=(6, 7), vocabulary=11, exits=True)", (9,)),
    "transformer-exits": (
        "transformer(layers=3, stream=12, heads=3, feed_forward=10, vocabulary=11, exits=True)",
        (9,),
    ),
    "char-lstm": ("char_lstm(embedding=4, hidden=(6, 7), vocabulary=11)", (9,)),
    "transformer": ("transformer(layers=2, stream=12, heads=3, feed_forward=10, vocabulary=11)", (9,)),
}
# Norms whose moments run over units see the zeros of a masked unit; they are tested by themselves.
MASKABLE = [name for name in MODELS if not name.endswith("-group") and not name.startswith("transformer")]


CASES = [(name, rule) for name in MODELS for rule in sorted(RULES) if rule != "depth" or name.endswith("exits")]


def built(name):
    text, shape = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        return build_model(text, shape, 5), torch.randint(11, (3, *shape), generator=generator)
    return build_model(text, shape, 5), torch.randn(3, *shape, generator=generator)


@pytest.mark.parametrize(("name", "rule"), CASES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_model_can_be_cut_by_every_rule(name, rule, width):
    model, inputs = built(name)
    own = plan(model.spec, rule, width, server_round=4, client=1)
    check_plan(own)
    outputs = check_submodule(model, own)(inputs)
    assert outputs.shape == (3, 5)
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize(("name", "rule"), [case for case in CASES if case[0] in MASKABLE and case[1] != "depth"])
def test_a_sliced_submodel_equals_the_masked_full_model(name, rule):
    model, inputs = built(name)
    check_sliced_equals_masked(model, plan(model.spec, rule, 0.3, server_round=4, client=1), inputs)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("exits")])
def test_the_exits_of_a_shallow_submodel_are_those_of_the_full_model(name):
    model, inputs = built(name)
    full = model.build(model.spec.units)
    vector = model.initial(3)
    load_vector(full, vector)
    stages = model.spec.units["depth"]
    for count in range(1, stages + 1):
        own = plan(model.spec, "depth", count / stages)
        part = model.build(own.units)
        load_vector(part, own.gather(vector))
        logits = part.exit_logits(inputs)
        assert len(logits) == count
        for deep, shallow in zip(full.exit_logits(inputs), logits, strict=False):
            torch.testing.assert_close(shallow, deep)
        torch.testing.assert_close(part(inputs), torch.stack(logits).mean(0))
        others = sorted(set(model.spec.shapes) - set(own.own_spec.shapes))
        assert (len(others) > 0) == (count < stages)


@pytest.mark.parametrize("name", MODELS)
def test_the_initial_model_is_a_function_of_the_seed(name):
    model, _ = built(name)
    assert torch.equal(model.initial(1), model.initial(1))
    assert not torch.equal(model.initial(1), model.initial(2))


def test_a_vector_of_another_length_is_refused():
    model, _ = built("mlp")
    module = model.build(model.spec.units)
    load_vector(module, torch.zeros(model.spec.size))
    assert not to_vector(module).any()
    with pytest.raises(ValueError, match="the module has 287 parameters, the vector 3"):
        load_vector(module, torch.zeros(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vgg", "unknown model 'vgg'; known: .*cnn.*mlp"),
        ("cnn(convs=3)", "model cnn has no option 'convs'; its options: conv, dense"),
    ],
)
def test_an_unknown_model_or_option_is_an_error_that_lists_the_known(text, message):
    with pytest.raises(ValueError, match=message):
        parse_model(text)


def test_the_cnn_says_which_images_it_takes():
    with pytest.raises(ValueError, match=r"model cnn takes images .* the data has \(12,\)"):
        build_model("cnn", (12,), 5)


def two_layers(**changes):
    """A model written by hand, with mistakes."""

    def build(units):
        return nn.Sequential(nn.Linear(3, units["a"]), nn.Linear(units["a"], units["b"]), nn.Linear(units["b"], 2))

    units = {"a": 6, "b": 6}
    axes = {"0.weight": ("a", None), "0.bias": ("a",), "1.weight": ("b", "a"), "1.bias": ("b",)}
    axes |= {"2.weight": (None, "b"), "2.bias": (None,)}
    return Model(build, WidthSpec.of(build(units), units, axes | changes))


def test_a_spec_that_fits_its_module_passes():
    two_layers().check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"1.weight": ("a", "b")}, r"axis 0 of tensor '1\.weight' is 4 long .* by the width spec .*'a'.* should be 5"),
        ({"1.weight": ("b", None)}, r"axis 1 of tensor '1\.weight' is 5 long .*\(never cut\) it should be 6"),
        ({"1.bias": (None,)}, r"axis 0 of tensor '1\.bias' is 4 long .* it should be 6; mend the spec or build"),
    ],
)
def test_a_spec_that_is_wrong_only_below_full_width_names_tensor_and_axis(changes, message):
    with pytest.raises(ValueError, match=message):
        two_layers(**changes).check()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_passes_the_check_at_start(name):
    model, _ = built(name)
    check_widths(model, "nested", (0.0625, 0.3, 1.0), MODELS[name][1], [(2, 5)])


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("cnn(norm='batch', widths=(0.5, 1.0))", "nested", "of width 0.25 cannot run .* statistics for .* channels"),
        ("cnn", "depth", r'the width rule "depth" cuts models whose stages end .* Build it with exits'),
        ("transformer", "nested", r"model transformer takes token sequences"),
    ],
)
def test_a_model_that_cannot_serve_a_tier_is_refused_at_start(text, rule, message):
    with pytest.raises(ValueError, match=message):
        check_widths(build_model(text, (1, 8, 8), 5), rule, (0.25, 1.0), (1, 8, 8), [(2, 5)])
