import pytest
import torch

from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan

TIERS = (1.0, 0.5, 0.25, 0.125, 0.0625)


@pytest.mark.parametrize(
    ("text", "shape", "published"),
    [
        ("resnet18(depths=(1, 1, 1, 2))", (3, 32, 32), (9622, 2409, 604, 152, 38)),
        ("cnn(conv=(64, 128, 256, 512), dense=0, norm='static', scaler=True)", (1, 28, 28), (1557, 391, 99, 25, 7)),
    ],
)
def test_thousands_of_parameters_by_tier_are_those_published_for_heterofl(text, shape, published):
    spec = build_model(text, shape, 10).spec
    assert tuple(round(plan(spec, "nested", width).size / 1000) for width in TIERS) == published


def test_depth_keeps_the_first_stages_whole_with_their_classifiers():
    model = build_model("resnet18(hidden=(4, 6, 8, 10), depths=(1, 1, 1, 1), exits=True)", (3, 16, 16), 5)
    inputs = torch.randn(2, 3, 16, 16)
    for width, stages in ((0.25, 1), (0.5, 2), (0.6, 3), (1.0, 4)):
        own = plan(model.spec, "depth", width)
        assert {name.split(".")[1] for name in own.own_spec.shapes if name.startswith("stages")} == {
            str(stage) for stage in range(stages)
        }
        logits = model.build(own.units).exit_logits(inputs)
        assert len(logits) == stages
        assert all(part.shape == (2, 5) for part in logits)


def test_exits_have_depthfls_form():
    model = build_model("resnet18(hidden=(4, 6, 8, 10), depths=(1, 1, 1, 1), exits=True)", (3, 16, 16), 5)
    exits = model.build(model.spec.units).exits
    for stage, channels in enumerate((4, 6, 8, 10), start=1):
        own = exits[f"stage{stage}"]
        assert len(own.bottleneck) == 4 - stage
        assert own.linear.in_features == 10
        stream = torch.randn(2, channels, 16 // 2 ** (stage - 1), 16 // 2 ** (stage - 1))
        active = torch.relu(own.norm(stream))
        assert own.bottleneck(active).shape == (2, 10, 2, 2)
        if stage == 4:
            assert own.gate is None
            continue
        assert own.gate(active).shape == (2, channels, stream.shape[2] // 2, stream.shape[3] // 2)
        own.gate[0].norm2[-1].weight.data.zero_()
        own.gate[1][-1].bias.data.fill_(-1.0)  # sigmoid(relu(-1)) is a half: the gate lets half of it through
        torch.testing.assert_close(own(stream), own.linear(own.bottleneck(active / 2).mean((2, 3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("depths=(1, 1)", "hidden and depths name the same stages"),
        ("norm='layer'", "norm is one of 'none', 'batch', 'static', 'group', got 'layer'"),
        ("norm='group', groups=3", "stage1 has 64 channels, not a multiple of groups=3"),
        ("widths=(0.5, 1.0)", "go with norm='batch'"),
        ("norm='batch', exits=True, widths=(0.5, 1.0)", "use one of them"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(f"resnet18({options})", (3, 32, 32), 10)
