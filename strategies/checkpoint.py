"""Checkpoints of the server: safetensors and JSON, never pickle, and whole at any moment.

RUN_DIR/checkpoint is a link to the folder of one round. The next round's folder is written beside it and synced
before the link is turned over in one step, so a reader sees one round or the other, whatever ends the process.
Tools that copy a run directory may make a folder of the link, or lose it, and some file systems have no links: all of
that is read, by the last round's folder that is whole. state.json holds a digest of every file beside it, and they are
compared before anything is read. The checkpoint before the last one stays, in case a disk spoils the last.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_mlmc.aggregation.ledger import RELEASES, check_ledger
from fl_mlmc.run.disk import sync
from fl_mlmc.run.log import Written
from fl_mlmc.submodels import WidthSpec

CHECKPOINT, MODEL, OPTIMIZER, STATE = "checkpoint", "model.safetensors", "optimizer.safetensors", "state.json"
SCHEME = "scheme.safetensors"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without links answers."""


class CheckpointError(ValueError):
    """A checkpoint whose files are not what was saved."""


@dataclass(frozen=True, eq=False)
class ServerState:
    """All that the rounds after `server_round` depend on, beside the run config; randomness has no state."""

    server_round: int
    vector: Tensor
    """The flat model."""
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    cumulative_uplink_bytes: int = 0
    log: Mapping[str, Written] = field(default_factory=dict)
    """What each file of the round log held when the round was closed."""
    scheme: Mapping[str, Tensor] = field(default_factory=dict)
    """What the scheme keeps on the server."""
    num_releases: int | None = 0
    """Noisy models that the run had made; None: not counted, in checkpoints of before there was a ledger."""
    simulated_seconds: float = 0.0
    """What the simulated clock reads."""


def save_state(directory: Path, spec: WidthSpec, state: ServerState, durable: bool = True) -> None:
    """Make `state` the checkpoint `directory`, the model as named tensors.

    It is there once this returns, whatever ends the process; if `durable`, whatever ends the machine.
    """
    reach_disk = sync if durable else _trust
    parts = state.vector.split([math.prod(shape) for shape in spec.shapes.values()])
    tensors = {
        name: part.view(shape).contiguous() for (name, shape), part in zip(spec.shapes.items(), parts, strict=True)
    }
    facts = {
        "round": state.server_round,
        "tensors": list(tensors),
        "cumulative_uplink_bytes": state.cumulative_uplink_bytes,
        "log_sizes": {name: written.size for name, written in state.log.items()},
        "log_digests": {name: written.digest for name, written in state.log.items()},
        "simulated_seconds": state.simulated_seconds,
        "num_releases": state.num_releases,
    }
    before = _folder(directory).resolve()
    own = directory.with_name(f"{directory.name}-{state.server_round}")
    shutil.rmtree(own, ignore_errors=True)  # what a killed process left
    own.mkdir(parents=True)
    try:
        save_file(tensors, own / MODEL, metadata={"round": str(state.server_round)})
        save_file(dict(state.optimizer), own / OPTIMIZER)
        if state.scheme:
            save_file(dict(state.scheme), own / SCHEME)
        facts["digests"] = {path.name: _digest(path) for path in sorted(own.iterdir())}
        facts["digest"] = _digest_of_facts(facts)
        partial = own / f"{STATE}.partial"
        partial.write_text(json.dumps(facts) + "\n")
        for path in own.iterdir():
            reach_disk(path)
        os.replace(partial, own / STATE)  # last: a folder that has it is whole
        reach_disk(own)
        if directory.is_dir() and not directory.is_symlink():
            before = _move_aside(directory) or before
        _turn_link(directory, own.name)
        reach_disk(own.parent)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise
    kept = {own.name, before.name}
    for old in directory.parent.glob(f"{directory.name}-*"):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)


def _turn_link(directory: Path, name: str) -> None:
    """Have the link `directory` lead to the folder `name` beside it, in one step; nothing where there are no links."""
    link = directory.with_name(f"{directory.name}.partial")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with contextlib.suppress(FileNotFoundError):
            directory.unlink()  # a copied link that became a file; without it the last whole folder counts
        return
    os.replace(link, directory)


def load_state(directory: Path) -> ServerState | None:
    """The state that was saved last; None if none was. CheckpointError if its files are not what was saved."""
    directory = _folder(directory)
    if not (directory / STATE).is_file():
        return None
    facts = _checked_facts(directory)
    vector = torch.cat([tensor.reshape(-1) for tensor in load_checkpoint(directory).values()])
    optimizer = load_file(directory / OPTIMIZER)
    scheme = load_file(directory / SCHEME) if (directory / SCHEME).exists() else {}
    digests = facts.get("log_digests", {})
    log = {name: Written(size, digests.get(name, "")) for name, size in facts["log_sizes"].items()}
    uplink_bytes, num_releases = facts["cumulative_uplink_bytes"], facts.get("num_releases")
    seconds = facts.get("simulated_seconds", 0.0)  # checkpoints of before there was a clock
    return ServerState(facts["round"], vector, optimizer, uplink_bytes, log, scheme, num_releases, seconds)


def resumable_state(run: Path, is_private: bool) -> ServerState | None:
    """What the run in the directory `run` goes on from; None: no round was saved, it begins once more.

    LedgerError if it is private and its ledger does not tell what its models have cost so far.
    """
    saved = load_state(run / CHECKPOINT)
    if is_private:
        check_ledger(run / RELEASES, saved.num_releases if saved else 0)
    return saved


def load_checkpoint(directory: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint's model, in the model's order; CheckpointError as in `load_state`."""
    directory = _folder(directory)
    facts = _checked_facts(directory)
    tensors = load_file(directory / MODEL)  # sorted by name
    return {name: tensors[name] for name in facts["tensors"]}


def _checked_facts(directory: Path) -> dict[str, Any]:
    """What state.json says, once every file is what it says; checkpoints of before digests are taken as they are."""
    try:
        facts = json.loads((directory / STATE).read_text())
        digests = facts.get("digests", {})
        damaged = [name for name, digest in digests.items() if _digest(directory / name) != digest]
        if "digest" in facts and facts["digest"] != _digest_of_facts(facts):
            damaged.append(STATE)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _damage(directory, f"{type(error).__name__}: {error}") from error
    if damaged:
        raise _damage(directory, f"{', '.join(damaged)} has other bytes than were saved")
    return dict(facts)


def _damage(directory: Path, what: str) -> CheckpointError:
    own = directory.resolve()
    others = sorted(path.name for path in own.parent.glob(f"{CHECKPOINT}-*") if path != own)
    instead = (
        f"Delete {own} to go on from the one before, {others[-1]}" if others else "There is no checkpoint before it"
    )
    return CheckpointError(f"the checkpoint {own} is damaged: {what}. {instead}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest_of_facts(facts: Mapping[str, Any]) -> str:
    own = {name: value for name, value in facts.items() if name != "digest"}
    return hashlib.blake2b(json.dumps(own, sort_keys=True).encode(), digest_size=16).hexdigest()


def _move_aside(directory: Path) -> Path | None:
    """Give a folder where the link should be the name that its round has; where it is then."""
    if not (directory / STATE).is_file():
        shutil.rmtree(directory)  # not a checkpoint: `_folder` did not read it either
        return None
    own = directory.with_name(f"{directory.name}-{json.loads((directory / STATE).read_text())['round']}")
    shutil.rmtree(own, ignore_errors=True)  # the same round once more: what followed the link copied both
    return directory.rename(own)


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


def _trust(path: Path) -> None:
    """The system writes it in a while."""
