"""Checkpoints of the server's model: safetensors and JSON, replaced atomically, never pickle."""

import json
import math
import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_mlmc.submodels import WidthSpec

MODEL, STATE = "model.safetensors", "state.json"


def save_checkpoint(directory: Path, spec: WidthSpec, vector: Tensor, server_round: int) -> None:
    """Write the model after `server_round` as named tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = vector.split([math.prod(shape) for shape in spec.shapes.values()])
    tensors = {
        name: part.view(shape).contiguous() for (name, shape), part in zip(spec.shapes.items(), parts, strict=True)
    }
    partial = directory / (MODEL + ".partial")
    save_file(tensors, partial, metadata={"round": str(server_round)})
    os.replace(partial, directory / MODEL)
    partial = directory / (STATE + ".partial")
    partial.write_text(json.dumps({"round": server_round, "tensors": list(tensors)}) + "\n")
    os.replace(partial, directory / STATE)


def load_checkpoint(directory: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, in the model's order."""
    tensors = load_file(directory / MODEL)  # sorted by name
    return {name: tensors[name] for name in json.loads((directory / STATE).read_text())["tensors"]}
