import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_mlmc.simulations.app import superlink
from fl_mlmc.simulations.app.superlink import LocalSuperLink, RunState, SuperLinkError

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # as /proc/net spells 127.0.0.1
FEDERATION = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=2"

PROJECT = """
[project]
name = "probe"
version = "0.1.0"
description = "A probe"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
serverapp = "probe:server"
clientapp = "probe:client"

[tool.flwr.app.config]
mark = ""
then = "return"
"""

APP = """
import os, sys, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    facts = ConfigRecord({"directory": os.getcwd(), "path": sys.path})
    return Message(RecordDict({"facts": facts}), reply_to=message)


@server.main()
def main(grid, context):
    if context.run_config["then"] == "raise":
        raise RuntimeError("on purpose")
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.05)
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]
    replies = list(grid.send_and_receive(asked))
    print("directories", {reply.content["facts"]["directory"] for reply in replies})
    open(context.run_config["mark"], "w").close()
    if context.run_config["then"] == "wait":
        time.sleep(600)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    app = tmp_path / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "probe.py").write_text(APP)
    return app


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def overrides(tmp_path: Path, **settings: str) -> Path:
    path = tmp_path / "overrides.toml"
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 250
    while not condition():
        assert time.monotonic() < deadline, "waited 250 s in vain"
        time.sleep(0.05)


def processes_of(home: Path) -> dict[int, str]:
    """All that runs in the working directory of this SuperLink, as it and all its children do."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(home):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def listening_addresses(pids: set[int]) -> set[str]:
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in tables.splitlines()]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


@pytest.mark.slow
def test_the_true_end_of_a_run_is_told(app: Path, home: Path, tmp_path: Path) -> None:
    with LocalSuperLink(home) as link:
        good = link.submit(app, overrides(tmp_path, mark=str(tmp_path / "mark")), FEDERATION)
        assert link.state(good) == RunState("running")
        wait_for(lambda: link.state(good).is_finished)
        assert link.state(good).is_success
        assert f"directories {{'{home / 'empty'}'}}" in link.log(good)

        bad = link.submit(app, overrides(tmp_path, then="raise"), FEDERATION)
        wait_for(lambda: link.state(bad).is_finished)
        assert link.state(bad).status == "finished:failed"
        assert "on purpose" in link.state(bad).details
        assert 'raise RuntimeError("on purpose")' in link.log(bad)

        with pytest.raises(SuperLinkError, match=r"`flwr run`(.|\n)*Invalid run configuration"):
            link.submit(app, overrides(tmp_path, nonsense="1"), FEDERATION)
    assert not processes_of(home)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_takes_all_processes_of_a_run_along(app: Path, home: Path, tmp_path: Path) -> None:
    def interrupted_run() -> None:
        with LocalSuperLink(home) as link:
            run = link.submit(app, overrides(tmp_path, mark=str(tmp_path / "mark"), then="wait"), FEDERATION)
            wait_for((tmp_path / "mark").exists)
            alive = processes_of(home)
            assert any("flwr-simulation" in command for command in alive.values())
            assert any("raylet" in command for command in alive.values())
            assert listening_addresses(set(alive)) <= LOOPBACK
            assert not link.state(run).is_finished
            raise KeyboardInterrupt

    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert not processes_of(home)
    assert dict(os.environ) == before


def test_a_superlink_that_cannot_start_says_why(
    app: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(superlink, "_free_port", lambda: taken.getsockname()[1])
        with (
            pytest.raises(SuperLinkError, match=r"exited with code 1(.|\n)*address already in use"),
            LocalSuperLink(home) as link,
        ):
            link.submit(app, overrides(tmp_path), FEDERATION)
    assert not processes_of(home)


def test_a_missing_flower_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    with (
        pytest.raises(SuperLinkError, match=r"no `flower-superlink` in .*pip install"),
        LocalSuperLink(home, env={"PATH": ""}),
    ):
        pass
