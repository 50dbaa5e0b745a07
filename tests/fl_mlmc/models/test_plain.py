"""Models of the user's own: a plain torch function is cut as a declared model is, or is refused by name."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fl_mlmc.models import build_model
from fl_mlmc.models.base import Model
from fl_mlmc.models.check import check_widths
from fl_mlmc.models.plain import plain_model
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector, vector_tensors
from fl_mlmc.submodels.laws import check_plan, check_sliced_equals_masked, check_submodule

WIDTHS = (0.1, 0.3, 0.5, 1.0)
Make = Callable[..., nn.Module]


def part(width: float, units: int) -> int:
    """⌈width · units⌉, as declared specs round."""
    return max(1, math.ceil(width * units - 1e-9))


def mlp(shape, classes, width=1.0):
    first, second = part(width, 12), part(width, 7)
    layers = [nn.Linear(math.prod(shape), first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(second, classes))


def cnn(shape, classes, width=1.0, norm=lambda count: nn.Identity(), groups=1):
    first, second, dense = groups * part(width, 6 // groups), groups * part(width, 10 // groups), part(width, 9)
    pixels = (shape[1] // 4) * (shape[2] // 4)
    norms = [norm(count) for count in (first, second)]
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 3, padding=1), norms[0], nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1), norms[1], nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(second * pixels, dense), nn.ReLU(), nn.Linear(dense, classes),
    )  # fmt: skip


class CharLSTM(nn.Module):
    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        units = part(width, 4), part(width, 6), part(width, 7)
        self.embedding = nn.Embedding(11, units[0])
        self.lstm = nn.ModuleList(nn.LSTM(a, b, batch_first=True) for a, b in pairwise(units))
        self.head = nn.Linear(units[-1], classes)

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embedding(tokens.long())
        for layer in self.lstm:
            state = layer(state)[0]
        return self.head(state[:, -1])


class Residual(nn.Module):
    """A small residual network, as torchvision's are written."""

    def __init__(self, channels: int, classes: int, width: float, stem: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        first, second = part(width, 8), part(width, 12)
        self.stem = nn.Sequential(nn.Conv2d(channels, first, 3, padding=1, bias=False), stem(first), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(first, first, 3, padding=1, bias=False), nn.BatchNorm2d(first))
        self.down = nn.Conv2d(first, second, 1, stride=2)
        self.head = nn.Linear(second, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.stem(inputs)
        state = self.down(torch.relu(state + self.body(state)))
        return self.head(state.mean((2, 3)))


def residual(shape, classes, width=1.0):
    return Residual(shape[0], classes, width)


class Tied(nn.Module):
    """Words in and words out by one matrix."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, part(width, 8))
        self.mix = nn.Linear(part(width, 8), part(width, 8))
        self.head = nn.Linear(part(width, 8), classes, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(tokens.long()).mean(1))))


def tied(shape, classes, width=1.0):
    return Tied(classes, width)


class Attentive(nn.Module):
    """As many heads as the width has, each as wide as ever."""

    def __init__(self, classes: int, width: float, heads: int = 0) -> None:
        super().__init__()
        count = heads or part(width, 4)
        stream = part(width, 16) // heads * heads if heads else 3 * count
        self.embedding = nn.Embedding(11, stream)
        self.attention = nn.MultiheadAttention(stream, count, batch_first=True)
        self.norm = nn.LayerNorm(stream)
        self.head = nn.Linear(stream, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embedding(tokens.long())
        return self.head(self.norm(state + self.attention(state, state, state)[0]).mean(1))


def attentive(shape, classes, width=1.0):
    return Attentive(classes, width)


class Encoder(nn.Module):
    """Torch's own transformer; as many heads as the width has."""

    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        heads = part(width, 4)
        layer = nn.TransformerEncoderLayer(6 * heads, heads, part(width, 20), batch_first=True)
        self.embedding = nn.Embedding(11, 6 * heads)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(6 * heads, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens.long())).mean(1))


def encoder(shape, classes, width=1.0):
    return Encoder(classes, width)


def batch_cnn(shape, classes, width=1.0):
    return cnn(shape, classes, width, nn.BatchNorm2d)


def group_cnn(shape, classes, width=1.0):
    return cnn(shape, classes, width, lambda count: nn.GroupNorm(2, count), groups=2)


PLAIN: dict[str, tuple[Make, tuple[int, ...]]] = {
    "mlp": (mlp, (3, 4)),
    "cnn": (cnn, (1, 9, 8)),
    "cnn-batch": (batch_cnn, (1, 9, 8)),
    "cnn-group": (group_cnn, (1, 9, 8)),
    "char-lstm": (lambda shape, classes, width=1.0: CharLSTM(classes, width), (9,)),
    "residual": (residual, (3, 8, 8)),
    "tied": (tied, (6,)),
    "attentive": (attentive, (6,)),
    "encoder": (encoder, (6,)),
}
OVER_UNITS = ("attentive", "cnn-group", "encoder")
"""Their norms average over units, so other units at zero change what the wide network computes."""
DECLARED = {
    "mlp": "mlp(hidden=(12, 7))",
    "cnn": "cnn(conv=(6, 10), dense=9)",
    "cnn-batch": "cnn(conv=(6, 10), norm='batch', dense=9)",
    "cnn-group": "cnn(conv=(6, 10), norm='group', groups=2, dense=9)",
    "char-lstm": "char_lstm(embedding=4, hidden=(6, 7), vocabulary=11)",
}


def plain(make: Make, shape: tuple[int, ...], takes_width: bool = True) -> Model:
    def net(width: float, classes: int) -> nn.Module:
        return make(shape, classes, width) if takes_width else make(shape, classes)

    return plain_model(net, 5, takes_width)


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_plain_model_is_cut_as_the_declared_one(name: str, width: float) -> None:
    make, shape = PLAIN[name]
    found, declared = plain(make, shape), build_model(DECLARED[name], shape, 5)
    assert list(found.spec.shapes.values()) == list(declared.spec.shapes.values())
    assert torch.equal(plan(found.spec, "nested", width).indices, plan(declared.spec, "nested", width).indices)
    assert found.spec.units["classes"] == 5
    for ours, theirs in zip(found.spec.axes.values(), declared.spec.axes.values(), strict=True):
        assert [axis and axis.units == "classes" for axis in ours] == [
            axis and axis.units == "classes" for axis in theirs
        ]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_narrow_network_is_the_cut_of_the_full_one(name: str, width: float) -> None:
    make, shape = PLAIN[name]
    model = plain(make, shape)
    own = plan(model.spec, "nested", width)
    check_plan(own)
    built = make(shape, 5, width)
    assert {key: tuple(tensor.shape) for key, tensor in vector_tensors(built).items()} == own.own_spec.shapes
    load_vector(built, own.gather(model.initial(1)))
    inputs = torch.randint(2, (3, *shape)).float()
    torch.testing.assert_close(built.eval()(inputs), check_submodule(model, own).eval()(inputs))
    if name not in (*OVER_UNITS, "tied"):
        check_sliced_equals_masked(model, own, inputs)
    check_widths(model, "nested", (width,), shape, [(2, 5)])


RESNET = "resnet18(hidden=(8, 12, 16, 20), depths=(1, 1, 1, 1)"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (f"{RESNET}, norm='batch')", (3, 8, 8)),
        (f"{RESNET}, norm='group', scaler=False)", (3, 8, 8)),
        ("cnn(conv=(8, 12), norm='group', dense=9)", (1, 9, 8)),
    ],
)
def test_of_our_own_models_the_cut_is_found_that_they_declare(text: str, shape: tuple[int, ...]) -> None:
    declared = build_model(text, shape, 5)

    def net(width: float, classes: int) -> nn.Module:
        return declared.build({**declared.spec.kept(width), "classes": classes})

    found = plain_model(net, 5, takes_width=True)
    for rule, server_round in (("nested", 0), ("ordered-dropout", 0), ("rolling", 7)):
        for width in WIDTHS:
            ours, theirs = (plan(model.spec, rule, width, server_round) for model in (found, declared))
            assert torch.equal(ours.indices, theirs.indices)
    check_widths(found, "rolling", (0.5,), shape, [(2, 5)])


def test_heads_that_grow_thin_are_declared_and_not_found() -> None:
    text = "transformer(layers=1, stream=12, heads=4, feed_forward=9, vocabulary=11, positions=6)"
    declared = build_model(text, (6,), 5)
    found = plain_model(lambda width, classes: declared.build(declared.spec.kept(width)), 5, takes_width=True)
    with pytest.raises(ValueError, match=r"not certain.*heads that change their size.*WidthSpec\.of"):
        check_widths(found, "nested", (0.5,), (6,), [(2, 5)])


@pytest.mark.parametrize("groups", [(4, 4), (4, 2), (1, 1), (8, 4)])
def test_groups_are_thinned_or_dropped_as_their_norm_does(groups: tuple[int, int]) -> None:
    def net(width: float, classes: int) -> nn.Module:
        units = 8 if width > 0.5 else 4
        return nn.Sequential(nn.Conv2d(1, units, 1), nn.GroupNorm(groups[units == 4], units, affine=False))

    own = plan(plain_model(net, 5, takes_width=True).spec, "nested", 0.5)
    assert own.indices[:4].tolist() == ([0, 2, 4, 6] if groups == (4, 4) else [0, 1, 2, 3])


def floored(shape, classes, width=1.0):
    units = max(1, int(10 * width))
    return nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, classes))


def test_a_model_rounds_as_it_likes() -> None:
    model = plain(floored, (4,))
    for width, units in ((0.37, 3), (0.05, 1), (0.99, 9), (1.0, 10)):
        own = plan(model.spec, "nested", width)
        assert own.units["axis 0 of tensor '0.weight'"] == units
        check_submodule(model, own)
    assert plain(floored, (4,)).build({**model.spec.units, "axis 0 of tensor '0.weight'": 7})[0].out_features == 7
    with pytest.raises(ValueError, match="no width gives so many units"):
        model.build({**model.spec.units, "axis 0 of tensor '0.weight'": 11})


def concatenated(shape, classes, width=1.0):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, part(width, 8)), nn.Linear(4, part(width, 6))
            self.head = nn.Linear(part(width, 8) + part(width, 6), classes)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(torch.cat([self.left(inputs), self.right(inputs)], 1).relu())

    return Both()


def scaled(shape, classes, width=1.0):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(4, part(width, 8)), nn.Linear(part(width, 8), classes)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.hidden(inputs).relu() / width)

    return Scaled()


def padded(shape, classes, width=1.0):
    """The first units of the second layer are added to those of the first: a window of one is none of the other."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, part(width, 8)), nn.Linear(4, part(width, 12))
            self.head = nn.Linear(part(width, 12), classes)

        def forward(self, inputs: Tensor) -> Tensor:
            more = part(width, 12) - part(width, 8)
            return self.head((nn.functional.pad(self.first(inputs), (0, more)) + self.second(inputs)).relu())

    return Padded()


@pytest.mark.parametrize(
    ("make", "rule", "message"),
    [
        (concatenated, "nested", "the cut is not certain.*give fl_mlmc.models.Model"),
        (scaled, "nested", "the cut is not certain"),
        (lambda shape, classes, width: Attentive(classes, width, heads=2), "nested", "the cut is not certain"),
        (padded, "rolling", "cut by width-rule 'rolling', .* the cut is not certain"),
        (lambda shape, classes, width: Attentive(classes, width), "random", "cut by width-rule 'random'"),
        (mlp, "depth", "cuts models whose stages end in classifiers"),
    ],
)
def test_a_cut_that_is_not_certain_is_refused_and_says_what_to_declare(make: Make, rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_widths(plain(make, (4,)), rule, (0.5,), (4,), [(2, 5)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda shape, classes, width: nn.Linear(4, classes, bias=width == 1),
            "at width 0.75 it has not the tensors",
        ),
        (
            lambda shape, classes, width: nn.Linear(4, int(8 / width)),
            "must fall with the width",
        ),
        (lambda shape, classes, width: nn.Linear(4, part(width, classes)), "follows the classes and shrinks too"),
        (
            lambda shape, classes, width: nn.Sequential(nn.Conv2d(1, 6, 1), nn.GroupNorm(6 if width == 1 else 3, 6)),
            r"group norm '1' has \[6, 3, 3, 3\] groups of \(6, 6, 6, 6\) channels.*keep",
        ),
    ],
)
def test_tensors_that_no_width_cuts_are_named(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(make, (4,))


def test_without_a_width_it_runs_at_full_width_alone() -> None:
    model = plain(mlp, (3, 4), takes_width=False)
    check_widths(model, "nested", (1.0,), (3, 4), [(2, 5)])
    with pytest.raises(ValueError, match=r"it takes no width, and a tier has width 0\.5: give"):
        check_widths(model, "nested", (0.5,), (3, 4), [(2, 5)])


def frozen_backbone(shape, classes, width=1.0):
    module = Residual(shape[0], classes, width)
    for parameter in (*module.stem.parameters(), *module.body.parameters()):
        parameter.requires_grad_(False)
    return module


def test_layers_that_do_not_train_stay_as_they_are_built_and_do_not_travel() -> None:
    model = plain(frozen_backbone, (3, 8, 8))
    assert "stem.0.weight" not in model.spec.shapes
    assert {"stem.1.running_mean", "down.weight", "head.bias"} <= set(model.spec.shapes)
    one, two = (model.build(model.spec.units).state_dict() for _ in range(2))
    assert torch.equal(one["stem.0.weight"], two["stem.0.weight"])
    assert not torch.equal(model.initial(1), model.initial(2))
    with pytest.raises(ValueError, match=r"stem.0.weight does not train.* take tiers of width 1"):
        check_widths(model, "nested", (0.5,), (3, 8, 8), [(2, 5)])


def test_a_tied_tensor_travels_once() -> None:
    model = plain(tied, (6,))
    assert list(model.spec.shapes) == ["embedding.weight", "mix.weight", "mix.bias"]
    module = model.build(model.spec.units)
    load_vector(module, model.initial(3))
    assert module.head.weight is module.embedding.weight


def test_counts_of_batches_begin_anew() -> None:
    model = plain(residual, (3, 8, 8))
    module = model.build(model.spec.units)
    module(torch.randn(4, 3, 8, 8))
    assert int(module.stem[1].num_batches_tracked) == 1
    load_vector(module, model.initial(0))
    assert int(module.stem[1].num_batches_tracked) == 0


FILE = """
import torch
from torch import nn


def net(input_shape, num_classes, width=1.0, hidden=16):
    rates = torch.linspace(0, 0.1, 2).tolist()
    units = max(1, round(hidden * width))
    first, last = nn.Linear(input_shape[0], units), nn.Linear(units, num_classes)
    return nn.Sequential(nn.Flatten(), first, nn.Dropout(rates[1]), last)


def wrong(input_shape, num_classes, width=1.0):
    return nn.Sequential(nn.Linear(7, num_classes))


def twice(input_shape, num_classes, width=1.0):
    class Twice(nn.Linear):
        def forward(self, inputs):
            return inputs @ missing

    return Twice(input_shape[0], num_classes)


def pair(input_shape, num_classes, width=1.0):
    class Pair(nn.Linear):
        def forward(self, inputs):
            return inputs, inputs

    return Pair(input_shape[0], num_classes)


def fails(input_shape, num_classes, width=1.0):
    raise KeyError("layers")


number = 3
module = nn.Linear(4, 5)


def text(input_shape, num_classes):
    return "net"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(FILE)
    return tmp_path / "model.py"


def test_a_file_names_a_model_and_its_options(file: Path) -> None:
    model = build_model(f"{file}:net(hidden=20)", (4,), 5)
    assert model.spec.shapes["1.weight"] == (20, 4)
    assert build_model(f"{file}:net(hidden=20)", (4,), 5) is model
    check_widths(model, "nested", (0.33, 1.0), (4,), [(2, 5)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net(width=0.5)", "the width of .*net is that of a client's tier"),
        ("net(1.0)", "the width of .*net is that of a client's tier"),
        ("net(depth=3)", "no option 'depth'; its options: width, hidden"),
        ("wrong", r"the submodel of width 1 cannot run inputs of shape \(4,\)"),
        ("twice", r"^\S*model.py, line 20, in forward: NameError: name 'missing' .* \(while the submodel of width 1"),
        ("pair", r"gives outputs tuple for 2 examples, expected \(2, 5\)"),
        ("fails", r"^\S*model.py, line 34, in fails: KeyError: 'layers'"),
        ("number", "number is a int, expected a function of .input_shape, num_classes, width=1.0. that gives a torch"),
        ("module", "module is a Linear, expected a function"),
        ("text", "text gives a str, expected a torch.nn.Module"),
    ],
)
def test_what_is_no_model_is_named(file: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_widths(build_model(f"{file}:{text}", (4,), 5), "nested", (1.0,), (4,), [(2, 5)])
