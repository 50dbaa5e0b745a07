"""A module's state as one flat vector: what plans cut, clients send and the server steps."""

import torch
from torch import Tensor, nn


def vector_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module that its flat vector holds, in order: all of its state that is floating point and moves.

    What does not train (`requires_grad=False`) stays as the module was built, and a tensor that has several names is
    there once, by its first. Integer state, such as a batch norm's `num_batches_tracked`, stays behind: a mean of
    counts that a compressor has scaled is no count, and nothing here depends on it.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not _is_frozen(tensor):
            found.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in found.values()}


def frozen(module: nn.Module) -> list[str]:
    """The names of a module's parameters that do not train."""
    return [name for name, parameter in module.named_parameters() if _is_frozen(parameter)]


def _is_frozen(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


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
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()  # counts begin anew with every client, whoever was trained in this module before


def gradient_vector(module: nn.Module) -> Tensor:
    """The gradients of a module's parameters as one flat float32 vector, in the order of `to_vector`.

    ValueError if the module's state holds more than parameters.
    """
    need_parameters_only(module)
    grads = (torch.zeros_like(part) if part.grad is None else part.grad for part in module.parameters())
    by_name = dict(zip((name for name, _ in module.named_parameters()), grads, strict=True))
    return torch.cat([by_name[name].reshape(-1).float() for name in vector_tensors(module)])


def need_parameters_only(module: nn.Module) -> None:
    """ValueError if the module's state holds more than parameters: gradients do not carry statistics."""
    if statistics := vector_tensors(module).keys() - dict(module.named_parameters()).keys():
        raise ValueError(
            f"the model keeps statistics that gradients do not carry ({min(statistics)}): take norm='static' or 'group'"
        )
