"""What a training step costs on this machine, and the widest tier whose budget allows it (`tier = "auto"`)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.base import Model
from .plan import plan
from .tier import Tier


@dataclass(frozen=True)
class StepCost:
    """One training step: forward and backward on one minibatch, and the optimizer's, with momentum."""

    seconds: float
    memory_bytes: int
    """Parameters, gradients and momentum of those that train, and what the forward pass keeps for the backward one."""


def measure_step(module: nn.Module, inputs: Tensor, labels: Tensor, repeats: int = 3) -> StepCost:
    """The cost of a step of `module` on a minibatch: the least seconds of `repeats`, after one to warm up.

    `inputs` are float32 (batch, *input_shape), `labels` int64 (batch,). The module's values stay as they are.
    """
    module.train()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        nn.functional.cross_entropy(module(inputs), labels).backward()
    state = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    activations = sum(size for place, size in kept.items() if place not in state)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    optimizer.step()  # the first makes room for the momentum
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(inputs), labels)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the accelerator
        seconds.append(time.perf_counter() - start)
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    return StepCost(min(seconds), sum(state.values()) + 2 * trained + activations)


def widest_tier(
    model: Model,
    tiers: Sequence[Tier],
    inputs: Tensor,
    labels: Tensor,
    rule: str = "nested",
    measure: Callable[[nn.Module, Tensor, Tensor], StepCost] = measure_step,
) -> Tier:
    """The widest tier whose step, on this minibatch, stays within its own budget of seconds and bytes.

    `inputs` and `labels` as in `measure_step`, on the device that is measured. ValueError with what was measured, if
    none does.
    """
    seen = []
    for tier in sorted(tiers, key=lambda tier: tier.width, reverse=True):
        module = model.build(plan(model.spec, rule, tier.width).units).to(inputs.device)
        cost = measure(module, inputs, labels)
        if cost.seconds <= tier.seconds and cost.memory_bytes <= tier.memory:
            return tier
        seen.append(
            f"{tier.name}: {cost.seconds:.3g} s of {tier.seconds:g}, {cost.memory_bytes:.3g} bytes of {tier.memory:g}"
        )
    raise ValueError(f"this machine fits no tier ({'; '.join(seen)}); add a narrower tier or raise a budget")
