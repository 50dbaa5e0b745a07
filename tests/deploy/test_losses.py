"""Plugs are pulled: a node in the middle of a round, a device that lags, the server itself."""

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from simulations.launch import load_config
from simulations.server_app import serve
from strategies.checkpoint import load_state

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc"),
]

TIERS = {0: "sensor", 1: "phone", 2: "gateway"}
ASSIGNMENT = ",".join(f"{client}:{tier}" for client, tier in TIERS.items())

LAGGING = """
import time

from flwr.clientapp import ClientApp

prompt = ClientApp.__call__


def lagging(self, message, context):
    if message.metadata.message_type == "train" and int(message.content["config"]["server-round"]) == 1:
        time.sleep(SECONDS)
    return prompt(self, message, context)


ClientApp.__call__ = lagging
"""


def started(deployment: "Deployment", clients: tuple[int, ...] = (0, 1, 2)) -> None:
    deployment.add(*TIERS)
    for client in clients:
        deployment.start_node(client, TIERS[client])


def test_a_node_killed_in_a_round_comes_back_with_its_memory(deployment: "Deployment") -> None:
    started(deployment)
    settings = ("scheme=ef21", "compressor=TopK(fraction=0.2)", "num-rounds=14", "round-timeout=60.0", "quorum=0.5")
    run = deployment.submit("killed", *settings)
    deployment.wait("two rounds", lambda: len(deployment.rows("killed", "rounds.jsonl")) >= 2, 600.0)
    node = deployment.process("node-1").pid
    # The node itself dies; its supervisor lives on, as systemd would.
    for line in os.popen(f"ps -o pid=,args= --ppid {node}").read().splitlines():
        if "flower-supernode" in line:
            os.kill(int(line.split()[0]), signal.SIGKILL)
    assert run.wait(900.0) == 0, run.communicate()
    statuses = deployment.statuses("killed", 1)
    assert statuses[:2] == ["ok", "ok"]
    assert any(status.startswith("dropped: ") for status in statuses) or len(statuses) < 14
    assert statuses[-1] == "ok", statuses
    assert not [status for status in statuses if "memory" in status]
    assert deployment.statuses("killed", 0) == ["ok"] * 14
    assert deployment.log("node-1").count("SuperNode ID") >= 2
    run.communicate()


def test_a_late_reply_is_counted_and_changes_nothing(deployment: "Deployment") -> None:
    started(deployment, (0, 2))
    deployment.start_patched_node(1, TIERS[1], f"SECONDS = 75.0\n{LAGGING}")
    done = deployment.run("late", "num-rounds=4", "round-timeout=60.0")
    assert done.returncode == 0, done.stderr + deployment.logs()
    rounds = deployment.rows("late", "rounds.jsonl")
    assert deployment.statuses("late", 1)[0] == "dropped: no reply in time"
    assert 60.0 <= rounds[0]["seconds"] < 75.0
    assert deployment.statuses("late", 1)[-1] == "ok"
    assert [status for client in (0, 2) for status in deployment.statuses("late", client)] == ["ok"] * 8


def test_over_sampling_does_not_wait_for_the_slowest(deployment: "Deployment") -> None:
    started(deployment, (0, 2))
    deployment.start_patched_node(1, TIERS[1], f"SECONDS = 60.0\n{LAGGING}")
    settings = ("num-rounds=4", "clients-per-round=2", "over-sampling=0.5", "round-timeout=300.0")
    done = deployment.run("over", *settings)
    assert done.returncode == 0, done.stderr + deployment.logs()
    rounds = deployment.rows("over", "rounds.jsonl")
    assert [row["num_sampled"] for row in rounds] == [3] * 4
    assert all(row["num_ok"] >= 2 for row in rounds)
    assert deployment.statuses("over", 1)[0] == "dropped: no reply in time"
    assert sum(row["num_late"] for row in rounds) >= 1


def test_a_killed_server_goes_on_and_ends_in_the_same_bytes(deployment: "Deployment") -> None:
    started(deployment)
    run = deployment.submit("torn", "num-rounds=6")
    deployment.wait("two rounds", lambda: len(deployment.rows("torn", "rounds.jsonl")) >= 2, 600.0)
    deployment.kill("server")
    _, errors = run.communicate(timeout=200.0)
    assert run.returncode != 0
    assert "Traceback" not in errors
    deployment.start_server()
    done = deployment.resume("torn")
    assert done.returncode == 0, done.stderr + deployment.logs()
    assert [row["round"] for row in deployment.rows("torn", "rounds.jsonl")] == [1, 2, 3, 4, 5, 6]
    config = load_config(deployment.directory.parent / "scenario.toml", {}).changed(
        engine="local", num_rounds=6, tier_assignment=ASSIGNMENT, runs_dir=deployment.runs, run_name="reference"
    )
    whole, torn = (load_state(directory / "checkpoint") for directory in (serve(config), deployment.runs / "torn"))
    assert whole is not None
    assert torn is not None
    assert torch.equal(whole.vector, torn.vector)
