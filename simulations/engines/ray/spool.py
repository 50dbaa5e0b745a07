"""Large arrays of replies on their way from a worker of the `ray` engine to a driver on the same machine.

Ray's object store keeps three processes busy with an array of 2 MB for many times as long as copying it takes.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

SHARED_MEMORY = Path("/dev/shm")
PLACE_BYTES = 1 << 25
"""What fits into a place; a batch whose replies hold more goes through the object store."""


class Spool:
    """A file in shared memory that two processes map, with a place for each batch that may wait to be read."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        size = os.fstat(self._file).st_size
        self._memory = mmap.mmap(self._file, size)
        self._held = [0] * (size // PLACE_BYTES)

    @classmethod
    def create(cls, num_places: int) -> "tuple[Self, Path] | None":
        """A spool and the path by which another process opens it; None where the system has no shared memory."""
        if not os.access(SHARED_MEMORY, os.W_OK):
            return None
        file, name = tempfile.mkstemp(prefix="fl-mlmc-", dir=SHARED_MEMORY)
        os.truncate(file, num_places * PLACE_BYTES)  # a hole: memory is taken as places are used
        os.close(file)
        return cls(Path(name)), Path(name)

    def write(self, place: int, pieces: Sequence[bytes]) -> bool:
        """Lay `pieces` into a place, one behind the other; False if there is no room."""
        start = place * PLACE_BYTES
        size = sum(map(len, pieces))
        if size > PLACE_BYTES or not self._hold(place, size):
            return False
        for piece in pieces:
            self._memory[start : start + len(piece)] = piece
            start += len(piece)
        return True

    def read(self, place: int, sizes: Sequence[int]) -> list[bytes]:
        """Copies of the pieces of these `sizes` that were laid into a place."""
        pieces, start = [], place * PLACE_BYTES
        for size in sizes:
            pieces.append(self._memory[start : start + size])
            start += size
        return pieces

    def close(self) -> None:
        """Let go of the memory; the file must be unlinked by whoever knows its path."""
        self._memory.close()
        os.close(self._file)

    def _hold(self, place: int, size: int) -> bool:
        # Writing into a hole of a file system that is full would end the process.
        if size > self._held[place]:
            try:
                os.posix_fallocate(self._file, place * PLACE_BYTES, size)
            except OSError:
                return False
            self._held[place] = size
        return True
