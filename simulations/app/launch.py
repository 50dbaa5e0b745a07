"""Runs from Python: `run("simulations/scenarios/quickstart.toml", engine="local", seed=1)`."""

import contextlib
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.data.texts import rooted_text_encoding
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.models import rooted_model
from fl_mlmc.run.availability import rooted_availability
from fl_mlmc.run.config import ConfigError, RunConfig, Scalar
from fl_mlmc.run.config.section import dashed
from fl_mlmc.run.log import RUN, RoundLog, read_run, status_of
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_checkpoint, resumable_state
from fl_mlmc.strategies.rows import counted, headline

from ..data.sources import Digits
from ..progress import Telling
from .places import OnRound, Place, RunFailed, place_of
from .provenance import check_resume
from .run_lock import writing
from .superlink import SuperLinkError


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a finished run left: its directory, the final model's named arrays, and both frames of its log."""

    directory: Path
    arrays: Mapping[str, np.ndarray]
    clients: pd.DataFrame
    rounds: pd.DataFrame

    @classmethod
    def read(cls, directory: Path) -> "RunResult":
        """The result of the finished run in `directory`."""
        tensors = load_checkpoint(directory / CHECKPOINT)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(directory, arrays, read_clients(directory), read_rounds(directory))

    def __repr__(self) -> str:
        """One line: where it lies, and its last round. The arrays are as large as the model."""
        last = {str(key): value for row in self.rounds.tail(1).to_dict("records") for key, value in row.items()}
        told = f"{counted(len(self.rounds), 'round')}, {headline(last)}" if last else "no rounds"
        size = sum(array.size for array in self.arrays.values())
        return f"RunResult({str(self.directory)!r}: {told}, {size:,} parameters)"


def run(
    scenario: str | Path | None = None,
    *,
    on_round: OnRound | None = None,
    quiet: bool = False,
    **changes: Scalar | Path,
) -> RunResult:
    """Run a scenario (a TOML file of run-config keys) to its end: `run("quickstart.toml", seed=1, num_rounds=5)`.

    `changes` are config keys with underscores; they win over the file. `on_round` hears every row of rounds.jsonl as
    it is written. Progress goes to stderr, as a bar in a terminal or a notebook and a line a round elsewhere, unless
    `quiet`. ConfigError on a config that cannot run, RunFailed on a run that ended early.
    """
    config = load_config(scenario, changes)
    if quiet:
        return execute(config, on_round)
    with Telling(config.num_rounds, config.engine.name, Console(stderr=True)) as told:
        return execute(config, told.advance if on_round is None else _both(told.advance, on_round))


def load_config(scenario: str | Path | None, changes: Mapping[str, Scalar | Path]) -> RunConfig:
    """The config of a scenario file with changes, its paths made absolute and the run given a name."""
    config = RunConfig.from_flower(read_scenario(Path(scenario)) if scenario else {}).changed(**changes)
    stem = Path(scenario).stem if scenario else "run"
    # Runs that begin in the same second, here or in another process, get names of their own.
    name = config.output.run_name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return _absolute(config).changed(run_name=name)


def load_run(directory: Path, changes: Mapping[str, Scalar | Path] | None = None) -> RunConfig:
    """The config that goes on with the run in `directory` after its last checkpoint; ConfigError if none is there.

    `changes` may say where its data lies now: data_dir or dataset.
    """
    directory = directory.expanduser().absolute()
    try:
        header = read_run(directory)
    except FileNotFoundError:
        raise ConfigError(f"{directory} holds no run to resume: it has no {RUN}") from None
    if not isinstance(config := header.get("config"), dict):
        raise ConfigError(f"{directory / RUN} has no config to resume")
    if others := {dashed(key) for key in changes or {}} - {"data-dir", "dataset"}:
        raise ConfigError(
            f"--resume goes on with the run's own config: leave out the scenario and --set, but for data-dir and "
            f"dataset, which say where its data lies now; got {', '.join(sorted(others))}"
        )
    try:
        kept = RunConfig.from_flower(config).changed(resume=True, runs_dir=directory.parent, run_name=directory.name)
    except ConfigError as error:
        raise ConfigError(f"{directory / RUN}: {error}") from None
    return _absolute(kept.changed(**changes)) if changes else kept


def execute(
    config: RunConfig,
    on_round: OnRound | None = None,
    place: Place | None = None,
    *,
    force: bool = False,
    tell: Callable[[str], None] = print,
) -> RunResult:
    """Run a config from `load_config` to its end, at `place`; in this process or on RAY_ADDRESS unless given.

    A run from `load_run` must go on with the data and the code that it began with, unless by `force`; `tell` hears what
    is other. ConfigError on a config that cannot run there, RunFailed on a run that ended early.
    """
    from .prepare import prepare_data  # a second of imports

    place = place or place_of(config)
    directory = Path(config.output.runs_dir) / config.output.run_name
    if config.output.resume:
        with writing(directory):
            if status_of(directory) == "completed":
                return RunResult.read(directory)
            saved = resumable_state(directory, config.privacy.is_on)
            data = FederatedData.open(prepare_data(config))
            check_resume(directory, config, data, saved.server_round if saved else 0, force, tell)
            written = saved.log if saved else {}
            RoundLog.resume(directory, written, durable=config.output.durable)  # before anybody follows the log
    elif (directory / RUN).exists():
        raise ConfigError(f"{directory} already holds a run; choose another run-name or runs-dir")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        place.run(config, directory, on_round)
    except SuperLinkError as error:
        raise RunFailed(directory, str(error)) from error
    except BaseException as error:
        _mark_failed(directory, error)
        raise
    return RunResult.read(directory)


def _both(first: OnRound, second: OnRound) -> OnRound:
    def hear(row: Mapping[str, Any]) -> None:
        first(row)
        second(row)

    return hear


def _absolute(config: RunConfig) -> RunConfig:
    """The config with its paths made absolute, for processes that stand elsewhere."""
    data, dataset = config.data, Path(config.data.dataset).expanduser().absolute()
    return config.changed(
        dataset=dataset if dataset.exists() and data.dataset != Digits.name else data.dataset,
        data_dir=Path(data.data_dir).expanduser().absolute() if data.data_dir else "",
        runs_dir=Path(config.output.runs_dir).expanduser().absolute(),
        text=rooted_text_encoding(data.text),
        model=rooted_model(config.training.model),
        availability=rooted_availability(config.time.availability),
    ).rooted()


def read_scenario(path: Path) -> dict[str, Any]:
    """What the TOML file `path` says; ConfigError if it is not there, or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no scenario {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"scenario {path} is not TOML: {error}") from None


def _mark_failed(directory: Path, error: BaseException) -> None:
    # A server that was killed could not say so itself. A run that somebody else writes is not ours to end.
    with contextlib.suppress(OSError), writing(directory, seconds=0.0):
        if status_of(directory) == "running":
            RoundLog(directory).finish(f"failed: {'interrupted' if isinstance(error, KeyboardInterrupt) else error}")
    with contextlib.suppress(OSError):
        directory.rmdir()  # nothing was logged, so nothing is left behind
