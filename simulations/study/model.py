"""The model of this study: plain torch, at any width. Change it as you like; `study.toml` names it `model:net`."""

from torch import nn


def net(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0) -> nn.Module:
    """A perceptron on rows of numbers, shape (batch, columns). A tier of width 0.5 trains half of its hidden units."""
    hidden = max(1, round(64 * width))
    return nn.Sequential(
        nn.Linear(input_shape[0], hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
