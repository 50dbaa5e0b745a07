"""Where the server of a run works: in this process, on a Ray cluster, under Flower, or on real devices.

| place | server | clients |
|---|---|---|
| `Here()` | this process | this process, or a Ray of its own |
| `OnCluster(address)` | this process | the Ray cluster there |
| `UnderFlower()` | a ServerApp process on a SuperLink of our own | our Ray engine in it, or Flower's simulation |
| `OnDevices(folder)` | a ServerApp process on the federation's SuperLink | its nodes |
"""

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fl_mlmc.own import blamed, is_users
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import REFUSED, ROUNDS, status_of
from fl_mlmc.run.protocol import printable

from ..engines.processors import processors
from .bundle import stage_app
from .run_lock import alone
from .superlink import LocalSuperLink, RunState, SuperLinkError, SuperLinkRuns

SERVER_LOG = "server.log"
"""The file of a run's directory with all that Flower's processes wrote."""

OnRound = Callable[[Mapping[str, Any]], None]
"""Hears every row of rounds.jsonl as it is written."""


class RunFailed(RuntimeError):
    """A run that did not reach its end; what it logged until then lies in `directory`."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"{reason} (log: {directory})")
        self.directory = directory
        self.reason = reason


class Place(Protocol):
    """Somewhere to run a config to its end, with its log in `directory`; RunFailed or SuperLinkError if it is cut."""

    def run(self, config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
        """Run `config` to its end; `on_round` hears every row of rounds.jsonl. RunFailed or SuperLinkError as above."""
        ...


def place_of(config: RunConfig, *, in_flower: bool = False, ray_address: str = "") -> Place:
    """Where `config` runs unless somebody says otherwise.

    A Ray cluster is the one at `ray_address`, or at RAY_ADDRESS. `in_flower` puts an engine `ray` of this machine into
    a ServerApp process, as `flwr run` does. ConfigError on an address for an engine that has no use for it.
    """
    engine = config.engine.name
    if ray_address and engine != "ray":
        raise ConfigError(f"a Ray address is for engine 'ray', the run config has engine {engine!r}")
    if engine == "ray" and (address := ray_address or os.environ.get("RAY_ADDRESS", "")):
        return OnCluster(address)
    return UnderFlower() if engine == "flower" or (engine == "ray" and in_flower) else Here()


@dataclass(frozen=True)
class Here:
    """The server in this process."""

    def run(self, config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
        """ConfigError, OSError and ValueError are raised as they are: they tell the user what to change."""
        from .server_app import serve

        with alone(), _flower_log_to(directory / SERVER_LOG):
            try:
                serve(config, on_round=on_round)
            except (ConfigError, OSError, ValueError):
                raise
            except Exception as error:
                raise RunFailed(directory, blamed(error) if is_users(error) else str(error)) from error


@dataclass(frozen=True)
class OnCluster:
    """The server in this process, its clients on the Ray cluster at `address`."""

    address: str

    def run(self, config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
        """Workers import this very code: it is staged, and Ray hands it out."""
        from ..engines.ray.session import ray_session

        with (
            tempfile.TemporaryDirectory(prefix="fl-mlmc-") as home,
            ray_session(self.address, stage_app(Path(home) / "app", config)),
        ):
            Here().run(config, directory, on_round)


@dataclass(frozen=True)
class UnderFlower:
    """A ServerApp process under `flwr run`, on a SuperLink that ends with the run."""

    def run(self, config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
        """With a node for each client of engine `flower`; beside engine `ray`, which makes its own, with one."""
        # Beside our engine Flower's own stands idle; one node with all processors is the least of it.
        cpus = processors()
        nodes, each = (1, cpus) if config.engine.name == "ray" else (config.cohort.num_clients, 1)
        federation = f"num-supernodes={nodes} client-resources-num-cpus={each} init-args-num-cpus={cpus}"
        with tempfile.TemporaryDirectory(prefix="fl-mlmc-", ignore_cleanup_errors=True) as home:
            _submit(LocalSuperLink(Path(home)), Path(home), federation, config, directory, on_round)


@dataclass(frozen=True)
class OnDevices:
    """The federation of devices whose folder `fl-mlmc deploy init` made; `tell` hears Flower's commands."""

    folder: Path
    tell: Callable[[str], None] = print

    def run(self, config: RunConfig, directory: Path, on_round: OnRound | None) -> None:
        """ConfigError unless the engine is `flower`; who was left out is told at the end, whatever the end is."""
        from fl_mlmc.deploy.flower import environment, neutral, operator_home, wait_for_superlink
        from fl_mlmc.deploy.status import LAST_RUN

        if config.engine.name != "flower":
            raise ConfigError(f"devices are engine 'flower', the run config has engine {config.engine.name!r}")
        folder = self.folder.absolute()
        wait_for_superlink(folder, seconds=20.0)
        home = operator_home(folder)
        (folder / "state" / LAST_RUN).write_text(f"{directory}\n")
        link = SuperLinkRuns(environment(home), neutral(home), self.tell)
        refused = directory / REFUSED
        told = refused.stat().st_size if refused.exists() else 0
        with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as scratch:
            try:
                _submit(link, Path(scratch), "", config, directory, on_round)
            finally:
                tell_of_refused(refused, told, self.tell)


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
    from .prepare import prepare_run

    prepare_run(config)  # what cannot run is refused here, before anything is started
    bundle = stage_app(scratch / "app", config)
    with link:
        settings = scratch / "run.toml"
        settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.to_flower().items()))
        run_id = link.submit(bundle, settings, federation)
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
    status = status_of(directory)
    if not state.is_success or status != "completed":
        reason = status.removeprefix("failed: ") if status.startswith("failed") else _last_words(state, directory)
        raise RunFailed(directory, reason)


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


def _last_words(state: RunState, directory: Path) -> str:
    # Clients have their say in this log: its lines are marked, so that none can pose as one of ours.
    log = (directory / SERVER_LOG).read_text(errors="replace").strip().splitlines()
    quoted = "".join(f"\n  {SERVER_LOG}: {printable(line)}" for line in log[-15:])
    return f"Flower says {state.status} {printable(state.details)}{quoted}"


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
