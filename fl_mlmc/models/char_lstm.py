"""A character LSTM: an embedding, LSTM layers, and logits from the last state (LEAF, arXiv 1812.01097)."""

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from ..submodels.width_spec import CLASSES, DEPTH, Axis, WidthSpec
from .base import Model, skeleton
from .exits import Staged, depth_needs


def char_lstm(
    input_shape: tuple[int, ...],
    num_classes: int,
    embedding: int = 8,
    hidden: tuple[int, ...] = (256, 256),
    vocabulary: int = 256,
    exits: bool = False,
) -> Model:
    """Takes sequences (length,) of character numbers below `vocabulary` and predicts what follows.

    That is a class of `num_classes`: the next character, or anything else that the text is labelled with. `hidden`
    units of each LSTM layer. `exits`: a classifier on the last state of each, not of the last layer only.
    ValueError for data of another shape.
    """
    if len(input_shape) != 1:
        raise ValueError(f"model char_lstm takes sequences of shape (length,), the data has {input_shape}")
    names = [f"hidden{number}" for number in range(1, len(hidden) + 1)]
    full = {"embedding": embedding, **dict(zip(names, hidden, strict=True)), CLASSES: num_classes}

    full |= {DEPTH: len(hidden)} if exits else {}

    def build(units: Mapping[str, int]) -> nn.Module:
        kept = [units[name] for name in names[: units.get(DEPTH)]]
        if not exits:
            return CharLSTM(vocabulary, units["embedding"], kept, num_classes)
        stages = [Layer(before, after, batch_first=True) for before, after in pairwise([units["embedding"], *kept])]
        return Staged(Characters(vocabulary, units["embedding"]), stages, [LastState(n, num_classes) for n in kept])

    stem, layers = ("stem", "stages") if exits else ("embedding", "layers")
    axes: dict[str, tuple[Axis | str | None, ...]] = {f"{stem}.weight": (None, "embedding")}
    before = "embedding"
    for number, name in enumerate(names):
        gates = Axis(name, outer=4)  # input, forget, cell and output gate, each with a row for every unit
        axes |= {
            f"{layers}.{number}.weight_ih_l0": (gates, before),
            f"{layers}.{number}.weight_hh_l0": (gates, name),
            f"{layers}.{number}.bias_ih_l0": (gates,),
            f"{layers}.{number}.bias_hh_l0": (gates,),
        }
        before = name
        if exits:
            axes |= {f"exits.{number}.weight": (CLASSES, name), f"exits.{number}.bias": (CLASSES,)}
    axes |= {} if exits else {"head.weight": (CLASSES, before), "head.bias": (CLASSES,)}
    return Model(build, WidthSpec.of(skeleton(build, full), full, axes, depth_needs(axes)))


class CharLSTM(nn.Module):
    """The network at given sizes."""

    def __init__(self, vocabulary: int, embedding: int, hidden: list[int], num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        sizes = [embedding, *hidden]
        self.layers = nn.ModuleList(nn.LSTM(before, after, batch_first=True) for before, after in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (batch, classes) from character numbers (batch, length), whole or as floats."""
        states: Tensor = self.embedding(characters.long())
        for layer in self.layers:
            states, _ = layer(states)
        return self.head(states[:, -1])


class Characters(nn.Embedding):
    """An embedding of character numbers, which may come as floats."""

    def forward(self, characters: Tensor) -> Tensor:
        """(batch, length, embedding) from numbers (batch, length), whole or as floats."""
        return super().forward(characters.long())


class Layer(nn.LSTM):
    """An LSTM layer that gives its states only."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """The states (batch, length, hidden) from (batch, length, features)."""
        return super().forward(inputs)[0]


class LastState(nn.Linear):
    """A classifier of the last state."""

    def forward(self, states: Tensor) -> Tensor:
        """Logits (batch, classes) from states (batch, length, hidden)."""
        return super().forward(states[:, -1])
