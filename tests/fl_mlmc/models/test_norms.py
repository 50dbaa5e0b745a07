import copy

import pytest
import torch
from torch import nn

from fl_mlmc.models import build_model
from fl_mlmc.models.norms import (
    Scaler,
    StaticBatchNorm2d,
    WidthwiseBatchNorm2d,
    fill_statistics,
    has_static_statistics,
    pieces,
)
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector, to_vector


def test_the_scaler_divides_by_the_share_kept_in_training_only():
    scaler, inputs = Scaler(0.25), torch.randn(3)
    assert torch.equal(scaler.train()(inputs), inputs * 4)
    assert torch.equal(scaler.eval()(inputs), inputs)


def test_a_submodel_scales_by_its_own_share():
    model = build_model("cnn(conv=(8, 8), dense=4, scaler=True)", (1, 8, 8), 3)
    for width in (0.25, 1.0):
        module = model.build(plan(model.spec, "nested", width).units)
        assert {layer.rate for layer in module.modules() if isinstance(layer, Scaler)} == {width}


def test_static_batch_norm_trains_on_the_batch_and_has_no_state_that_travels():
    ours, theirs = StaticBatchNorm2d(3), nn.BatchNorm2d(3)
    inputs = torch.randn(5, 3, 4, 4)
    assert set(ours.state_dict()) == {"weight", "bias"}
    torch.testing.assert_close(ours.train()(inputs), theirs.train()(inputs))


def test_filled_statistics_are_those_of_batch_norm_with_cumulative_averaging():
    layers = [nn.Conv2d(2, 3, 3), StaticBatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), StaticBatchNorm2d(2)]
    ours = nn.Sequential(*layers)
    theirs = copy.deepcopy(ours)
    for index, channels in ((1, 3), (4, 2)):
        theirs[index] = nn.BatchNorm2d(channels, momentum=None)
    batches = [torch.randn(6, 2, 8, 8) for _ in range(4)]
    with torch.no_grad():
        for batch in batches:
            theirs.train()(batch)
    assert has_static_statistics(ours)
    fill_statistics(ours, batches)
    torch.testing.assert_close(ours(batches[0]), theirs.eval()(batches[0]))
    fill_statistics(ours, batches)  # a second pass starts anew
    torch.testing.assert_close(ours(batches[0]), theirs.eval()(batches[0]))


def test_training_after_evaluation_uses_the_batch_again():
    layer, inputs = StaticBatchNorm2d(2), torch.randn(4, 2, 3, 3) * 7 + 3
    expected = layer.train()(inputs)
    fill_statistics(layer, [torch.randn(4, 2, 3, 3)])
    torch.testing.assert_close(layer.train()(inputs), expected)


def test_widthwise_batch_norm_keeps_statistics_by_width_and_one_scale():
    layer = WidthwiseBatchNorm2d(4, (2, 4))
    layer(torch.randn(8, 4, 3, 3))
    assert not layer.statistics["2"].running_mean.any()
    assert layer.statistics["4"].running_mean.any()
    with pytest.raises(ValueError, match=r"statistics for 2, 4 channels, the input has 3\. Give the model widths"):
        layer(torch.randn(8, 3, 3, 3))


def test_a_submodel_holds_the_statistics_of_the_widths_it_can_run():
    model = build_model("cnn(conv=(8, 8), dense=4, norm='batch', widths=(0.25, 0.5, 1.0))", (1, 8, 8), 3)
    own = plan(model.spec, "ordered-dropout", 0.5)
    held = {name.split(".")[3] for name in own.own_spec.shapes if "statistics" in name}
    assert held == {"2", "4"}
    module = model.build(own.units)
    load_vector(module, own.gather(model.initial(0)))
    assert module(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_counts_of_batches_do_not_travel_and_variances_stay_positive():
    module = nn.BatchNorm2d(2)
    assert to_vector(module).numel() == 8  # scale, shift, mean and variance, not num_batches_tracked
    load_vector(module, torch.tensor([1.0, 1, 0, 0, 0, 0, -0.5, 2]))
    assert module.running_var.tolist() == [0.0, 2.0]
    assert torch.isfinite(module.eval()(torch.randn(1, 2, 3, 3))).all()


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_group_norm_thins_every_group(width):
    model = build_model("cnn(conv=(8, 16), dense=4, norm='group', groups=2)", (1, 8, 8), 3)
    own = plan(model.spec, "nested", width)
    module = model.build(own.units)
    load_vector(module, own.gather(model.initial(0)))
    thin = int(4 * width)
    kept = [group * 4 + unit for group in range(2) for unit in range(thin)]
    full = model.build(model.spec.units)
    load_vector(full, model.initial(0))
    inputs = torch.randn(2, 1, 8, 8)
    convolved = full.conv1(inputs)[:, kept]
    torch.testing.assert_close(module.norm1(module.conv1(inputs)), nn.functional.group_norm(convolved, 2))


@pytest.mark.parametrize(("length", "size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [2])])
def test_no_piece_of_a_set_is_one_input_alone(length: int, size: int, sizes: list[int]) -> None:
    inputs = torch.arange(length)
    parts = pieces(inputs, size)
    assert list(map(len, parts)) == sizes
    assert torch.cat(parts)[:length].equal(inputs)
