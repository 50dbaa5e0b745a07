"""What a model is to us: a builder at a width, and the spec that says how its tensors are cut."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..submodels.width_spec import WidthSpec, vector_tensors


@dataclass(frozen=True, eq=False)
class Model:
    """A family of modules that differ in width only.

    `build(units)` makes the module with that many units in each hidden dimension; `spec` describes the full one.
    Inputs are float32 of shape (batch, *input_shape), outputs logits of shape (batch, num_classes). Token numbers
    may come as float32 or as integers. `pretrained`, where given, reads tensors that replace freshly drawn ones.
    """

    build: Callable[[Mapping[str, int]], nn.Module]
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


def to_vector(module: nn.Module) -> Tensor:
    """The floating-point state of a module as one flat float32 vector, in `state_dict` order."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in vector_tensors(module).values()])


def load_vector(module: nn.Module, vector: Tensor) -> None:
    """Set the floating-point state of a module from its flat vector; ValueError if it has another length."""
    tensors = vector_tensors(module)
    expected = sum(tensor.numel() for tensor in tensors.values())
    if vector.numel() != expected:
        raise ValueError(f"the module has {expected} parameters, the vector {vector.numel()}")
    parts = vector.split([tensor.numel() for tensor in tensors.values()])
    with torch.no_grad():
        for (name, tensor), part in zip(tensors.items(), parts, strict=True):
            tensor.copy_(part.view_as(tensor))
            if name.endswith("running_var"):
                # A mean of compressed updates may take a variance below zero; the root of it would be NaN.
                tensor.clamp_(min=0.0)
