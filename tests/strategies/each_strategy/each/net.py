"""The model, and what clients learn: which of four corners of a square a point lies nearest to."""

import torch
from torch import Tensor, nn


class Net(nn.Sequential):
    """Two hidden layers, and batch norm with its statistics and its count."""

    def __init__(self, width: float = 1.0) -> None:
        units = round(64 * width)
        hidden = [nn.Linear(8, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()]
        super().__init__(*hidden, nn.Linear(units, 4))


def examples(seed: int, count: int = 256) -> tuple[Tensor, Tensor]:
    """Points (count, 8), and the corner of each, which two of its numbers tell."""
    points = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return points, (points[:, 0] > 0) * 2 + (points[:, 1] > 0).long()


def train(net: nn.Module, points: Tensor, corners: Tensor) -> float:
    """One pass; the last batch's loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    loss = torch.zeros(())
    for some, right in zip(points.split(32), corners.split(32), strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(some), right)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def accuracy(net: nn.Module, points: Tensor, corners: Tensor) -> float:
    """The share of points whose corner is told."""
    return float((net.eval()(points).argmax(1) == corners).float().mean())
