"""Hyper-representation: a backbone x that is good for whatever linear head y is trained on it.

g_i = cross-entropy of the head on the client's training examples + (λ/2)‖y‖², f_i = that on its validation examples
(Franceschi et al. 2018, arXiv 1806.04910; federated in FedNest, Tarzanagh et al. 2022, arXiv 2205.02215, section 4).
"""

from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from ...models import Model
from ...submodels.width_spec import CLASSES
from ..problem import BilevelProblem, Tensors, cut_only
from .network import Network


def hyper_representation(
    model: Model,
    strong_convexity: float = 0.01,
    lower: Literal["global", "personal"] = "global",
    cut: Literal["both", "outer", "inner"] = "both",
) -> BilevelProblem:
    """The head is every tensor whose first axis counts classes; its inputs are cut as the backbone's last outputs.

    `strong_convexity` is λ. `cut` = "outer" or "inner" is the ablation in which clients cut x alone, or y alone.
    ValueError if the model has no backbone, no such head, or keeps statistics.
    """
    if cut not in ("both", "outer", "inner"):
        raise ValueError(f"cut is 'both', 'outer' or 'inner', got {cut!r}")
    network = Network(model)
    outer_spec, inner_spec = (
        network.part(lambda name: not _is_head(model, name)),
        network.part(lambda name: _is_head(model, name)),
    )
    if not outer_spec.shapes or not inner_spec.shapes:
        raise ValueError(
            "hyper-representation needs a backbone and a linear head; the tensors of this model are "
            f"{', '.join(model.spec.shapes)}, of which the head has {', '.join(inner_spec.shapes) or 'none'}"
        )

    def predict(x: Tensors, y: Tensors, features: Tensor) -> Tensor:
        return network({**x, **y}, features)

    def loss(x: Tensors, y: Tensors, batch: Any) -> Tensor:
        return cross_entropy(predict(x, y, batch.features), batch.labels)

    problem = BilevelProblem(
        outer_loss=loss,
        inner_loss=loss,
        outer_spec=outer_spec,
        inner_spec=inner_spec,
        strong_convexity=strong_convexity,
        lower=lower,
        initial=lambda seed: (
            network.initial(seed, outer_spec.shapes.keys()),
            network.initial(seed, inner_spec.shapes.keys()),
        ),
        predict=predict,
    )
    return problem if cut == "both" else cut_only(problem, cut)


def _is_head(model: Model, name: str) -> bool:
    axes = model.spec.axes[name]
    return bool(axes) and axes[0] is not None and axes[0].units == CLASSES
