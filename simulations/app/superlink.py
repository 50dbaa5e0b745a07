"""A Flower SuperLink of our own, and runs on it.

Left alone, `flwr run` starts a SuperLink that outlives it and that every checkout of a user shares, with the
working directory, the environment and the dependency installer of whoever came first. The one here lives as
long as a `with` block, answers on loopback only, and takes everything that it started with it.
"""

import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .process_family import ProcessFamily

START_SECONDS = 60.0
COMMAND_SECONDS = 120.0
GRACE_SECONDS = 6.0  # Flower's processes force their own exit after 5


class SuperLinkError(RuntimeError):
    """The SuperLink, or a command sent to it, did not do what was asked."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands: what `flwr ls` says, "running" or "finished:completed", and Flower's details."""

    status: str
    details: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status.startswith("finished")

    @property
    def is_success(self) -> bool:
        """Whether it ended, and nobody raised."""
        return self.status == "finished:completed"


class SuperLinkRuns:
    """Runs on the SuperLink that is the default connection of the Flower settings in `env`'s FLWR_HOME.

    Commands run in `neutral`, an empty folder. `tell` hears of each as it could be typed.
    """

    def __init__(self, env: Mapping[str, str], neutral: Path, tell: Callable[[str], None] | None = None) -> None:
        self.home = Path(env["FLWR_HOME"])
        self._env = dict(env)
        self._neutral = neutral
        self._tell = tell
        self._family = ProcessFamily()
        self._watchers: dict[int, subprocess.Popen[bytes]] = {}
        self._finished: dict[int, RunState] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._family.end(GRACE_SECONDS)

    def submit(self, app: Path, run_config: Path, federation_config: str = "") -> int:
        """Start a run of the Flower app in `app`, its settings overridden by a TOML file; the run's id."""
        federation = ["--federation-config", federation_config] if federation_config else []
        settings = ["--run-config", str(run_config.resolve()), *federation]
        run_id = int(self._flwr("run", str(app.resolve()), *settings)["run-id"])
        self._watch(run_id)
        return run_id

    def state(self, run_id: int) -> RunState:
        """Where the run stands. Costs next to nothing until the run ends, so poll as you like."""
        if run_id in self._watchers and self._watchers[run_id].poll() is None:
            return RunState("running")
        if run_id not in self._finished:
            (run,) = self._flwr("ls", "--run-id", str(run_id))["runs"]
            state = RunState(run["status"], run["status-details"])
            if not state.is_finished:
                self._watch(run_id)
                return state
            self._finished[run_id] = state
        return self._finished[run_id]

    def log(self, run_id: int, lines: int = 60) -> str:
        """The last lines that the ServerApp and its clients wrote, as far as they have arrived."""
        return _tail(self.home / f"run-{run_id}.log", lines)

    def stop(self, run_id: int) -> None:
        """Have Flower stop the run."""
        self._flwr("stop", str(run_id))

    def _watch(self, run_id: int) -> None:
        # `flwr log` ends when the run does: one process that waits, where every `flwr ls` costs a second of CPU.
        command = [self._executable("flwr"), "log", str(run_id), "--stream"]
        self._watchers[run_id] = self._start(command, self.home / f"run-{run_id}.log")

    def _flwr(self, command: str, *arguments: str) -> dict[str, Any]:
        """What `flwr COMMAND … --format json` answers."""
        words = [command, *arguments, "--format", "json"]
        if self._tell is not None:
            self._tell(f"FLWR_HOME={shlex.quote(str(self.home))} flwr {shlex.join(words)}")
        done = subprocess.run(
            [self._executable("flwr"), *words],
            cwd=self._neutral,
            env={**self._env, **self._family.mark},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            start_new_session=True,
            check=False,
        )
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(_plain(done.stdout))
        if not answer.get("success"):
            said = answer.get("error-message") or _plain(done.stdout + done.stderr)
            raise SuperLinkError(f"`flwr {command}` exited with code {done.returncode}: {said.strip()}")
        return answer

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return self._family.start(command, self._neutral, self._env, output)

    def _executable(self, name: str) -> str:
        found = shutil.which(name, path=self._env["PATH"])
        if found is None:
            beside = Path(sys.executable).parent
            raise SuperLinkError(f"no `{name}` in {beside} nor on PATH; `pip install 'flwr[simulation]'` brings it")
        return found


class LocalSuperLink(SuperLinkRuns):
    """A private SuperLink for simulations, alive inside a `with` block.

    `home` becomes its FLWR_HOME: apps, logs and settings. `env` is added to the environment of this process
    for all that runs on the SuperLink. Entering does not wait for the start; the first `submit` does.
    """

    def __init__(self, home: Path, env: Mapping[str, str] | None = None) -> None:
        home = home.resolve()
        super().__init__(_environment(home, {**os.environ, **(env or {})}), home / "empty")
        self.port = _free_port()

    def __enter__(self) -> Self:
        daemon = self._executable("flower-superlink")
        # Ray lets its workers import from the working directory of the SuperLink before the app's own folder.
        self._neutral.mkdir(parents=True, exist_ok=True)
        # With an address in the settings, `flwr` never starts a SuperLink of its own.
        link = f'[superlink.own]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        (self.home / "config.toml").write_text(f'[superlink]\ndefault = "own"\n\n{link}')
        # Not under `home`: a Unix socket's path ends at about 100 characters, of which Ray's part takes 70.
        parent = self._env.get("RAY_TMPDIR", "/tmp")
        self._ray = tempfile.TemporaryDirectory(prefix="fl-mlmc-", dir=parent, ignore_cleanup_errors=True)
        self._env["RAY_TMPDIR"] = self._ray.name
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        mode = ["--insecure", "--simulation", "--isolation", "subprocess"]
        self._daemon = self._start([daemon, *mode, *address], self.log_path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._ray.cleanup()

    @property
    def log_path(self) -> Path:
        """The file with what the SuperLink and its processes wrote."""
        return self.home / "superlink.log"

    def submit(self, app: Path, run_config: Path, federation_config: str = "") -> int:
        """Start a run once the SuperLink answers; the run's id."""
        self._wait_until_healthy()
        return super().submit(app, run_config, federation_config)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _is_healthy(self.port):
            code = self._daemon.poll()
            if code is not None or time.monotonic() > deadline:
                what = "did not answer" if code is None else f"exited with code {code}"
                tail = _tail(self.log_path, 20)
                raise SuperLinkError(f"the SuperLink on port {self.port} {what}; {self.log_path} ends:\n{tail}")
            time.sleep(0.05)


def _environment(home: Path, outer: Mapping[str, str]) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    no_proxy = ",".join(filter(None, (outer.get("NO_PROXY") or outer.get("no_proxy"), "127.0.0.1")))
    own = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PATH": os.pathsep.join((scripts, outer.get("PATH", os.defpath))),  # Flower starts its parts by name
        "PYTHONUNBUFFERED": "1",
    }
    if "RAY_ADDRESS" not in outer:
        # Makes Ray bind loopback, as it does on laptops, and not the address of the network card.
        own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return {**outer, **own}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(path: Path, lines: int) -> str:
    return "\n".join(_plain(path.read_text(errors="replace")).splitlines()[-lines:]) if path.exists() else ""


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)  # Flower colours even what goes to a file
