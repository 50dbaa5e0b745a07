"""Round logs as pandas frames. The one module of the library that needs pandas."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from .run.log import CLIENTS, ROUNDS, RUN

CLIENT_COLUMNS = (
    "round", "client", "node", "tier", "width", "num_examples", "num_parameters", "compressor", "level",
    "probability", "payload_bytes", "message_bytes", "downlink_bytes", "anchor_bytes", "expected_bits",
    "train_seconds", "encode_seconds", "simulated_seconds", "train_loss", "status",
)  # fmt: skip
ROUND_COLUMNS = (
    "round", "num_sampled", "num_ok", "coverage_min", "coverage_mean", "uplink_bytes", "downlink_bytes",
    "cumulative_uplink_bytes", "seconds", "simulated_seconds", "cumulative_simulated_seconds", "update_norm",
    "loss", "accuracy",
)  # fmt: skip


def read_clients(*runs: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """A row per sampled client per round, of one run directory or several (then with a `run` column)."""
    return _read(CLIENTS, CLIENT_COLUMNS, runs)


def read_rounds(*runs: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """A row per round, of one run directory or several (then with a `run` column: the directory's name)."""
    return _read(ROUNDS, ROUND_COLUMNS, runs)


def _read(name: str, columns: tuple[str, ...], runs: tuple[str | Path | Iterable[str | Path], ...]) -> pd.DataFrame:
    directories = [Path(run) for group in runs for run in ([group] if isinstance(group, str | Path) else group)]
    if not directories:
        raise ValueError("name at least one run directory")
    frames = [_frame(directory / name, columns) for directory in directories]
    if len(frames) == 1:
        return frames[0]
    for directory, frame in zip(directories, frames, strict=True):
        frame.insert(0, "run", directory.name)
    return pd.concat(frames, ignore_index=True)


def _frame(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run directory holds {RUN}, {CLIENTS} and {ROUNDS}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    frame = pd.DataFrame([row for number, line in enumerate(lines, start=1) for row in _parse(path, number, line)])
    return frame.reindex(columns=[*columns, *(name for name in frame.columns if name not in columns)])


def _parse(path: Path, number: int, line: str) -> list[dict[str, Any]]:
    if not line.endswith("\n"):
        return []  # the last line of a run that was killed may be torn: it has no end, so it is no row yet
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path} line {number} is no row of a log: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path} line {number} is no row of a log: a {type(row).__name__}")
    return [row]
