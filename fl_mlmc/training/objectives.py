"""What clients minimise: a loss, and all that goes with it.

    objective = "mse"                   # by name: cross_entropy, mse, bce, next_token
    objective = "losses.py:pinball"     # an `Objective` of one's own

An objective knows what its targets are, what a model must give for them, and by which metrics it is judged:

    pinball = Objective(
        loss=lambda outputs, targets: torch.maximum(0.9 * (targets - outputs), 0.1 * (outputs - targets)).mean(),
        targets="reals",
        metrics={"covered": lambda: Mean(lambda o, t: (float((t <= o).sum()), t.numel()), higher_is_better=True)},
    )
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from .. import own
from ..data.spec import TARGETS, DataSpec, Targets
from ..registry import build
from .metrics import AUC, F1, Mean, Metric
from .tier_losses import Criterion

Align = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(outputs, targets) of a batch to what loss and metrics compare."""


def as_they_are(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (n, classes) and targets (n,) need nothing done."""
    return outputs, targets


def alike(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs in the targets' shape (n, numbers): a model of one number may give (n,), which else would broadcast."""
    return outputs.reshape(targets.shape), targets


def next_ones(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (tokens, vocabulary) and the tokens that they should foretell.

    Of outputs (n, length, vocabulary) those after every token; targets of 0, which is padding, are left out. Of
    outputs (n, vocabulary) that after the whole example.
    """
    if outputs.dim() == 2:
        return outputs, targets[:, -1]
    is_there = targets != 0
    return outputs[is_there], targets[is_there]


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss with its targets and metrics. ValueError if `targets` is none of the known kinds, or `usual` no metric."""

    loss: Criterion
    """(outputs, targets) of a minibatch, aligned, to the mean loss: a scalar that can be differentiated."""
    targets: Targets = "classes"
    """What the data must have: see `DataSpec`."""
    metrics: Mapping[str, Callable[[], Metric]] = field(default_factory=dict)
    """The metrics by name, each made anew for an evaluation. They see targets as the loss does, flags as int64."""
    usual: Sequence[str] | None = None
    """Those that are logged where a run names none; all of them unless given."""
    align: Align | None = None
    """Goes before loss and metrics; by default what the kind of targets needs."""
    total: Callable[[Tensor, Tensor], Tensor] | None = None
    """The sum of the losses of a batch; the mean times its length unless given."""
    is_softmax: bool = False
    """Whether outputs are logits of one class an example: what masked-cross-entropy, average-by-label and distill
    count on."""

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise ValueError(f"targets is one of {', '.join(map(repr, TARGETS))}, got {self.targets!r}")
        if "loss" in self.metrics:
            raise ValueError("a metric is called 'loss', which the log has already; give it another name")
        self.chosen(",".join(self.usual or ()))

    def chosen(self, names: str) -> tuple[str, ...]:
        """The metrics that a text such as "f1,auc" names, the usual ones if it is empty; ValueError lists all."""
        wanted = [name.strip() for name in names.split(",")] if names else self.usual
        wanted = list(self.metrics) if wanted is None else wanted
        if unknown := [name for name in wanted if name not in self.metrics]:
            raise ValueError(f"no metric {unknown[0]!r} here; known: {', '.join(self.metrics) or 'none'}")
        return tuple(dict.fromkeys(wanted))

    def aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What loss and metrics compare."""
        align = self.align or _ALIGN[self.targets]
        return align(outputs, targets)

    @property
    def criterion(self) -> Criterion:
        """The loss of a model's outputs as they come."""
        if (self.align or _ALIGN[self.targets]) is as_they_are:
            return self.loss
        return lambda outputs, targets: self.loss(*self.aligned(outputs, targets))

    def is_better_higher(self, name: str) -> bool:
        """Whether a larger value of a metric, or of the "loss", is a better one."""
        return name != "loss" and bool(self.metrics[name]().higher_is_better)

    def output_shapes(self, spec: DataSpec, num_examples: int) -> list[tuple[int, ...]]:
        """The shapes that a model's outputs for so many examples may have, the usual one first."""
        shapes: list[tuple[int, ...]] = [(num_examples, spec.num_classes)]
        if spec.targets == "tokens":
            shapes.append((num_examples, *spec.input_shape, spec.num_classes))
        if spec.targets in ("reals", "flags") and spec.num_classes == 1:
            shapes.append((num_examples,))
        return shapes

    def some_targets(self, spec: DataSpec) -> Tensor:
        """Targets of two examples, to try things on."""
        targets = torch.zeros((2, *spec.target_shape), dtype=_TORCH[self.targets])
        return targets + 1 if self.targets == "tokens" and spec.num_classes > 1 else targets  # 0 is padding

    def check(self, spec: DataSpec) -> None:
        """Try the loss and the metrics on outputs of zeros; ValueError where the loss is no scalar, or one raises.

        What a user's own loss raises is told with the user's line first.
        """
        targets = self.some_targets(spec)
        outputs = torch.zeros(self.output_shapes(spec, 2)[0], requires_grad=True)
        with _telling_lines():
            loss = self.criterion(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
            seen = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"the loss is to be one number that can be differentiated, a scalar tensor; got {seen}")
        with _telling_lines(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two examples, all alike, some have nothing to say
            self.score([(outputs.detach(), targets)], tuple(self.metrics))

    def score(self, batches: Iterable[tuple[Tensor, Tensor]], names: Sequence[str]) -> dict[str, float]:
        """The mean loss, as "loss", and the named metrics over batches of (outputs, targets); NaN of nothing."""
        meters = {name: self.metrics[name]() for name in names}
        loss, count = 0.0, 0
        for batch in batches:
            outputs, targets = self.aligned(*batch)
            total = self.total(outputs, targets) if self.total else self.loss(outputs, targets) * len(targets)
            loss, count = loss + float(total), count + len(targets)
            judged = targets.long() if self.targets == "flags" else targets
            for meter in meters.values():
                if isinstance(meter, nn.Module):  # torchmetrics' keep their sums on a device
                    meter.to(outputs.device)
                meter.update(outputs, judged)
        values = {name: float(meter.compute()) for name, meter in meters.items()}
        return {"loss": loss / count if count else math.nan, **values}


_ALIGN: Mapping[Targets, Align] = {"classes": as_they_are, "reals": alike, "flags": alike, "tokens": next_ones}
_TORCH: Mapping[Targets, torch.dtype] = {
    "classes": torch.int64,
    "reals": torch.float32,
    "flags": torch.float32,
    "tokens": torch.int64,
}


def cross_entropy() -> Objective:
    """Of the softmax of a logit a class: one class an example. accuracy; macro f1; auc of each class against all."""
    return Objective(
        nn.functional.cross_entropy,
        "classes",
        {"accuracy": _accuracy, "f1": lambda: F1(_classes), "auc": lambda: AUC(_class_scores)},
        usual=("accuracy",),
        total=partial(nn.functional.cross_entropy, reduction="sum"),
        is_softmax=True,
    )


def mse() -> Objective:
    """The mean squared error of numbers, any count an example. mae; rmse."""
    absolute = partial(Mean, lambda o, t: (float((o - t).abs().sum()), t.numel()), higher_is_better=False)
    squared = partial(Mean, lambda o, t: (float((o - t).square().sum()), t.numel()), higher_is_better=False)
    metrics: Mapping[str, Callable[[], Metric]] = {"mae": absolute, "rmse": partial(squared, finish=math.sqrt)}
    return Objective(nn.functional.mse_loss, "reals", metrics, usual=("mae",))


def bce() -> Objective:
    """Binary cross-entropy of a logit a flag: any number of labels an example. accuracy of flags; macro f1; auc."""
    return Objective(
        nn.functional.binary_cross_entropy_with_logits,
        "flags",
        {
            "accuracy": lambda: Mean(lambda o, t: (float(((o > 0) == (t > 0.5)).sum()), t.numel()), True),
            "f1": lambda: F1(lambda o, t: (o > 0, t > 0.5)),
            "auc": lambda: AUC(lambda o, t: (o, t > 0.5)),
        },
    )


def next_token() -> Objective:
    """The cross-entropy of the token that follows, in nats a token. accuracy; perplexity, its exponential."""
    entropy = partial(nn.functional.cross_entropy, reduction="sum")
    return Objective(
        nn.functional.cross_entropy,
        "tokens",
        {
            "accuracy": _accuracy,
            "perplexity": lambda: Mean(lambda o, t: (float(entropy(o, t)), len(t)), False, _exponential),
        },
        total=entropy,
    )


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "bce": bce,
    "cross_entropy": cross_entropy,
    "mse": mse,
    "next_token": next_token,
}


def parse_objective(text: str) -> Objective:
    """The objective that `text` names; ValueError that lists the known ones."""
    return _parsed(text, own.versions(text))


@lru_cache(maxsize=8)
def _parsed(text: str, versions: tuple[object, ...]) -> Objective:
    return build(text, OBJECTIVES, "objective", Objective, own.EVERY)


@contextmanager
def _telling_lines() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a user's own code
        raise ValueError(own.blamed(error)) from error


def _exponential(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


def _accuracy() -> Metric:
    return Mean(lambda outputs, targets: (float((outputs.argmax(1) == targets).sum()), len(targets)), True)


def _classes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    classes = torch.arange(outputs.shape[1], device=outputs.device)
    return outputs.argmax(1)[:, None] == classes, targets[:, None] == classes


def _class_scores(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs.softmax(1), _classes(outputs, targets)[1]
