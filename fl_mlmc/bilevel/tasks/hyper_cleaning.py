"""Learning from noisy labels with a few clean ones: the outer level decides what the inner training listens to.

* `hyper_cleaning`: x has a logit for each training example and g_i = Σ σ(x_n) ℓ(y; z_n) / n + (λ/2)‖y‖², f_i = ℓ on
  clean examples (Franceschi et al. 2017, arXiv 1703.01785, section 5.1). Every client weighs its own examples, so x
  is personal and never leaves it.
* `log_ridge`: x has the logarithm of a ridge penalty for each parameter, g_i = ℓ + ½ Σ exp(x_j) y_j². It is cut along
  with y, so here coverage matters.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...models import Model
from ...run.rng import stream
from ...submodels import WidthSpec
from ...submodels.width_spec import CLASSES
from ..problem import BilevelProblem, Shard, Tensors
from .network import Network
from .rows import Batch, Rows, draw


class WeightedBatch(NamedTuple):
    """A minibatch as `Batch`, and which of the client's weights are its examples': `places` (batch,) int64."""

    features: Tensor
    labels: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class CleaningRows:
    """One client's noisy training examples, in the order of its weights, with its clean ones."""

    noisy: Batch
    clean: Batch
    batch_size: int = 32
    is_wrong: Tensor | None = None
    """Which noisy labels were made wrong, where that is known."""

    @classmethod
    def of(cls, shard: Shard, wrong_share: float, num_classes: int) -> "CleaningRows":
        """A client's examples in a run, of which the inner ones get wrong labels, the same in every round."""
        rows = Rows.of(shard)
        rng = stream(shard.seed, "wrong-labels", shard.client)
        labels, is_wrong = with_wrong_labels(rows.inner_rows.labels, wrong_share, num_classes, rng)
        return cls(Batch(rows.inner_rows.features, labels), rows.outer_rows, shard.batch_size, is_wrong)

    @property
    def num_examples(self) -> int:
        """Noisy and clean."""
        return len(self.noisy.labels) + len(self.clean.labels)

    def inner(self, rng: np.random.Generator) -> WeightedBatch:
        """Noisy examples, `batch_size` different ones or all."""
        size = min(self.batch_size, len(self.noisy.labels))
        picked = torch.from_numpy(rng.choice(len(self.noisy.labels), size, replace=False))
        return WeightedBatch(self.noisy.features[picked], self.noisy.labels[picked], picked)

    def outer(self, rng: np.random.Generator) -> Batch:
        """Clean examples, likewise."""
        return draw(self.clean, self.batch_size, rng)


def with_wrong_labels(
    labels: Tensor, share: float, num_classes: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Labels of which each is replaced, with probability `share`, by another class at random; and which were, bool.

    `labels`, both results: (examples,), of classes 0 to `num_classes` − 1.
    """
    is_wrong = torch.from_numpy(rng.random(len(labels)) < share).to(labels.device)
    shift = torch.from_numpy(rng.integers(1, num_classes, len(labels))).to(labels.device)
    return torch.where(is_wrong, (labels + shift) % num_classes, labels), is_wrong


def hyper_cleaning(
    model: Model, strong_convexity: float = 0.01, wrong_share: float = 0.0, start: float = 0.0
) -> BilevelProblem:
    """A weight σ(x_n) for each of a client's training examples, from σ(`start`) on; all at one with `start` = 20.

    A model without hidden layers keeps g strongly convex. In a run `wrong_share` of the training labels are made
    wrong, as an experiment; `outer-share` of a client's examples are the clean ones. ValueError if `wrong_share` lies
    outside [0, 1), or the model keeps statistics.
    """
    if not 0 <= wrong_share < 1:
        raise ValueError(f"wrong_share lies in [0, 1), got {wrong_share}")
    network = Network(model)

    def inner(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        losses = cross_entropy(network(y, batch.features), batch.labels, reduction="none")
        return (x["logits"][batch.places].sigmoid() * losses).mean()

    def sized(num_examples: int) -> BilevelProblem:
        return replace(
            whole,
            inner_loss=inner,
            outer="personal",
            outer_spec=WidthSpec({}, {"logits": (num_examples,)}, {"logits": (None,)}),  # no tier cuts it
            initial=lambda seed: (
                torch.full((num_examples,), float(start)),
                network.initial(seed, network.spec.shapes.keys()),
            ),
            data=lambda shard: CleaningRows.of(shard, wrong_share, model.spec.units[CLASSES]),
            of_client=lambda data: sized(len(data.noisy.labels)),
        )

    whole = _of_whole_model(network, strong_convexity)
    return sized(1)


def log_ridge(model: Model, strong_convexity: float = 1e-3, start: float = -6.0) -> BilevelProblem:
    """A ridge of exp(x_j) on each parameter, from exp(`start`) on; ValueError if the model keeps statistics."""
    network = Network(model)

    def inner(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        penalties = [(x[name].exp() * tensor.square()).sum() for name, tensor in y.items()]
        return cross_entropy(network(y, batch.features), batch.labels) + 0.5 * torch.stack(penalties).sum()

    problem = _of_whole_model(network, strong_convexity)
    return replace(
        problem,
        inner_loss=inner,
        initial=lambda seed: (
            torch.full((network.spec.size,), start),
            network.initial(seed, network.spec.shapes.keys()),
        ),
    )


def detection_auc(weights: Tensor, is_wrong: Tensor) -> float:
    """The chance that a wrong example has a smaller weight than a right one, ties counting half: the ROC's area.

    `weights` (examples,) and `is_wrong` (examples,) bool, with one of each kind at least; NaN without.
    """
    order = torch.unique(weights, return_inverse=True)[1]
    wrong, right = (
        torch.bincount(order[part], minlength=int(order.max()) + 1).double() for part in (is_wrong, ~is_wrong)
    )
    below = wrong.cumsum(0) - wrong / 2
    return float((right * below).sum() / (right.sum() * wrong.sum()))


def _of_whole_model(network: Network, strong_convexity: float) -> BilevelProblem:
    def predict(x: Tensors, y: Tensors, features: Tensor) -> Tensor:
        return network(y, features)

    def loss(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        return cross_entropy(network(y, batch.features), batch.labels)

    spec = network.spec
    return BilevelProblem(loss, loss, spec, spec, strong_convexity, predict=predict)
