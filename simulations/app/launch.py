"""Runs from Python: `run("simulations/scenarios/quickstart.toml", engine="local", seed=1)`."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import ConfigError, RunConfig, Scalar
from fl_mlmc.run.log import REFUSED, ROUNDS, RUN, RoundLog
from fl_mlmc.run.protocol import printable
from strategies.checkpoint import CHECKPOINT, load_checkpoint, load_state

from .run_lock import writing
from .superlink import LocalSuperLink, RunState, SuperLinkError, SuperLinkRuns

SERVER_LOG = "server.log"
"""The file of a run's directory with all that Flower's processes wrote."""

APP = Path(__file__).parents[2]
"""The folder that `flwr run` takes for the app."""

OnRound = Callable[[Mapping[str, Any]], None]


class RunFailed(RuntimeError):
    """A run that did not reach its end; what it logged until then lies in `directory`."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{reason} (log: {directory})")
        self.directory = directory
        self.reason = reason


@dataclass(frozen=True)
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


def run(scenario: str | Path | None = None, *, on_round: OnRound | None = None, **changes: Scalar | Path) -> RunResult:
    """Run a scenario (a TOML file of run-config keys) to its end.

    `changes` are config keys with underscores; they win over the file. `on_round` hears every row of rounds.jsonl as
    it is written. ConfigError on a config that cannot run, RunFailed on a run that ended early.
    """
    return execute(load_config(scenario, changes), on_round)


def load_config(scenario: str | Path | None, changes: Mapping[str, Scalar | Path]) -> RunConfig:
    """The config of a scenario file with changes, its paths made absolute and the run given a name."""
    config = RunConfig.from_flower(_read_scenario(Path(scenario)) if scenario else {}).changed(**changes)
    stem = Path(scenario).stem if scenario else "run"
    name = config.output.run_name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    data_dir = Path(config.data.data_dir).expanduser().absolute() if config.data.data_dir else ""
    runs_dir = Path(config.output.runs_dir).expanduser().absolute()
    return config.changed(
        runs_dir=runs_dir, run_name=name, data_dir=data_dir, problem=_problem_here(config.training.problem)
    )


def load_run(directory: Path) -> RunConfig:
    """The config that goes on with the run in `directory` after its last checkpoint; ConfigError if none is there."""
    directory = directory.expanduser().absolute()
    try:
        header = json.loads((directory / RUN).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{directory} holds no run to resume: it has no {RUN}") from None
    config = RunConfig.from_flower(header["config"])
    return config.changed(resume=True, runs_dir=directory.parent, run_name=directory.name)


def execute(
    config: RunConfig,
    on_round: OnRound | None = None,
    *,
    in_flower: bool = False,
    ray_address: str = "",
    deployment: Path | None = None,
    tell: Callable[[str], None] = print,
) -> RunResult:
    """Run a config from `load_config` to its end.

    Engine `ray` runs in this process, on the cluster at `ray_address` (RAY_ADDRESS by default) if there is one;
    `in_flower` puts it into a ServerApp process under `flwr run`, where engine `flower` always is. `deployment` is the
    folder of a federation of devices (`fl-mlmc deploy init`) that runs it instead; `tell` hears Flower's commands.
    """
    if deployment is not None and config.engine.name != "flower":
        raise ConfigError(f"devices are engine 'flower', the run config has engine {config.engine.name!r}")
    if config.engine.name == "ray":
        ray_address = ray_address or os.environ.get("RAY_ADDRESS", "")
    elif ray_address:
        raise ConfigError(f"a Ray address is for engine 'ray', the run config has engine {config.engine.name!r}")
    directory = Path(config.output.runs_dir) / config.output.run_name
    if config.output.resume:
        with writing(directory):
            if _status(directory) == "completed":
                return RunResult.read(directory)
            saved = load_state(directory / CHECKPOINT)
            RoundLog.resume(directory, saved.log_sizes if saved else {})  # before anybody follows the log
    elif (directory / RUN).exists():
        raise ConfigError(f"{directory} already holds a run; choose another run-name or runs-dir")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        if deployment is not None:
            _run_on_devices(config, directory, on_round, deployment.absolute(), tell)
        elif config.engine.name == "flower" or (config.engine.name == "ray" and in_flower and not ray_address):
            _run_on_flower(config, directory, on_round)
        elif ray_address:
            _run_on_cluster(config, directory, on_round, ray_address)
        else:
            _run_here(config, directory, on_round)
    except SuperLinkError as error:
        raise RunFailed(directory, str(error)) from error
    except BaseException as error:
        _mark_failed(directory, error)
        raise
    return RunResult.read(directory)


def _problem_here(text: str) -> str:
    """The text of a problem; a file of one's own under this folder by its path, for processes that stand elsewhere."""
    module, colon, name = text.rpartition(":")
    path = Path(module if module.endswith(".py") else module.replace(".", "/") + ".py").expanduser().absolute()
    is_own = path.is_file() and not (path.parent / "__init__.py").exists()  # packages are imported, not read
    return f"{path}:{name}" if colon and is_own else text


def _read_scenario(path: Path) -> dict[str, Scalar]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no scenario {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"scenario {path} is not TOML: {error}") from None


def _run_here(config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
    from .server_app import serve

    with _flower_log_to(directory / "server.log"):
        try:
            serve(config, on_round=on_round)
        except (ConfigError, OSError, ValueError):
            raise
        except Exception as error:
            raise RunFailed(directory, str(error)) from error


def _run_on_flower(config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
    # Beside our engine Flower's own stands idle; one node with all processors is the least of it.
    nodes, cpus = (1, os.cpu_count()) if config.engine.name == "ray" else (config.cohort.num_clients, 1)
    federation = f"num-supernodes={nodes} client-resources-num-cpus={cpus} init-args-num-cpus={os.cpu_count()}"
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-", ignore_cleanup_errors=True) as home:
        _submit(LocalSuperLink(Path(home)), Path(home), federation, config, directory, on_round)


def _run_on_devices(
    config: RunConfig, directory: Path, on_round: OnRound | None, deployment: Path, tell: Callable[[str], None]
) -> None:
    from deploy.flower import environment, neutral, operator_home, wait_for_superlink
    from deploy.status import LAST_RUN

    wait_for_superlink(deployment, seconds=20.0)
    home = operator_home(deployment)
    (deployment / "state" / LAST_RUN).write_text(f"{directory}\n")
    link = SuperLinkRuns(environment(home), neutral(home), tell)
    refused = directory / REFUSED
    told = refused.stat().st_size if refused.exists() else 0
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as scratch:
        try:
            _submit(link, Path(scratch), "", config, directory, on_round)
        finally:
            tell_of_refused(refused, told, tell)


def tell_of_refused(path: Path, told: int, tell: Callable[[str], None]) -> None:
    """Name the nodes in refused.jsonl, from byte `told` on: they have no row in the round log."""
    if path.exists():
        for line in dict.fromkeys(path.read_bytes()[told:].splitlines()):
            row = json.loads(line)
            tell(f"WARNING: node {printable(row['node'], 100)} is left out: {printable(row['reason'])}")


def _submit(
    link: SuperLinkRuns,
    scratch: Path,
    federation: str,
    config: RunConfig,
    directory: Path,
    on_round: OnRound | None,
) -> None:
    """Run the app on `link` and wait for its end; a run that is left early is stopped."""
    from .server_app import prepare_data

    if not (APP / "pyproject.toml").is_file():
        raise ConfigError(
            f"engine {config.engine.name!r} runs the app's folder, and {APP} has no pyproject.toml: "
            "install from a checkout (`pip install -e .`), or use engine = 'local'"
        )
    with link:
        prepare_data(config)  # while the SuperLink starts; a mistake in the data is heard of here
        settings = scratch / "run.toml"
        settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.to_flower().items()))
        run_id = link.submit(stage_app(scratch / "app"), settings, federation)
        rows = _Follower(directory / ROUNDS, on_round)
        try:
            while not link.state(run_id).is_finished:
                rows.poll()
                time.sleep(0.1)
            rows.poll()
            state = link.state(run_id)
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(SuperLinkError):
                link.stop(run_id)
            raise
        finally:
            (directory / SERVER_LOG).write_text(link.log(run_id, lines=1_000_000))
    status = _status(directory)
    if not state.is_success or status != "completed":
        reason = status.removeprefix("failed: ") if status.startswith("failed") else _last_words(state, directory)
        raise RunFailed(directory, reason)


def _run_on_cluster(config: RunConfig, directory: Path, on_round: OnRound | None, address: str) -> None:
    from ..engines.ray.session import ray_session

    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as home, ray_session(address, stage_app(Path(home) / "app")):
        _run_here(config, directory, on_round)


def stage_app(target: Path) -> Path:
    """A copy of the app's own files; in the checkout Flower would first walk through .venv and all else there."""
    target.mkdir()
    shutil.copy(APP / "pyproject.toml", target)
    for package in ("clients", "fl_mlmc", "simulations", "strategies"):
        shutil.copytree(APP / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target


class _Follower:
    """Reads the rows of a growing rounds.jsonl as they are completed."""

    def __init__(self, path: Path, on_round: OnRound | None) -> None:
        self._path, self._on_round, self._position = path, on_round, 0

    def poll(self) -> None:
        if self._on_round is None or not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._on_round(json.loads(line))


def _status(directory: Path) -> str:
    try:
        return str(json.loads((directory / RUN).read_text())["status"])
    except FileNotFoundError:
        return "not started"


def _last_words(state: RunState, directory: Path) -> str:
    # Clients have their say in this log: its lines are marked, so that none can pose as one of ours.
    log = (directory / SERVER_LOG).read_text(errors="replace").strip().splitlines()
    quoted = "".join(f"\n  {SERVER_LOG}: {printable(line)}" for line in log[-15:])
    return f"Flower says {state.status} {printable(state.details)}{quoted}"


def _mark_failed(directory: Path, error: BaseException) -> None:
    # A server that was killed could not say so itself.
    if _status(directory) == "running":
        with contextlib.suppress(OSError):
            RoundLog(directory).finish(f"failed: {'interrupted' if isinstance(error, KeyboardInterrupt) else error}")
    with contextlib.suppress(OSError):
        directory.rmdir()  # nothing was logged, so nothing is left behind


@contextlib.contextmanager
def _flower_log_to(path: Path) -> Iterator[None]:
    """Send what Flower logs in this process to a file."""
    logger = logging.getLogger("flwr")
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before, propagate
        handler.close()
