"""torch.optim by name, as the config writes it: "sgd" or "adamw(weight_decay=0.01)"; and those of `fedopt`."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from .. import own
from ..registry import Call, parse_call
from .fedopt import FedAdagrad, FedAdam, FedYogi, fedavgm

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedavgm": fedavgm,
    "fedyogi": FedYogi,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def parse_optimizer(text: str) -> Call:
    """What `text` names, and its options; one of the user's own takes parameters and rate first, as torch's do.

    ValueError that lists the known ones.
    """
    return _parsed(text, own.versions(text))


@lru_cache(maxsize=16)
def _parsed(text: str, versions: tuple[object, ...]) -> Call:
    return parse_call(text, OPTIMIZERS, "optimizer", given=2, follow=own.EVERY)


def make_optimizer(text: str, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that `text` names, over `parameters`; ValueError if one of the user's own is none."""
    made = parse_optimizer(text)(parameters, learning_rate)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"optimizer {text!r} gives a {type(made).__name__}, expected a torch.optim.Optimizer")
    return made
