"""Stages with a classifier each, so that the rule "depth" can cut a model (DepthFL, Kim et al. 2023, ICLR)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..submodels.width_spec import DEPTH


class Exits(nn.Module):
    """A module that classifies at every stage; its logits are the mean over them, DepthFL's ensemble."""

    def exit_logits(self, inputs: Tensor) -> list[Tensor]:
        """The logits (batch, classes) of every exit, the shallowest first, from inputs (batch, *input_shape)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """The mean over exits of their logits, (batch, classes)."""
        logits = self.exit_logits(inputs)
        return torch.stack(logits).mean(0) if len(logits) > 1 else logits[0]


class Staged(Exits):
    """Stages one after another behind a `stem`, and an exit for each."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], exits: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages, self.exits = stem, nn.ModuleList(stages), nn.ModuleList(exits)

    def exit_logits(self, inputs: Tensor) -> list[Tensor]:
        """After each stage, its exit's logits (batch, classes)."""
        stream, logits = self.stem(inputs), []
        for stage, exit in zip(self.stages, self.exits, strict=True):
            stream = stage(stream)
            logits.append(exit(stream))
        return logits


def depth_needs(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """What the tensors of a `Staged` module need: "stages.2.…" and "exits.2.…" three stages."""
    parts = {name: name.split(".") for name in names}
    deep = {name: int(part[1]) + 1 for name, part in parts.items() if part[0] in ("stages", "exits")}
    return {name: (DEPTH, stage) for name, stage in deep.items() if stage > 1}
