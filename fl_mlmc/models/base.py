"""What a model is to us: a builder at a width, and the spec that says how its tensors are cut."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..submodels.flat import to_vector, vector_tensors
from ..submodels.width_spec import CLASSES, DEPTH, WidthSpec

if TYPE_CHECKING:
    from ..submodels.plan import IndexPlan

Build = Callable[[Mapping[str, int]], nn.Module]
"""Makes a module with so many units in each hidden dimension."""


def skeleton(build: Build, units: Mapping[str, int]) -> nn.Module:
    """The module with shapes and no values: nothing is allocated and no random number drawn.

    Where a builder looks at values itself, such as `torch.linspace(0, 1, 4).tolist()`, they are made and thrown away.
    """
    try:
        with torch.device("meta"):
            return build(units)
    except (RuntimeError, ValueError):
        with torch.random.fork_rng(devices=[]):
            return build(units).to("meta")


@dataclass(frozen=True, eq=False)
class Model:
    """A family of modules that differ in width only.

    `build(units)` makes the module with that many units in each hidden dimension; `spec` describes the full one.
    Inputs are float32 of shape (batch, *input_shape), outputs logits of shape (batch, num_classes). Token numbers
    may come as float32 or as integers. `pretrained`, where given, reads tensors that replace freshly drawn ones.
    """

    build: Build
    spec: WidthSpec
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None

    def initial(self, seed: int) -> Tensor:
        """The full model before training as a flat float32 vector, a function of the seed and of `pretrained`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.build(self.spec.units)
        if self.pretrained is not None:
            module.load_state_dict(self.pretrained(), strict=False)
        return to_vector(module)

    def base_digest(self) -> str:
        """What tells two machines whether the parts that never travel are the same on both; empty if all travel."""
        return ""

    def certify(self, rule: str, own: "IndexPlan", inputs: Tensor) -> None:
        """ValueError unless it is certain that `own`, a submodel by `rule`, is what its module is at these units.

        `inputs`: some that it takes. A spec that was declared is taken at its word; `check` looks at shapes.
        """

    def check(self) -> None:
        """ValueError that names the tensor and axis where a built submodel is not what the spec says.

        Every hidden dimension is cut by another number of units, so that mistaken ones show.
        """
        units = {
            name: count if name in (CLASSES, DEPTH) else max(1, count - number)
            for number, (name, count) in enumerate(self.spec.units.items(), start=1)
        }
        module = skeleton(self.build, units)
        seen = {name: tuple(tensor.shape) for name, tensor in vector_tensors(module).items()}
        expected = self.spec.cut(units).shapes
        if list(seen) != list(expected):
            odd = sorted(set(seen) ^ set(expected)) or ["the same tensors in another order"]
            raise ValueError(f"a submodel and the width spec must have the same tensors; only one has {', '.join(odd)}")
        for name, shape in expected.items():
            for axis, (length, wanted) in enumerate(zip(seen[name], shape, strict=True)):
                if length != wanted:
                    raise ValueError(
                        f"axis {axis} of tensor {name!r} is {length} long in a submodel of {units}, by the width spec "
                        f"({self.spec.axes[name][axis] or 'never cut'}) it should be {wanted}; mend the spec or build"
                    )
