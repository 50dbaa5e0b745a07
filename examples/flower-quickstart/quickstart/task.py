"""The model, the data and the training loop."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """Two convolutions and three linear layers, for images of 8 × 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64 * 2 * 2, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


def load_data(partition: int, num_partitions: int) -> tuple[Tensor, Tensor]:
    """The images and labels of a client; partition -1 is the fifth that is kept for the test."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    rows = held_out if partition < 0 else ~held_out
    images, labels = images[rows], labels[rows]
    return (images, labels) if partition < 0 else (images[partition::num_partitions], labels[partition::num_partitions])


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, lr: float) -> float:
    """Train in place; the mean loss of the last epoch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    losses = torch.zeros(1)
    for _ in range(epochs):
        order = torch.randperm(len(labels)).split(32)
        losses = torch.zeros(len(order))
        for number, batch in enumerate(order):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses[number] = loss.detach()
    return float(losses.mean())


@torch.no_grad()
def test(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and accuracy."""
    logits = net(images)
    return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())
