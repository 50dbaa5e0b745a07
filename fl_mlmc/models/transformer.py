"""A BERT encoder that classifies token sequences (Devlin et al. 2019, arXiv 1810.04805), without dropout.

Tensors are named as in Hugging Face's BertModel, so the weights of such a model load by name. Cut to a width, the
residual stream keeps the same units everywhere, every head keeps its share of rows (heads get thinner, none is
dropped) and attention divides by the root of the thin head's size.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..registry import PathText
from ..submodels.width_spec import CLASSES, DEPTH, Axis, WidthSpec
from .base import Model, skeleton
from .exits import Exits


def transformer(
    input_shape: tuple[int, ...],
    num_classes: int,
    layers: int = 6,
    stream: int = 384,
    heads: int = 12,
    feed_forward: int = 1536,
    vocabulary: int = 30522,
    positions: int = 512,
    weights: PathText = "",
    exits: bool = False,
) -> Model:
    """A classifier of sequences (length,) of token numbers, 0 for padding. The sizes by default are MiniLM-L6's.

    `weights` names a directory with a model.safetensors; the server starts from it (clients do not read it). The
    classifier itself, a linear layer on the mean over tokens, starts at random. `exits`: one after every layer.
    ValueError for data or options that do not go together.
    """
    if len(input_shape) != 1 or not 0 < input_shape[0] <= positions:
        raise ValueError(
            f"model transformer takes token sequences of shape (length,), at most positions={positions}, "
            f"the data has {input_shape}"
        )
    if stream % heads:
        raise ValueError(f"stream={stream} is not a multiple of heads={heads}")
    numbers = range(1, layers + 1)
    full = {"stream": stream, **{f"head{number}": stream // heads for number in numbers}}
    full |= {f"ff{number}": feed_forward for number in numbers}
    full[CLASSES] = num_classes
    full |= {DEPTH: layers} if exits else {}

    def build(units: Mapping[str, int]) -> nn.Module:
        return Transformer(units, layers, heads, vocabulary, positions, exits)

    axes, needs = _axes(layers, heads, exits)
    spec = WidthSpec.of(skeleton(build, full), full, axes, needs)
    return Model(build, spec, (lambda: load_weights(Path(weights), spec)) if weights else None)


class Transformer(Exits):
    """The encoder of so many `units` in each hidden dimension, and its classifier or, with `exits`, one a layer."""

    def __init__(
        self, units: Mapping[str, int], layers: int, heads: int, vocabulary: int, positions: int, exits: bool
    ) -> None:
        super().__init__()
        layers = units.get(DEPTH, layers)
        stream = units["stream"]
        self.embeddings = Embeddings(stream, vocabulary, positions)
        self.encoder = nn.ModuleDict(
            {
                "layer": nn.ModuleList(
                    EncoderLayer(stream, heads, units[f"head{number}"], units[f"ff{number}"])
                    for number in range(1, layers + 1)
                )
            }
        )
        self.classifier = None if exits else nn.Linear(stream, units[CLASSES])
        self.exits = nn.ModuleList(nn.Linear(stream, units[CLASSES]) for _ in range(layers if exits else 0))

    def exit_logits(self, tokens: Tensor) -> list[Tensor]:
        """Logits (batch, classes) of every exit, the shallowest first, from tokens (batch, length); 0 is padding."""
        tokens = tokens.long()
        known = tokens != 0
        stream = self.embeddings(tokens)
        weights = known.to(stream.dtype)[..., None]
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        logits = []
        for number, layer in enumerate(self.encoder["layer"]):  # type: ignore[arg-type, var-annotated]
            stream = layer(stream, known)
            if len(self.exits):
                logits.append(self.exits[number]((stream * weights).sum(1)))
        return logits if self.classifier is None else [self.classifier((stream * weights).sum(1))]


class Embeddings(nn.Module):
    """The sum of what a token, its position and its segment (always the first) stand for, normed."""

    def __init__(self, stream: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, stream)
        self.position_embeddings = nn.Embedding(positions, stream)
        self.token_type_embeddings = nn.Embedding(2, stream)
        self.LayerNorm = nn.LayerNorm(stream, eps=1e-12)
        for table in (self.word_embeddings, self.position_embeddings, self.token_type_embeddings):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length, stream) from whole token numbers (batch, length)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        stream = self.word_embeddings(tokens) + self.position_embeddings(places)
        return self.LayerNorm(stream + self.token_type_embeddings.weight[0])


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each added to the stream and then normed."""

    def __init__(self, stream: int, heads: int, head: int, feed_forward: int) -> None:
        super().__init__()
        self.heads, self.temperature = heads, math.sqrt(head)
        inner = heads * head
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(stream, inner) for name in ("query", "key", "value")}),
                "output": _dense_norm(inner, stream),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(stream, feed_forward)})
        self.output = _dense_norm(feed_forward, stream)

    def forward(self, stream: Tensor, known: Tensor) -> Tensor:
        """(batch, length, stream) from the same shape; nobody attends to what is not `known`, bool (batch, length)."""
        query, key, value = (
            layer(stream).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in self.attention["self"].values()  # type: ignore[operator]
        )
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, known[:, None, None, :], scale=1 / self.temperature
        )
        stream = _add_norm(self.attention["output"], stream, mixed.transpose(1, 2).flatten(2))
        return _add_norm(self.output, stream, nn.functional.gelu(self.intermediate["dense"](stream)))


def _dense_norm(inner: int, stream: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inner, stream), "LayerNorm": nn.LayerNorm(stream, eps=1e-12)})


def _add_norm(part: nn.Module, stream: Tensor, inner: Tensor) -> Tensor:
    return part["LayerNorm"](stream + part["dense"](inner))  # type: ignore[index]


def _axes(
    layers: int, heads: int, exits: bool
) -> tuple[dict[str, tuple[Axis | str | None, ...]], dict[str, tuple[str, int]]]:
    axes: dict[str, tuple[Axis | str | None, ...]] = {
        f"embeddings.{name}_embeddings.weight": (None, "stream") for name in ("word", "position", "token_type")
    }

    def norm(name: str) -> None:
        axes.update({f"{name}.LayerNorm.{tensor}": ("stream",) for tensor in ("weight", "bias")})

    def linear(name: str, after: Axis | str, before: Axis | str) -> None:
        axes.update({f"{name}.weight": (after, before), f"{name}.bias": (after,)})

    norm("embeddings")
    needs: dict[str, tuple[str, int]] = {}
    for number in range(1, layers + 1):
        start, layer = len(axes), f"encoder.layer.{number - 1}"
        rows = Axis(f"head{number}", outer=heads)
        for name in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{name}", rows, "stream")
        linear(f"{layer}.attention.output.dense", "stream", rows)
        norm(f"{layer}.attention.output")
        linear(f"{layer}.intermediate.dense", f"ff{number}", "stream")
        linear(f"{layer}.output.dense", "stream", f"ff{number}")
        norm(f"{layer}.output")
        if exits:
            linear(f"exits.{number - 1}", CLASSES, "stream")
            needs |= dict.fromkeys(list(axes)[start:], (DEPTH, number)) if number > 1 else {}
    if not exits:
        linear("classifier", CLASSES, "stream")
    return axes, needs


def load_weights(directory: Path, spec: WidthSpec) -> dict[str, Tensor]:
    """The model's tensors out of `directory`/model.safetensors; only the classifier may be missing there.

    ValueError names a file that cannot be read, or the tensor that is missing or has another shape.
    """
    try:
        from safetensors import SafetensorError, safe_open  # few devices need it
    except ImportError:
        raise ValueError("this model's weights are in a file of safetensors: `pip install safetensors`") from None
    path = directory.expanduser() / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; weights names a directory that holds a model.safetensors")
    tensors = {}
    try:
        file = safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None
    with file as stored:
        names = {name.removeprefix("bert."): name for name in stored.keys()}  # noqa: SIM118
        for name, shape in spec.shapes.items():
            if name not in names:
                if name.startswith(("classifier.", "exits.")):
                    continue
                raise ValueError(f"{path} has no tensor {name!r}; it has {', '.join(sorted(names)[:5])}, …")
            tensor = stored.get_tensor(names[name]).float()
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"tensor {name!r} in {path} has shape {tuple(tensor.shape)}, the model expects {shape}; set the "
                    "model's layers, stream, heads, feed_forward, vocabulary and positions to the config.json beside it"
                )
            tensors[name] = tensor
    return tensors
