"""Processes that come back, and go when they are told to."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_mlmc.deploy import flower, serve, supervise
from fl_mlmc.deploy.federation import DeployError, NodeSettings, add_node, init
from fl_mlmc.deploy.flower import supernode_command, wait_for_superlink
from fl_mlmc.deploy.supervise import Supervisor
from fl_mlmc.simulations.cli import app


def wait_for(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Path]:
    """A command that notes its process id and stays, and where it notes it."""
    monkeypatch.setattr(supervise, "FIRST_SECONDS", 0.05)
    note = tmp_path / "pids"
    code = f"import os, time; open({str(note)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    return [sys.executable, "-c", code], note


def pids(note: Path) -> list[int]:
    return [int(line) for line in note.read_text().splitlines()] if note.exists() else []


def test_a_killed_process_comes_back_and_a_stopped_one_does_not(
    started: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, note = started
    said: list[str] = []
    supervisor = Supervisor(command, tmp_path, os.environ, said.append, lambda: "have a look")
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    wait_for(lambda: len(pids(note)) == 1)
    os.kill(pids(note)[0], signal.SIGKILL)
    wait_for(lambda: len(pids(note)) == 2)
    supervisor.stop()
    thread.join(20.0)
    assert not thread.is_alive()
    assert not any(map(alive, pids(note)))
    assert said == [f"{sys.executable} ended with code -9; starting it again in 0.05 s", "have a look"]


@pytest.mark.parametrize("is_survived", [False, True])
def test_what_a_process_started_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_survived: bool
) -> None:
    monkeypatch.setattr(supervise, "FIRST_SECONDS", 0.05)
    note = tmp_path / "pids"
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = (
        f"import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {child!r}]);"
        f"open({str(note)!r}, 'a').write(f'{{os.getpid()}}\\n{{child.pid}}\\n'); time.sleep(600)"
    )
    supervisor = Supervisor([sys.executable, "-c", code], tmp_path, os.environ, print, is_survived=is_survived)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_for(lambda: len(pids(note)) == 2)
        first, its_child = pids(note)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(pids(note)) == 4 and (is_survived or not alive(its_child)))
        assert alive(its_child) == is_survived
        assert alive(pids(note)[3])
    finally:
        supervisor.stop()
        thread.join(20.0)
        if alive(its_child):
            os.kill(its_child, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids(note))))


def test_advice_is_told_when_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_SECONDS", 0.01)
    advice = iter(["a", "a", "", "b", "b"])
    said: list[str] = []

    def next_advice() -> str:
        found = next(advice, None)
        if found is None:
            supervisor.stop()
        return found or ""

    supervisor = Supervisor([sys.executable, "-c", ""], tmp_path, os.environ, said.append, next_advice)
    supervisor.run()
    assert [line for line in said if "ended with" not in line] == ["a", "b"]


def test_each_pause_is_twice_the_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervise, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(supervise, "MOST_SECONDS", 0.03)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line.rsplit(" in ")[-1])
        if len(said) == 4:
            supervisor.stop()

    supervisor = Supervisor([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, os.environ, tell)
    supervisor.run()
    assert said == ["0.01 s", "0.02 s", "0.03 s", "0.03 s"]


def test_a_process_that_lived_long_starts_again_without_delay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, seconds in {"FIRST_SECONDS": 0.01, "MOST_SECONDS": 1.0, "STEADY_SECONDS": 3.0}.items():
        monkeypatch.setattr(supervise, name, seconds)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line.rsplit(" in ")[-1])
        if len(said) == 4:
            supervisor.stop()

    note = tmp_path / "lives"
    code = f"import time; open({str(note)!r}, 'a').write('x'); time.sleep(4 * (len(open({str(note)!r}).read()) == 3))"
    supervisor = Supervisor([sys.executable, "-c", code], tmp_path, os.environ, tell)
    supervisor.run()
    assert said == ["0.01 s", "0.02 s", "0.01 s", "0.02 s"]


def test_a_process_that_does_not_listen_is_ended_after_a_grace(
    started: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, note = started
    command[-1] = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {command[-1]}"
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 0.2)
    supervisor = Supervisor(command, tmp_path, os.environ, print)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_for(lambda: len(pids(note)) == 1)
    finally:
        supervisor.stop()
        thread.join(20.0)
    assert not alive(pids(note)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="a signal at the parent's death is Linux's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_supervisor_takes_its_process_along(
    started: tuple[list[str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    command, note = started
    if number == signal.SIGKILL:  # what a process that has no ear for others gets
        command[-1] = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {command[-1]}"
    code = (
        "import os, sys; from pathlib import Path; from fl_mlmc.deploy.supervise import Supervisor;"
        f"Supervisor({command!r}, Path('.'), os.environ, print, orphaned={int(number)}).run()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    wait_for(lambda: len(pids(note)) == 1)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not alive(pids(note)[0]))


def test_the_node_is_told_its_tier_client_data_and_budget(tmp_path: Path) -> None:
    import tomllib

    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {4: ""})
    device = tmp_path / "fed/devices/client-4"
    (device / "state").mkdir()
    command = supernode_command(
        device, NodeSettings("10.0.0.1:9443", 4, "auto", '/a b/it\'s "x".csv', 5000, 9100, "/base")
    )
    assert command[:3] == ["flower-supernode", "--superlink", "10.0.0.1:9443"]
    assert "--insecure" not in command
    assert command[command.index("--auth-supernode-private-key") + 1] == str(device / "node.key")
    assert tomllib.loads(Path(command[-1]).read_text()) == {
        "partition-id": 4,
        "tier": "auto",
        "data-path": '/a b/it\'s "x".csv',
        "uplink-budget": 5000,
        "weights": "/base",
        "state-path": str(device / "state/memory"),
    }


def test_commands_that_find_no_superlink_say_what_to_start(tmp_path: Path) -> None:
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", free_port(), {})
    with pytest.raises(DeployError, match=r"no SuperLink answers on 127.0.0.1:.*is `fl-mlmc deploy server"):
        wait_for_superlink(tmp_path / "fed", seconds=0.0)
    done = CliRunner().invoke(app, ["deploy", "run", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "there is no" in done.output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:9443", free_port(), {0: "phone"})
    device = tmp_path / "fed" / "devices" / "client-0"
    for key, start in {
        tmp_path / "fed" / "server.key": lambda: serve.serve(tmp_path / "fed", print),
        tmp_path / "fed" / "ca.key": lambda: add_node(tmp_path / "fed", 1, ""),
        device / "node.key": lambda: serve.run_node(device, NodeSettings("127.0.0.1:1", 0, port=free_port()), print),
    }.items():
        key.chmod(0o640)
        with pytest.raises(DeployError, match=f"{key} has mode 0640, others could read it: `chmod 600"):
            start()
    (tmp_path / "fed" / "server.key").chmod(0o600)
    with pytest.raises(DeployError, match=r"ca.key has mode 0640"):
        serve.serve(tmp_path / "fed", print)


def test_a_node_says_what_is_in_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:9443", 9444, {0: "phone"})
    device = tmp_path / "fed" / "devices" / "client-0"
    said: list[str] = []
    monkeypatch.setattr(serve.Supervisor, "run", lambda self: None)
    monkeypatch.setattr(serve, "stop_on_signals", lambda *stop: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = NodeSettings("127.0.0.1:1", 0, port=taken.getsockname()[1])
        with pytest.raises(DeployError, match=f"cannot listen on 127.0.0.1:{settings.port}.*a port of its own, --port"):
            serve.run_node(device, settings, said.append)
    serve.run_node(device, settings, said.append)
    assert "WARNING: no server answers at 127.0.0.1:1 (Connection refused); the node tries on" in said[0]


@pytest.mark.parametrize(("found", "is_enough"), [("1.39.2", False), ("0.99", False), ("1.40.0", True), ("2.0", True)])
def test_a_flwr_that_is_too_old_is_refused_at_the_start(
    found: str, is_enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "version", lambda name: found)
    for start in (
        lambda: serve.serve(tmp_path, print),
        lambda: serve.run_node(tmp_path, NodeSettings("a:1", 0), print),
    ):
        reason = "there is no" if is_enough else f"flwr {found} is installed in .*, 1.40 or newer is needed: `pip"
        with pytest.raises(DeployError, match=reason):
            start()
