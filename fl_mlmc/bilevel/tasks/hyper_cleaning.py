"""Learning from noisy labels with a few clean ones: the outer level decides what the inner training listens to.

* `hyper_cleaning`: x has a logit for each training example and g_i = Σ σ(x_n) ℓ(y; z_n) / n + (λ/2)‖y‖², f_i = ℓ on
  clean examples (Franceschi et al. 2017, arXiv 1703.01785, section 5.1). Every x_n belongs to one client.
* `log_ridge`: x has the logarithm of a ridge penalty for each parameter, g_i = ℓ + ½ Σ exp(x_j) y_j². It is cut along
  with y, so here coverage matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...models import Model
from ...submodels import Axis, IndexPlan, WidthSpec, plan
from ..problem import BilevelProblem, Held, Tensors
from .network import Network
from .rows import Batch, draw

EXAMPLES = "examples"
"""The hidden dimension of x that counts all clients' training examples."""


class WeightedBatch(NamedTuple):
    """A minibatch, and which of the client's weights are its examples'."""

    features: Tensor
    labels: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class CleaningRows:
    """One client's noisy training examples, with its clean ones; `places`: its own weights within x, ascending."""

    noisy: Batch
    clean: Batch
    places: np.ndarray
    batch_size: int = 32

    def inner(self, rng: np.random.Generator) -> WeightedBatch:
        """Noisy examples."""
        size = min(self.batch_size, len(self.noisy.labels))
        picked = torch.from_numpy(rng.choice(len(self.noisy.labels), size, replace=False))
        return WeightedBatch(self.noisy.features[picked], self.noisy.labels[picked], picked)

    def outer(self, rng: np.random.Generator) -> Batch:
        """Clean examples."""
        return draw(self.clean, self.batch_size, rng)

    def held(self, problem: BilevelProblem, rule: str, width: float, server_round: int = 0, client: int = 0) -> Held:
        """The client's own weights, and the model cut to its width."""
        outer = IndexPlan(problem.outer_spec, {EXAMPLES: self.places})
        return Held(problem, outer, plan(problem.inner_spec, rule, width, server_round, client))

    @classmethod
    def share_out(cls, parts: Sequence[tuple[Batch, Batch]], batch_size: int = 32) -> list["CleaningRows"]:
        """Clients of (noisy, clean) examples, whose weights follow each other in x."""
        ends = np.cumsum([0, *(len(noisy.labels) for noisy, _ in parts)])
        return [
            cls(noisy, clean, np.arange(start, stop), batch_size)
            for (noisy, clean), start, stop in zip(parts, ends[:-1], ends[1:], strict=True)
        ]


def hyper_cleaning(model: Model, num_examples: int, strong_convexity: float = 0.01) -> BilevelProblem:
    """Weights of `num_examples` training examples; a model without hidden layers keeps g strongly convex."""
    network = Network(model)
    spec = WidthSpec({EXAMPLES: num_examples}, {"logits": (num_examples,)}, {"logits": (Axis(EXAMPLES),)})

    def inner(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        losses = cross_entropy(network(y, batch.features), batch.labels, reduction="none")
        return (x["logits"][batch.places].sigmoid() * losses).mean()

    problem = _of_whole_model(network, strong_convexity)
    return replace(
        problem,
        inner_loss=inner,
        outer_spec=spec,
        initial=lambda seed: (torch.zeros(num_examples), network.initial(seed, network.spec.shapes.keys())),
    )


def log_ridge(model: Model, strong_convexity: float = 1e-3, start: float = -6.0) -> BilevelProblem:
    """A ridge of exp(x_j) on each parameter, from exp(`start`) on."""
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
    """The chance that a wrong example has a smaller weight than a right one, ties counting half."""
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
