"""Clients of one width trained at the same time: their small models become one with a client axis (torch.func.vmap).

Each client has its own minibatches and optimizer state, as in `trainer.train`, and ends where that would take it but
for rounding. On a GPU, a step of many small models costs what a step of one does.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fl_mlmc.data.spec import DataSpec
from fl_mlmc.models import Model
from fl_mlmc.models.base import skeleton
from fl_mlmc.run.config.training import TrainingConfig
from fl_mlmc.submodels.flat import frozen, vector_tensors
from fl_mlmc.training.local import Trained
from fl_mlmc.training.objectives import Objective
from fl_mlmc.training.optimizers import make_optimizer
from fl_mlmc.training.proximal import Proximal
from fl_mlmc.training.tier_losses import Criterion, masked_cross_entropy

from .finder import Finder


def find_together(finders: Sequence[Finder], points: Sequence[Tensor], training: TrainingConfig) -> None:
    """Find the updates of all that have company, each at its own point, float32 (size,); the finders then know them.

    Company is of one width, one round and one sequence of batch lengths. Who has none trains alone, when asked.
    """
    groups: dict[object, list[int]] = {}
    for number, finder in enumerate(finders):
        lengths = tuple(len(batch) for batch in finder.minibatches())
        groups.setdefault((finder.server_round, tuple(finder.own.units.items()), lengths), []).append(number)
    for group in groups.values():
        if len(group) > 1:
            _train([finders[number] for number in group], [points[number] for number in group], training)


def check_together(model: Model, spec: DataSpec, objective: Objective) -> None:
    """ValueError if clients with this model cannot be trained together."""
    module = model.build(model.spec.units)
    if dict(module.named_buffers()):
        raise ValueError("vectorize = true: this model's normalisation keeps statistics, which clients cannot share")
    if stays := frozen(module):
        raise ValueError(f"vectorize = true: {stays[0]} does not train, which clients cannot share")
    stacked = {name: torch.stack([tensor, tensor]) for name, tensor in module.named_parameters()}
    try:
        with torch.no_grad():
            labels = torch.stack([objective.some_targets(spec)] * 2)
            _losses(module, objective.criterion, masked=False)(
                stacked, torch.zeros(2, 2, *spec.input_shape), labels, torch.ones(2, 1) > 0
            )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"vectorize = true: torch.func.vmap cannot run this model ({reason})") from None


def _train(finders: Sequence[Finder], points: Sequence[Tensor], training: TrainingConfig) -> None:
    start = time.perf_counter()
    first = finders[0]
    module = skeleton(first.model.build, first.own.units).train()
    vectors = torch.stack(list(points))
    parameters = _split(vectors, module)
    rate = training.learning_rate_in(first.server_round)
    optimizer = make_optimizer(training.client_optimizer, parameters.values(), rate)
    losses_of = _losses(module, first.objective.criterion, training.masked_cross_entropy)
    present = torch.stack([finder.present for finder in finders])
    losses, proximal = [], Proximal(parameters.values(), training.proximal)
    for step in zip(*(finder.minibatches() for finder in finders), strict=True):
        inputs = torch.stack([finder.features[batch] for finder, batch in zip(finders, step, strict=True)])
        labels = torch.stack([finder.labels[batch] for finder, batch in zip(finders, step, strict=True)])
        optimizer.zero_grad()
        loss = losses_of(parameters, inputs, labels, present)
        loss.sum().backward()  # clients share no parameter, so each gets the gradient of its own loss
        proximal.add_gradient()
        if training.clip_norm:
            _clip(parameters.values(), training.clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    after = torch.cat([parameters[name].detach().flatten(1) for name in parameters], dim=1)
    mean_losses = torch.stack(losses).mean(0).tolist()
    seconds = (time.perf_counter() - start) / len(finders)
    for finder, point, update, mean in zip(finders, points, after - vectors, mean_losses, strict=True):
        if not math.isfinite(mean):
            continue  # it says so itself when it trains alone
        finder.know(point, update, Trained(mean, len(losses), seconds))


def _losses(module: nn.Module, usual: Criterion, masked: bool) -> Callable[..., Tensor]:
    """(parameters, inputs, labels, present classes), each with a client axis, to the clients' losses."""

    def loss(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor, present: Tensor) -> Tensor:
        criterion = masked_cross_entropy(present) if masked else usual
        return criterion(functional_call(module, parameters, (inputs,)), labels)

    return vmap(loss)


def _split(vectors: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Flat models (clients, size) as the module's parameters, each with a client axis in front."""
    tensors = vector_tensors(module)
    parts = vectors.split([tensor.numel() for tensor in tensors.values()], dim=1)
    return {
        name: part.reshape(len(vectors), *tensor.shape).clone().requires_grad_()
        for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def _clip(parameters: Iterable[Tensor], most: float) -> None:
    """`nn.utils.clip_grad_norm_` of each client by itself."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    shares = (most / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(shares.view(-1, *[1] * (gradient.dim() - 1)))
