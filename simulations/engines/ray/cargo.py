"""A run's data set on its way to machines of a cluster that do not have it."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import ray

from fl_mlmc.clients.data import PARTITION, files_of

from ...data.datasets import default_cache


class Cargo(NamedTuple):
    """The files of a partition directory and of the data it points to, in Ray's object store."""

    partition: Path
    """Where the driver has it; a machine that shares the driver's disk reads it there."""
    store: str
    """The name of the data directory in the cache."""
    files: dict[str, ray.ObjectRef]
    """By path relative to the data directory."""

    @classmethod
    def load(cls, partition: Path) -> "Cargo":
        """Read the files once and lay them into the object store."""
        store, files = files_of(partition)
        return cls(partition, store.name, {str(file.relative_to(store)): ray.put(file.read_bytes()) for file in files})

    def unload(self, cache: Path | None = None) -> Path:
        """Where this machine has the partition directory; if nowhere, its files are written into the cache."""
        if self.partition.exists():
            return self.partition
        store = (cache or default_cache()).absolute() / "shipped" / self.store
        for name, ref in self.files.items():
            if not (file := store / name).exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                _write(file, ray.get(ref))
        return next((store / name).parent for name in self.files if name.endswith(PARTITION))


def _write(place: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as file:
        file.write(data)
    os.replace(file.name, place)  # workers of one machine may be at it together, with the same bytes
