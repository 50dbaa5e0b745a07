"""The round log: what happened, one JSON object a line, appended and flushed whole.

RUN_DIR/run.json holds the settings and the outcome, clients.jsonl a row per sampled client per round, rounds.jsonl
a row per round. `fl_mlmc.frames` reads them back. A checkpoint counts on what it found written: by size and digest.
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from .disk import make_folder, sync

RUN, CLIENTS, ROUNDS = "run.json", "clients.jsonl", "rounds.jsonl"
REFUSED = "refused.jsonl"
"""The file of a run's directory that names nodes that got no seat; it is there only if there are any."""


class Written(NamedTuple):
    """The first bytes of a file of the log, on which a checkpoint counts."""

    size: int
    digest: str = ""
    """Of these bytes, BLAKE2b in 32 hexadecimal digits; empty: not noted, in checkpoints of before there were any."""


class RoundLog:
    """The writer of one run directory.

    `on_round` hears every round's row once it is written. What is `durable` outlives a power cut once `sync` returned;
    what is not outlives the process.
    """

    def __init__(
        self,
        directory: Path,
        on_round: Callable[[Mapping[str, Any]], None] | None = None,
        durable: bool = True,
    ) -> None:
        self.directory = directory
        self._on_round = on_round
        self._durable = durable
        self._digests: dict[str, Any] = {}
        """Of each file as far as it is written, to go on with."""

    @classmethod
    def create(
        cls,
        directory: Path,
        header: Mapping[str, Any],
        on_round: Callable[[Mapping[str, Any]], None] | None = None,
        durable: bool = True,
    ) -> "RoundLog":
        """Begin a run's log in a directory that has none; `header` goes into run.json beside the versions.

        `on_round` and `durable` as of the class. FileExistsError if a run is there.
        """
        make_folder(directory, durable)
        if (directory / RUN).exists():
            raise FileExistsError(f"{directory} already holds a run; choose another run-name or runs-dir")
        log = cls(directory, on_round, durable)
        if durable:  # whoever locks a run's directory has made it
            sync(directory.parent)
        log._write_run({"status": "running", "versions": versions(), **header})
        for name in (CLIENTS, ROUNDS):
            (directory / name).touch()
        return log

    @classmethod
    def resume(
        cls,
        directory: Path,
        written: Mapping[str, Written],
        on_round: Callable[[Mapping[str, Any]], None] | None = None,
        durable: bool = True,
    ) -> "RoundLog":
        """Go on with a run's log, cut back to what was `written` when its checkpoint was made.

        FileNotFoundError where there is no run, ValueError where the log is shorter or has other bytes: nothing is cut
        then.
        """
        log = cls(directory, on_round, durable)
        if not (directory / RUN).exists():
            raise FileNotFoundError(f"{directory} holds no run: it has no {RUN}")
        for name in (CLIENTS, ROUNDS):
            _check(directory / name, written.get(name, Written(0)))
        for name in (CLIENTS, ROUNDS):
            (directory / name).touch()
            os.truncate(directory / name, written.get(name, Written(0)).size)
        log.finish("running")
        return log

    def written(self) -> dict[str, Written]:
        """How much there is of the log: what `resume` takes."""
        return {
            name: Written((self.directory / name).stat().st_size, self._digest(name).hexdigest())
            for name in (CLIENTS, ROUNDS)
        }

    def sync(self) -> None:
        """Have all rows reach the disk, if the log is durable."""
        if self._durable:
            for name in (CLIENTS, ROUNDS, REFUSED):
                if (self.directory / name).exists():
                    sync(self.directory / name)

    def append_clients(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a round's client rows in one write."""
        self._append(CLIENTS, rows)

    def append_round(self, row: Mapping[str, Any]) -> None:
        """Add a round's row; written last, so a round with a row is complete."""
        self._append(ROUNDS, [row])
        if self._on_round is not None:
            self._on_round(row)

    def append_refused(self, node: str, reason: str) -> None:
        """Note a node that takes no part in the run, so has no row among the clients."""
        (self.directory / REFUSED).touch()
        self._append(REFUSED, [{"node": node, "reason": reason}])

    def finish(self, status: str) -> None:
        """Record how the run stands: "completed", "failed: <reason>", or "running" once more."""
        self.sync()
        self.update({"status": status})

    def update(self, facts: Mapping[str, Any]) -> None:
        """Put `facts` into run.json, in place of what it says under their keys."""
        self._write_run({**read_run(self.directory), **facts})

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        data = "".join(_line(row) for row in rows).encode()
        path = self.directory / name
        digest, whole = self._digest(name), path.stat().st_size
        try:
            with open(path, "ab") as file:
                file.write(data)
        except OSError:  # a full disk takes the first part of a row
            os.truncate(path, whole)
            raise
        digest.update(data)

    def _digest(self, name: str) -> Any:
        if name not in self._digests:
            self._digests[name] = _digest(self.directory / name)
        return self._digests[name]

    def _write_run(self, content: Mapping[str, Any]) -> None:
        partial = self.directory / (RUN + ".partial")
        try:
            partial.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
            if self._durable:
                sync(partial)
            os.replace(partial, self.directory / RUN)
            if self._durable:
                sync(self.directory)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def read_run(directory: Path) -> dict[str, Any]:
    """What run.json says; FileNotFoundError where there is none, ValueError on one that cannot be read."""
    path = directory / RUN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict) or "status" not in content:
        raise ValueError(f"{path} is not what a run left: it has no status")
    return content


def status_of(directory: Path) -> str:
    """How the run in `directory` stands, as run.json says; "not started" where there is none."""
    try:
        return str(read_run(directory)["status"])
    except FileNotFoundError:
        return "not started"


def _check(path: Path, written: Written) -> None:
    """ValueError unless the file begins with what was written."""
    found = path.stat().st_size if path.exists() else 0
    if found < written.size:  # to truncate would fill it up with zeros
        what = f"has {found} bytes, and the checkpoint counted {written.size}: rows of ended rounds are lost"
    elif written.digest and _digest(path, written.size).hexdigest() != written.digest:
        what = f"begins with {written.size} other bytes than the checkpoint counted: rows of ended rounds are damaged"
    else:
        return
    raise ValueError(f"{path} {what}. Put the file back from a copy of the run")


def _digest(path: Path, size: int | None = None) -> Any:
    """Of the first `size` bytes of a file, or of all that it has."""
    digest, left = hashlib.blake2b(digest_size=16), path.stat().st_size if size is None else size
    with open(path, "rb") as file:
        while left and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
    return digest


def _line(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_plain(row), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide a run's numbers, here and now."""
    return {"python": platform.python_version()} | {
        name: _version(name) for name in ("fl-mlmc", "flwr", "numpy", "ray", "torch")
    }


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a Flower bundle runs from its folder, without having been installed
        return "not installed"
