"""The models by name, as the config writes them: "cnn" or "cnn(dense=64)"."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from .. import own
from ..registry import Call, parse_call, rooted
from .base import Model
from .char_lstm import char_lstm
from .cnn import cnn
from .mlp import mlp
from .plain import plain_model
from .resnet import resnet18
from .transformer import transformer

MODELS: Mapping[str, Callable[..., Model]] = {
    "char_lstm": char_lstm,
    "cnn": cnn,
    "mlp": mlp,
    "resnet18": resnet18,
    "transformer": transformer,
}


def parse_model(text: str) -> Call:
    """What `text` names, and its options; ValueError that lists the known ones."""
    return parse_call(text, MODELS, "model", given=2, follow=own.EVERY)


def rooted_model(text: str) -> str:
    """The text of a model, the paths in its options made absolute."""
    return rooted(text, MODELS, "model", given=2)


def build_model(text: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The model that `text` names, for data of that shape. Equal arguments give the same object.

    ValueError if its module and its width spec do not go together.
    """
    return _build(text, input_shape, num_classes, own.versions(text))


@lru_cache(maxsize=8)
def _build(text: str, input_shape: tuple[int, ...], num_classes: int, versions: tuple[object, ...]) -> Model:
    call = parse_model(text)
    model = _of_ones_own(call, input_shape, num_classes) if call.is_own else call(input_shape, num_classes)
    model.check()
    return model


def _of_ones_own(call: Call, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """What a function of the user's own gives: a Model, or a module whose spec is found by building it."""
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
