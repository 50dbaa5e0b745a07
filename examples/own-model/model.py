"""A residual network of one's own. Nothing here knows of federations: it is built at a width, that is all."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs + self.norm(self.conv(inputs)))


class Net(nn.Module):
    def __init__(self, images: int, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(images, channels, 3, padding=1)
        self.block = Block(channels)
        self.hidden = nn.Linear(channels, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.block(self.stem(images)).mean((2, 3))
        return self.head(torch.relu(self.hidden(pooled)))


def net(input_shape: tuple[int, ...], num_classes: int, width: float = 1.0, channels: int = 32) -> nn.Module:
    return Net(input_shape[0], max(1, round(channels * width)), max(1, round(64 * width)), num_classes)
