"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): a model that stays, and a small part that learns.

    model = "lora(transformer(weights='models/minilm'), rank=8, targets=('query', 'value'))"

A linear layer with weight W of shape (out, in) computes (W + α/r · B A) x. W never trains and never travels: every
machine reads its own. A of shape (r, in) and B of shape (out, r) do, and so does the classifier.

**The rank is the tier.** A client of width 0.25 holds the first quarter of the r ranks: rows of A and columns of B. The
scale stays that of all ranks, so the parts of wide and narrow clients mean the same. The server's average over who
holds a coordinate is then that of HetLoRA (Cho et al. 2024, arXiv 2401.06432). It is an average of factors, and
mean(B) mean(A) is not mean(B A). With `freeze_a`, A stays at its random start and B alone travels: then the average is
exact (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..registry import Call
from ..submodels.flat import vector_tensors
from ..submodels.width_spec import CLASSES, Axis, WidthSpec
from .base import Model, skeleton
from .called import called

RANK = "rank"
"""The hidden dimension that widths cut."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def lora(
    input_shape: tuple[int, ...],
    num_classes: int,
    model: Call,
    rank: int = 8,
    targets: tuple[str, ...] = ("query", "value"),
    alpha: float = 16.0,
    freeze_a: bool = False,
    dtype: str = "float32",
) -> Model:
    """`model` with adapters of `rank` on the linear layers that `targets` name, by the end of their names.

    Its other layers keep what `model` starts with, its `weights` or what it draws at seed 0; the classifier trains
    whole. `dtype`: of what does not train, "float32" or "bfloat16". ValueError names a target that no layer has, with
    the near ones, and a rank above a layer's smaller side.
    """
    if rank < 1 or alpha <= 0:
        raise ValueError(f"a rank is at least 1 and alpha above 0, got rank={rank}, alpha={alpha:g}")
    if not targets:
        raise ValueError("targets name the linear layers that get adapters: name at least one")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
    base = called(model, input_shape, num_classes)
    wanted = (targets,) if isinstance(targets, str) else tuple(targets)
    layers = _adapted_layers(skeleton(base.build, base.spec.units), base.spec, wanted, rank)
    frozen = Frozen(base, layers, rank, alpha / rank, freeze_a, DTYPES[dtype])
    return LoraModel(frozen.build, frozen.spec(), frozen=frozen)


@dataclass(frozen=True, eq=False)
class LoraModel(Model):
    """A model of which a small part trains; made by `lora`."""

    frozen: "Frozen" = field(kw_only=True)

    def initial(self, seed: int) -> Tensor:
        """The part that trains, before it does, as a flat float32 vector: A and the classifier are drawn, B is zero."""
        module = self.frozen.build(self.spec.units)
        fresh = dict(zip(self.frozen.base.spec.shapes, self._base_parts(seed), strict=True))
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for name, tensor in vector_tensors(module).items():
            if name.endswith(".lora_a"):
                parts.append(_uniform(tuple(tensor.shape), generator).reshape(-1))
            else:
                parts.append(tensor.reshape(-1) if name.endswith(".lora_b") else fresh[name])
        return torch.cat(parts)

    def base_digest(self) -> str:
        """SHA-256 of all that does not train, as hexadecimal: equal where two machines have the same base."""
        return self.frozen.digest

    def _base_parts(self, seed: int) -> tuple[Tensor, ...]:
        base = self.frozen.base
        return base.initial(seed).split([shape.numel() for shape in map(torch.Size, base.spec.shapes.values())])


@dataclass(frozen=True, eq=False)
class Frozen:
    """A base that does not train, and where adapters sit on it."""

    base: Model
    layers: tuple[str, ...]
    rank: int
    scale: float
    freeze_a: bool
    dtype: torch.dtype

    def spec(self) -> WidthSpec:
        """How ranks are cut: rows of every A, columns of every B, nothing else."""
        module = skeleton(self.build, {RANK: self.rank})
        full = {RANK: self.rank}
        axes: dict[str, tuple[Axis | None, ...]] = {}
        for name in vector_tensors(module):
            if name.endswith(".lora_a"):
                axes[name] = (Axis(RANK), None)
            elif name.endswith(".lora_b"):
                axes[name] = (None, Axis(RANK))
            else:
                row = self.base.spec.axes[name]
                axes[name] = tuple(axis if axis and axis.units == CLASSES else None for axis in row)
                if any(axes[name]):
                    full[CLASSES] = self.base.spec.units[CLASSES]
        return WidthSpec.of(module, full, axes)

    def build(self, units: Mapping[str, int]) -> nn.Module:
        """The whole base with adapters of units["rank"] ranks; what does not train is shared, not copied."""
        with torch.random.fork_rng(devices=[]):
            module = self.base.build(self.base.spec.units)
        is_skeleton = torch.empty(0).is_meta
        heads = _heads(self.base.spec)
        if not is_skeleton:
            state = {name: tensor.clone() if name in heads else tensor for name, tensor in self._state.items()}
            module.load_state_dict(state, strict=False, assign=True)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in heads)
        for name in self.layers:
            inner = module.get_submodule(name)
            assert isinstance(inner, nn.Linear)
            adapted = Adapted(inner, units[RANK], self.scale)
            if not is_skeleton:
                adapted.draw(self.rank, _named_generator(name))
            adapted.lora_a.requires_grad_(not self.freeze_a)
            module.set_submodule(name, adapted)
        if self.dtype != torch.float32:
            for layer in {name.rpartition(".")[0] for name in heads}:
                module.get_submodule(layer).register_forward_pre_hook(_in_float32)
        return module

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        """All tensors of the base, by name; those that do not train in `dtype`."""
        heads = _heads(self.base.spec)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            module = self.base.build(self.base.spec.units)
            if self.base.pretrained is not None:
                module.load_state_dict(self.base.pretrained(), strict=False)
        parameters = dict(module.named_parameters()).keys() - heads
        return {
            name: tensor.detach().to(self.dtype) if name in parameters else tensor.detach()
            for name, tensor in module.state_dict().items()
        }

    @cached_property
    def digest(self) -> str:
        """Of the names, shapes and values of what does not train, A too if it does not."""
        total = hashlib.sha256()
        for name, tensor in self._state.items():
            if name not in _heads(self.base.spec):
                total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        if self.freeze_a:
            total.update(f"A{self.layers}{self.rank}".encode())
        return total.hexdigest()


class Adapted(nn.Module):
    """A linear layer that does not train, plus scale · B A on its input."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, out) from (…, in), in the dtype of the layer's own output."""
        outputs = self.base(inputs)
        low = linear(linear(inputs.to(self.lora_a.dtype), self.lora_a), self.lora_b)
        return outputs + (self.scale * low).to(outputs.dtype)

    def draw(self, full_rank: int, generator: torch.Generator) -> None:
        """Fill A with the first rows of what is drawn for all ranks, so that narrow and wide agree."""
        with torch.no_grad():
            drawn = _uniform((full_rank, self.lora_a.shape[1]), generator)
            self.lora_a.copy_(drawn[: self.lora_a.shape[0]])


def _adapted_layers(module: nn.Module, spec: WidthSpec, targets: tuple[str, ...], rank: int) -> tuple[str, ...]:
    """The names of the linear layers that `targets` name; ValueError for one that names none, or does not fit."""
    heads = {name.rpartition(".")[0] for name in _heads(spec)}
    linears = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    linears = {name: layer for name, layer in linears.items() if name not in heads}
    found = []
    for target in targets:
        named = [name for name in linears if f".{name}".endswith(f".{target}")]
        if not named:
            known = sorted({name.rpartition(".")[2] for name in linears} | set(linears))
            near = get_close_matches(target, known, n=3, cutoff=0.4) or sorted(linears)[:5]
            raise ValueError(
                f"no linear layer is named {target!r}" + (f"; near: {', '.join(near)}" if near else "; there is none")
            )
        found += [name for name in named if name not in found]
    for name in found:
        smaller = min(linears[name].in_features, linears[name].out_features)
        if rank > smaller:
            raise ValueError(f"rank={rank} is above the smaller side of layer {name!r}, which is {smaller}")
    return tuple(name for name in linears if name in found)


def _heads(spec: WidthSpec) -> set[str]:
    """The tensors of the classifier, which train whole."""
    return {name for name, row in spec.axes.items() if any(axis and axis.units == CLASSES for axis in row)}


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """LoRA's start for A, (rank, in): uniform within ±1/√in."""
    return (torch.rand(shape, generator=generator) * 2 - 1) / shape[1] ** 0.5


def _named_generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little"))


def _in_float32(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in inputs)
