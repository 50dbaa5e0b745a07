"""The loss that goes with a width rule: the criterion itself, ordered dropout, exits, and what teaches what."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..data.spec import DataSpec
from ..models.base import Model
from ..submodels.ordered_dropout import WIDTHS, OrderedDropout

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) to a loss: the mean over a minibatch."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(inputs, labels) of a minibatch to a client's loss."""


def local_loss(
    model: Model,
    module: nn.Module,
    rule: str,
    width: float,
    server_round: int,
    rng: np.random.Generator,
    widths: Sequence[float] = WIDTHS,
    criterion: Criterion = nn.functional.cross_entropy,
    distill: bool = False,
) -> Loss:
    """The loss that goes with a width rule, of `module`, the submodel of `model` at `width`.

    "ordered-dropout" runs each minibatch at one of `widths` up to `width`, drawn by `rng`; "depth" adds up the exits;
    the others have `criterion` of the logits. `distill` lets the widest, or the other exits, teach.
    """
    if rule == "ordered-dropout":
        dropout = OrderedDropout(model, module, width, widths)
        return lambda inputs, labels: ordered_dropout_loss(dropout, inputs, labels, rng, criterion, distill)
    if rule == "depth":
        weight = distillation_weight(server_round) if distill else 0.0
        exits: Callable[[Tensor], list[Tensor]] = module.exit_logits  # type: ignore[assignment]
        return lambda inputs, labels: exits_loss(exits(inputs), labels, weight, criterion)
    return lambda inputs, labels: criterion(module(inputs), labels)


def masked_cross_entropy(present: Tensor) -> Criterion:
    """Cross-entropy with the logits of classes that the client lacks set to zero (HeteroFL, arXiv 2010.01264).

    `present`: bool (num_classes,). A client of a few classes then has no reason to push the others down without bound.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.masked_fill(~present.to(logits.device), 0.0), labels)

    return loss


def present_classes(labels: Tensor, spec: DataSpec) -> Tensor:
    """bool (num_classes,): the classes among `labels`; all true where these are no classes."""
    if spec.targets != "classes":
        return torch.ones(spec.num_classes, dtype=torch.bool)
    return torch.bincount(labels.cpu(), minlength=spec.num_classes) > 0


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the softmax of `teacher`'s logits, which get no gradient; both (batch, classes)."""
    return nn.functional.cross_entropy(logits, teacher.detach().softmax(-1))


def ordered_dropout_loss(
    dropout: OrderedDropout,
    inputs: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
    criterion: Criterion = nn.functional.cross_entropy,
    distill: bool = False,
) -> Tensor:
    """FjORD's loss on a minibatch, at a width drawn for it; a scalar. `labels` are int64 (batch,).

    With `distill` the full submodel learns from the labels and the narrow one from the full one's softmax.
    """
    width = dropout.draw(rng)
    if not distill:
        return criterion(dropout(width, inputs), labels)
    wide = dropout(dropout.cap, inputs)
    narrow = wide if width == dropout.cap else dropout(width, inputs)
    return criterion(wide, labels) + soft_cross_entropy(narrow, wide)


def exits_loss(
    logits: Sequence[Tensor],
    labels: Tensor,
    distill: float = 0.0,
    criterion: Criterion = nn.functional.cross_entropy,
) -> Tensor:
    """DepthFL's loss: the sum over exits of the loss and of `distill` times the mean KL from each other exit.

    A scalar, of each exit's logits (batch, classes) and int64 `labels` (batch,).
    """
    loss = torch.stack([criterion(part, labels) for part in logits]).sum()
    if distill == 0 or len(logits) == 1:
        return loss
    log_probabilities = [part.log_softmax(-1) for part in logits]
    for own, student in enumerate(log_probabilities):
        others = [
            nn.functional.kl_div(student, teacher.detach(), reduction="batchmean", log_target=True)
            for other, teacher in enumerate(log_probabilities)
            if other != own
        ]
        loss = loss + distill * torch.stack(others).mean()
    return loss


def distillation_weight(server_round: int, ramp: int = 300) -> float:
    """DepthFL's weight of the distillation: exp(−5 (1 − min(r, ramp) / ramp)²), which rises to 1 in `ramp` rounds."""
    return math.exp(-5 * (1 - min(server_round, ramp) / ramp) ** 2)
