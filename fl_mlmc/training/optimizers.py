"""torch.optim by name, as the config writes it: "sgd" or "adamw(weight_decay=0.01)"."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from ..registry import Call, parse_call

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": torch.optim.Adagrad,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


@lru_cache(maxsize=16)
def parse_optimizer(text: str) -> Call:
    """The name and options in `text`; ValueError that lists the known ones."""
    return parse_call(text, OPTIMIZERS, "optimizer", given=2)


def make_optimizer(text: str, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer that `text` names, over `parameters`."""
    call = parse_optimizer(text)
    return OPTIMIZERS[call.name](parameters, learning_rate, *call.args, **call.options)
