"""Local training: plain minibatch steps on one client's examples."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..models.norms import takes_batch_statistics
from ..run.config.training import TrainingConfig
from .optimizers import make_optimizer
from .proximal import Proximal
from .tier_losses import Loss


class TrainingError(RuntimeError):
    """Local training went wrong in a way that the server should hear of."""


class Rows(Protocol):
    """Features by the places of examples: a tensor, or what reads them when they are asked for."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Trained:
    """What a training run on one client measured."""

    loss: float
    """Mean training loss over the steps taken."""
    num_steps: int
    seconds: float


def train(
    module: nn.Module,
    features: Rows,
    labels: Tensor,
    training: TrainingConfig,
    rng: np.random.Generator,
    loss_of: Loss | None = None,
    server_round: int = 1,
) -> Trained:
    """Train `module` in place on (features, labels); TrainingError on a loss that is not finite.

    `loss_of` a minibatch is the cross-entropy of the module's logits, unless given.
    """
    start = time.perf_counter()
    rate = training.learning_rate_in(server_round)
    optimizer = make_optimizer(training.client_optimizer, module.parameters(), rate)
    loss_of = loss_of or (lambda inputs, wanted: nn.functional.cross_entropy(module(inputs), wanted))
    losses, proximal = [], Proximal(module.parameters(), training.proximal)
    module.train()
    for batch in batches(len(labels), training, rng, least_batch(module)):
        optimizer.zero_grad()
        loss = loss_of(features[batch], labels[batch])
        loss.backward()
        proximal.add_gradient()
        if training.clip_norm:
            nn.utils.clip_grad_norm_(module.parameters(), training.clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingError(f"training loss is {mean} after {len(losses)} steps")
    return Trained(mean, len(losses), time.perf_counter() - start)


@contextmanager
def drawing(rng: np.random.Generator) -> Iterator[None]:
    """Let layers that draw for themselves, such as dropout, draw by `rng`; torch's own generator is then as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        yield


def least_batch(module: nn.Module) -> int:
    """Examples that a minibatch of `module` must have: two where it normalises by the batch."""
    return 2 if takes_batch_statistics(module) else 1


def batches(num_examples: int, training: TrainingConfig, rng: np.random.Generator, least: int = 1) -> Iterator[Tensor]:
    """Index batches, int64 (batch,), of one client's round: local-steps of them, or as many as local-epochs make.

    Every epoch is a fresh permutation; its last batch may be shorter. One of fewer than `least` examples takes the
    epoch's first ones once more; a client with one example sees it twice.
    """
    per_epoch = math.ceil(num_examples / training.batch_size)
    for step in range(training.num_steps(num_examples)):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(num_examples))
        start = step % per_epoch * training.batch_size
        batch = order[start : start + training.batch_size]
        yield batch if len(batch) >= least else torch.cat([batch, order[: least - len(batch)]])


def device_named(name: str) -> torch.device:
    """The device to compute on; "auto" takes CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
