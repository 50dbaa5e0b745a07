"""The models by name, as the config writes them: "cnn" or "cnn(dense=64)"."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from .. import own
from ..registry import Call, parse_call, rooted
from .base import Model
from .called import called
from .char_lstm import char_lstm
from .cnn import cnn
from .lora import lora
from .mlp import mlp
from .resnet import resnet18
from .transformer import transformer

MODELS: Mapping[str, Callable[..., Model]] = {
    "char_lstm": char_lstm,
    "cnn": cnn,
    "lora": lora,
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


def placed_model(text: str, folder: str) -> str:
    """The text of a model whose weights lie in `folder` here, wherever they lie where the text comes from."""
    return rooted(text, MODELS, "model", given=2, place=lambda _: folder)


def build_model(text: str, input_shape: tuple[int, ...], num_classes: int) -> Model:
    """The model that `text` names, for data of that shape. Equal arguments give the same object.

    ValueError if its module and its width spec do not go together.
    """
    return _build(text, input_shape, num_classes, own.versions(text))


@lru_cache(maxsize=8)
def _build(text: str, input_shape: tuple[int, ...], num_classes: int, versions: tuple[object, ...]) -> Model:
    call = parse_model(text)
    model = called(call, input_shape, num_classes)
    model.check()
    return model
