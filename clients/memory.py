"""What a client remembers between rounds: one small file a round, in a folder of its own.

The file of a round is written whole or not at all. The one that it came from stays until the next round is accepted,
and that of the last checkpoint until the next checkpoint. So a reply that the server never got, a worker that died and
a run that goes on from its last checkpoint all find the memory that the server counts on.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_mlmc.run.disk import make_folder, sync
from fl_mlmc.training.local import TrainingError


class LostMemoryError(TrainingError):
    """The memory that the server counts on is gone: to start anew would bias the mean for good."""


class ClientMemory:
    """The memory of one client, under `directory`, which is the run's: named vectors, float, of one shape."""

    def __init__(self, directory: Path, client: int) -> None:
        self._folder = directory / str(client)
        self._client = client

    def load(self, server_round: int, like: Tensor) -> dict[str, Tensor]:
        """What `save` kept in that round, on the device of `like`; LostMemoryError if it is not there and whole."""
        try:
            with np.load(self._path(server_round), allow_pickle=False) as file:
                state = {name: torch.from_numpy(file[name]).to(like.device) for name in file.files}
        except Exception as error:  # zip, numpy and the disk each have errors of their own
            raise LostMemoryError(
                f"client {self._client} lost its memory of round {server_round}: {type(error).__name__}: {error}"
            ) from error
        if any(vector.shape != like.shape for vector in state.values()):
            raise LostMemoryError(
                f"client {self._client} has a memory of round {server_round} for another submodel than one of "
                f"{like.numel()} coordinates"
            )
        return state

    def save(self, server_round: int, state: Mapping[str, Tensor], keep: Iterable[int]) -> None:
        """Keep `state` as that of `server_round`, beside those of the rounds `keep` and no other."""
        make_folder(self._folder)
        partial = self._folder / f"{server_round}.npz.partial"
        with partial.open("wb") as file:
            np.savez(file, **{name: vector.cpu().numpy() for name, vector in state.items()})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path(server_round))
        sync(self._folder)  # before the one that it came from goes
        kept = {self._path(number) for number in (server_round, *keep)}
        for old in self._folder.iterdir():
            if old not in kept:
                old.unlink(missing_ok=True)

    def _path(self, server_round: int) -> Path:
        return self._folder / f"{server_round}.npz"
