"""The laws that every plan, every model and the coverage mean keep, and the slow versions that define them.

Each `check_…` raises AssertionError where a law is broken. They are part of the library so that whoever adds a rule
or a model can put it through the same tests.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..models.base import Model
from ..models.norms import Scaler
from .flat import load_vector, to_vector, vector_tensors
from .plan import IndexPlan


def check_plan(plan: IndexPlan) -> None:
    """A plan names different coordinates of the full model; gather and scatter are adjoint; gather ∘ scatter = id."""
    for name, kept in plan.kept.items():
        assert kept.dtype == np.int64
        assert len(kept) >= 1, f"the plan keeps nothing of {name!r}"
        assert (np.diff(kept) > 0).all(), f"the kept units of {name!r} do not ascend: {kept}"
        assert 0 <= kept[0] <= kept[-1] < plan.spec.units[name], f"{kept} of {plan.spec.units[name]} {name!r}"
    indices = plan.indices
    assert indices.dtype == torch.int64
    assert indices.numel() == plan.size == len(indices.unique())
    assert 0 <= int(indices.min()) <= int(indices.max()) < plan.spec.size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(plan.spec.size, generator=generator, dtype=torch.float64)
    u = torch.randn(plan.size, generator=generator, dtype=torch.float64)
    assert torch.equal(plan.gather(x), x[indices]), "gather is not indexing"
    scattered = torch.zeros_like(x)
    plan.scatter_add(scattered, u)
    torch.testing.assert_close(scattered @ x, u @ plan.gather(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(plan.gather(scattered), u), "gather does not undo scatter"
    accumulator = x.clone()
    plan.scatter_add(accumulator, u, scale=-2.0)
    expected = x.clone()
    expected[indices] -= 2 * u
    torch.testing.assert_close(accumulator, expected, rtol=1e-12, atol=1e-12)


def check_submodule(model: Model, plan: IndexPlan) -> nn.Module:
    """The module built for a plan takes exactly what the plan gathers, tensor by tensor; gives that module.

    At full width gather is the identity, bit for bit.
    """
    full = model.initial(seed=1)
    part = plan.gather(full)
    module = model.build(plan.units)
    load_vector(module, part)
    assert torch.equal(to_vector(module), part), "the module does not hold what was loaded"
    if plan.is_full:
        assert torch.equal(part, full), "full width is not the full model"
    wide = model.build(model.spec.units)
    load_vector(wide, full)
    tensors = vector_tensors(wide)
    for name, tensor in vector_tensors(module).items():
        assert torch.equal(tensor, cut(plan, name, tensors[name])), f"tensor {name!r} is cut another way"
    return module


def cut(plan: IndexPlan, name: str, tensor: Tensor) -> Tensor:
    """One tensor of the submodel out of the full tensor, axis by axis: the definition of `gather`."""
    for position, axis in enumerate(plan.spec.axes[name]):
        if axis is not None:
            rows = torch.arange(tensor.shape[position]).view(axis.outer, plan.spec.units[axis.units], axis.inner)
            places = rows[:, torch.from_numpy(plan.kept[axis.units])].reshape(-1)
            tensor = tensor.index_select(position, places)
    return tensor


def masked_module(model: Model, plan: IndexPlan, vector: Tensor) -> nn.Module:
    """The full module holding `vector` with every coordinate outside the plan set to zero."""
    mask = torch.zeros_like(vector)
    mask[plan.indices] = 1
    module = model.build(model.spec.units)
    load_vector(module, vector * mask)
    return module


def check_sliced_equals_masked(model: Model, plan: IndexPlan, inputs: Tensor) -> None:
    """A submodel computes what the full model computes with all other parameters at zero, gradients included.

    True where a unit without parameters is silent: not through a norm whose moments run over the units. Scalers, which
    look at the width alone, are set alike.
    """
    generator = torch.Generator().manual_seed(2)
    vector = model.initial(seed=1)
    vector = vector + 0.05 * torch.randn(vector.shape, generator=generator)
    sliced, masked = model.build(plan.units), masked_module(model, plan, vector)
    load_vector(sliced, plan.gather(vector))
    rates = {name: layer.rate for name, layer in sliced.named_modules() if isinstance(layer, Scaler)}
    for name, layer in masked.named_modules():
        if isinstance(layer, Scaler):
            layer.rate = rates[name]
    if inputs.is_floating_point():
        inputs = inputs.double()
    outputs = [copy.deepcopy(module).double().train()(inputs) for module in (sliced, masked)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    gradients = []
    for module in (sliced, masked):
        module.double().train()
        module(inputs).square().sum().backward()
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients.append(to_vector(module))
    torch.testing.assert_close(gradients[0], plan.gather(gradients[1]), rtol=1e-5, atol=1e-8)


def reference_mean(size: int, updates: Sequence[tuple[IndexPlan, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """What `CoverageMean` computes, in ten lines: the mean (float64) and the coverage of every coordinate."""
    mean, coverage = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.int32)
    for coordinate in range(size):
        total = weights = 0.0
        for plan, update, weight in updates:
            for own in (plan.indices == coordinate).nonzero().flatten():
                total += weight * float(update[own])
                weights += weight
                coverage[coordinate] += 1
        mean[coordinate] = total / weights if weights else 0.0
    return mean, coverage
