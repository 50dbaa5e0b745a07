"""A model from its text, already read: one of ours, or a function of the user's own."""

import inspect
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from ..registry import Call
from .base import Model
from .plain import plain_model


def called(call: Call, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The model that a call makes for such data; a function of the user's own may give a module alone (`plain`).

    ValueError if it gives neither.
    """
    if not call.is_own:
        return cast(Model, call(input_shape, num_classes))
    if not callable(call.target) or isinstance(call.target, nn.Module):
        raise ValueError(
            f"{call.name} is a {type(call.target).__name__}, expected a function of (input_shape, num_classes, "
            "width=1.0) that gives a torch.nn.Module"
        )
    signature = inspect.signature(call.target)
    if "width" in signature.bind_partial(None, None, *call.args, **call.options).arguments:
        raise ValueError(f"the width of {call.name} is that of a client's tier: leave it out of the text")
    takes_width = "width" in signature.parameters

    def net(width: float, classes: int) -> nn.Module:
        options = {**call.options, "width": width} if takes_width else call.options
        module = replace(call, options=options)(input_shape, classes)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{call.name} gives a {type(module).__name__}, expected a torch.nn.Module")
        return module

    with torch.random.fork_rng(devices=[]):
        made = call(input_shape, num_classes)
    return made if isinstance(made, Model) else plain_model(net, num_classes, takes_width)
