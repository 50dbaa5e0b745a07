"""The round log: what happened, one JSON object a line, appended and flushed whole.

RUN_DIR/run.json holds the settings and the outcome, clients.jsonl a row per sampled client per round, rounds.jsonl
a row per round. `fl_mlmc.frames` reads them back.
"""

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RUN, CLIENTS, ROUNDS = "run.json", "clients.jsonl", "rounds.jsonl"
REFUSED = "refused.jsonl"
"""The file of a run's directory that names nodes that got no seat; it is there only if there are any."""


class RoundLog:
    """The writer of one run directory."""

    def __init__(self, directory: Path, on_round: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.directory = directory
        self._on_round = on_round

    @classmethod
    def create(
        cls,
        directory: Path,
        header: Mapping[str, Any],
        on_round: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> "RoundLog":
        """Begin a run's log in a directory that has none; `header` goes into run.json beside the versions.

        `on_round` hears every round's row once it is written. FileExistsError if a run is there.
        """
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / RUN).exists():
            raise FileExistsError(f"{directory} already holds a run; choose another run-name or runs-dir")
        log = cls(directory, on_round)
        log._write_run({"status": "running", "versions": versions(), **header})
        for name in (CLIENTS, ROUNDS):
            (directory / name).touch()
        return log

    @classmethod
    def resume(
        cls, directory: Path, sizes: Mapping[str, int], on_round: Callable[[Mapping[str, Any]], None] | None = None
    ) -> "RoundLog":
        """Go on with a run's log, cut back to what `sizes` said of it.

        FileNotFoundError where there is no run, ValueError where the log is shorter than `sizes` says.
        """
        log = cls(directory, on_round)
        if not (directory / RUN).exists():
            raise FileNotFoundError(f"{directory} holds no run: it has no {RUN}")
        for name in (CLIENTS, ROUNDS):
            path, counted = directory / name, sizes.get(name, 0)
            found = path.stat().st_size if path.exists() else 0
            if found < counted:  # to truncate would fill it up with zeros
                raise ValueError(
                    f"{path} has {found} bytes, and the checkpoint counted {counted}: rows of ended rounds are lost. "
                    "Put the file back from a copy of the run"
                )
            path.touch()
            os.truncate(path, counted)
        log.finish("running")
        return log

    def sizes(self) -> dict[str, int]:
        """How long the log is: what `resume` takes."""
        return {name: (self.directory / name).stat().st_size for name in (CLIENTS, ROUNDS)}

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
        self.update({"status": status})

    def update(self, facts: Mapping[str, Any]) -> None:
        """Put `facts` into run.json, in place of what it says under their keys."""
        self._write_run({**read_run(self.directory), **facts})

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(_line(row) for row in rows)
        path = self.directory / name
        whole = path.stat().st_size
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError:  # a full disk takes the first part of a row
            os.truncate(path, whole)
            raise

    def _write_run(self, content: Mapping[str, Any]) -> None:
        partial = self.directory / (RUN + ".partial")
        try:
            partial.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
            os.replace(partial, self.directory / RUN)
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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a Flower bundle runs from its folder, without having been installed
        return "not installed"
