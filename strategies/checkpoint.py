"""Checkpoints of the server: safetensors and JSON, never pickle, and whole at any moment.

RUN_DIR/checkpoint is a link to the folder of one round. The next round's folder is written beside it and synced
before the link is turned over in one step, so a reader sees one round or the other, whatever ends the process.
Tools that copy a run directory may make a folder of the link, or lose it: both are read, and the next checkpoint is a
link again.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_mlmc.submodels import WidthSpec

CHECKPOINT, MODEL, OPTIMIZER, STATE = "checkpoint", "model.safetensors", "optimizer.safetensors", "state.json"
SCHEME = "scheme.safetensors"


@dataclass(frozen=True, eq=False)
class ServerState:
    """All that the rounds after `server_round` depend on, beside the run config; randomness has no state."""

    server_round: int
    vector: Tensor
    """The flat model."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    cumulative_uplink_bytes: int = 0
    log_sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each file of the round log when the round was closed."""
    scheme: Mapping[str, Tensor] = field(default_factory=dict)
    """What the scheme keeps on the server."""


def save_state(directory: Path, spec: WidthSpec, state: ServerState) -> None:
    """Make `state` the checkpoint `directory`, the model as named tensors."""
    parts = state.vector.split([math.prod(shape) for shape in spec.shapes.values()])
    tensors = {
        name: part.view(shape).contiguous() for (name, shape), part in zip(spec.shapes.items(), parts, strict=True)
    }
    facts = {
        "round": state.server_round,
        "tensors": list(tensors),
        "cumulative_uplink_bytes": state.cumulative_uplink_bytes,
        "log_sizes": dict(state.log_sizes),
    }
    own = directory.with_name(f"{directory.name}-{state.server_round}")
    shutil.rmtree(own, ignore_errors=True)  # what a killed process left
    own.mkdir(parents=True)
    try:
        save_file(tensors, own / MODEL, metadata={"round": str(state.server_round)})
        save_file(dict(state.optimizer), own / OPTIMIZER)
        if state.scheme:
            save_file(dict(state.scheme), own / SCHEME)
        partial = own / f"{STATE}.partial"
        partial.write_text(json.dumps(facts) + "\n")
        for path in own.iterdir():
            _sync(path)
        os.replace(partial, own / STATE)  # last: a folder that has it is whole
        _sync(own)
        link = directory.with_name(f"{directory.name}.partial")
        link.unlink(missing_ok=True)
        link.symlink_to(own.name)
        if directory.is_dir() and not directory.is_symlink():
            _move_aside(directory)
        os.replace(link, directory)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise
    for old in directory.parent.glob(f"{directory.name}-*"):
        if old != own:
            shutil.rmtree(old, ignore_errors=True)


def load_state(directory: Path) -> ServerState | None:
    """The state that was saved last; None if none was."""
    directory = _folder(directory)
    try:
        facts = json.loads((directory / STATE).read_text())
    except FileNotFoundError:
        return None
    vector = torch.cat([tensor.reshape(-1) for tensor in load_checkpoint(directory).values()])
    optimizer = load_file(directory / OPTIMIZER)
    scheme = load_file(directory / SCHEME) if (directory / SCHEME).exists() else {}
    uplink_bytes, log_sizes = facts["cumulative_uplink_bytes"], facts["log_sizes"]
    return ServerState(facts["round"], vector, optimizer, uplink_bytes, log_sizes, scheme)


def load_checkpoint(directory: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint's model, in the model's order."""
    directory = _folder(directory)
    tensors = load_file(directory / MODEL)  # sorted by name
    return {name: tensors[name] for name in json.loads((directory / STATE).read_text())["tensors"]}


def _move_aside(directory: Path) -> None:
    """Give a folder where the link should be the name that its round has."""
    if not (directory / STATE).is_file():
        shutil.rmtree(directory)  # not a checkpoint: `_folder` did not read it either
        return
    own = directory.with_name(f"{directory.name}-{json.loads((directory / STATE).read_text())['round']}")
    shutil.rmtree(own, ignore_errors=True)  # the same round once more: what followed the link copied both
    directory.rename(own)


def _folder(directory: Path) -> Path:
    """Where the checkpoint `directory` lies; without its link it is the last round's folder that is whole."""
    if (directory / STATE).is_file():
        return directory
    rounds = {
        int(number): path
        for path in directory.parent.glob(f"{directory.name}-*")
        if (number := path.name.removeprefix(f"{directory.name}-")).isdecimal() and (path / STATE).is_file()
    }
    return rounds[max(rounds)] if rounds else directory


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
