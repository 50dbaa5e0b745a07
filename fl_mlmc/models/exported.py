"""A trained model in a file of its own, as devices and other programs take it: safetensors or a torch state_dict.

>>> from fl_mlmc.models import load_exported
>>> module = load_exported("model.safetensors")      # doctest: +SKIP

The tensors are those of the module's `state_dict`, cut to one tier's width, so plain torch reads the file too. Beside
them the file says how the module is built; a state_dict (.pt) cannot hold that.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..own import references
from ..submodels.plan import plan
from .norms import StaticBatchNorm2d
from .registry import build_model, placed_model

ABOUT = "fl_mlmc"
FORMATS = (".safetensors", ".pt")


@dataclass(frozen=True)
class About:
    """What builds the module that an exported file fills: the model's text, the shape of its data, and a submodel."""

    model: str
    input_shape: tuple[int, ...]
    num_classes: int
    rule: str
    width: float

    def build(self) -> nn.Module:
        """The module, with fresh values. ValueError if the model is not known here."""
        model = build_model(self.model, self.input_shape, self.num_classes)
        return model.build(plan(model.spec, self.rule, self.width).units)


def save_exported(module: nn.Module, about: About, path: Path) -> None:
    """Write the state of `module` to `path`, in the format that its ending names; ValueError for another ending.

    Statistics of static batch norms, which are no state, go along as `running_mean` and `running_var`.
    """
    from safetensors.torch import save_file  # a device has it not

    if not references(about.model):
        about = replace(about, model=placed_model(about.model, ""))  # all weights are in the file
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    tensors |= _statistics(module)
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={ABOUT: json.dumps(asdict(about))})
    elif path.suffix == ".pt":
        torch.save(tensors, path)
    else:
        raise ValueError(f"a model is exported as {' or '.join(FORMATS)}, got {path.name!r}")


def load_exported(path: str | Path, own: bool = False) -> nn.Module:
    """The module in a .safetensors file of `save_exported`, in evaluation mode.

    `own`: the file may name a model of one's own, and so have another file run: only where you trust who wrote it.
    ValueError if the file holds no such module.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(ABOUT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    if said is None:
        raise ValueError(f"{path} does not say how its module is built: expected a file of `fl-mlmc export`")
    fields = json.loads(said)
    if references(str(fields["model"])) and not own:
        raise ValueError(
            f"{path} is a model of {fields['model']!r}, which would be run: load_exported(path, own=True) does so, if "
            "you trust who wrote the file"
        )
    module = About(**{**fields, "input_shape": tuple(fields["input_shape"])}).build()
    for name, layer in _static(module):
        layer.statistics = (tensors.pop(f"{name}.running_mean"), tensors.pop(f"{name}.running_var"))
    module.load_state_dict(tensors)
    return module.eval()


def _static(module: nn.Module) -> list[tuple[str, StaticBatchNorm2d]]:
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, StaticBatchNorm2d)]


def _statistics(module: nn.Module) -> Mapping[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, layer in _static(module):
        if layer.statistics is None:
            raise ValueError(f"the norm {name} has no statistics yet: run `fill_statistics` before it is exported")
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = layer.statistics
    return found
