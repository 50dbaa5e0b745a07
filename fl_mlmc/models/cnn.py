"""A small convolutional network: two 3 × 3 convolutions with pooling, one hidden linear layer."""

from collections.abc import Mapping

from torch import nn

from ..submodels.width_spec import CLASSES, Axis, WidthSpec
from .base import Model


def cnn(input_shape: tuple[int, ...], num_classes: int, conv: tuple[int, int] = (32, 64), dense: int = 128) -> Model:
    """`conv` channels in each convolution, `dense` hidden units; for images of 4 × 4 pixels or more."""
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(
            f"model cnn takes images of shape (channels, height, width), at least 4 × 4, the data has {input_shape}"
        )
    channels, height, width = input_shape
    pixels = (height // 4) * (width // 4)

    def build(units: Mapping[str, int]) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, units["conv1"], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(units["conv1"], units["conv2"], 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(units["conv2"] * pixels, units["dense"]),
            nn.ReLU(),
            nn.Linear(units["dense"], num_classes),
        )

    units = {"conv1": conv[0], "conv2": conv[1], "dense": dense, CLASSES: num_classes}
    axes = {
        "0.weight": ("conv1", None, None, None),
        "0.bias": ("conv1",),
        "3.weight": ("conv2", "conv1", None, None),
        "3.bias": ("conv2",),
        "7.weight": ("dense", Axis("conv2", inner=pixels)),
        "7.bias": ("dense",),
        "9.weight": (CLASSES, "dense"),
        "9.bias": (CLASSES,),
    }
    return Model(build, WidthSpec.of(build(units), units, axes))
