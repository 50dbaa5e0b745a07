"""Plugs are pulled: a node in the middle of a round, a device that lags, the server itself."""

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from fl_mlmc.simulations.app.launch import load_config
from fl_mlmc.simulations.app.server_app import serve
from fl_mlmc.strategies.checkpoint import load_state

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("losses"),
    pytest.mark.timeout(1500),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc"),
]

TIERS = {0: "sensor", 1: "phone", 2: "gateway"}
ASSIGNMENT = ",".join(f"{client}:{tier}" for client, tier in TIERS.items())


LAGGING = """
import time
from pathlib import Path

from flwr.clientapp import ClientApp

prompt = ClientApp.__call__


def lagging(self, message, context):
    run = context.run_config["run-name"]
    is_second = message.metadata.message_type == "train" and int(message.content["config"]["server-round"]) == 2
    log = Path(RUNS) / str(run) / "rounds.jsonl"
    while is_second and run in ("late", "over") and len(log.read_text().splitlines()) < 2:
        time.sleep(0.1)
    return prompt(self, message, context)


ClientApp.__call__ = lagging
"""


@pytest.fixture(scope="module", autouse=True)
def nodes(deployment: "Deployment") -> None:
    """Three nodes; that of client 2 lags in the second round of the runs "late" and "over" until it is over."""
    deployment.add(*TIERS)
    for client in (0, 1):
        deployment.start_node(client, TIERS[client])
    deployment.start_patched_node(2, TIERS[2], f"RUNS = {str(deployment.runs)!r}\n{LAGGING}")


def test_a_late_reply_is_counted_and_delays_nothing(deployment: "Deployment") -> None:
    done = deployment.run("pace", "num-rounds=2")
    assert done.returncode == 0, done.stderr + deployment.logs()
    seconds = max(30.0, 4 * deployment.rows("pace", "rounds.jsonl")[-1]["seconds"])  # enough for those who do not lag
    done = deployment.run("late", "num-rounds=4", f"round-timeout={seconds}")
    assert done.returncode == 0, done.stderr + deployment.logs()
    rounds = deployment.rows("late", "rounds.jsonl")
    assert deployment.statuses("late", 2) == ["ok", "dropped: no reply in time", "ok", "ok"]
    assert seconds <= rounds[1]["seconds"] < seconds + 10.0
    assert all(row["seconds"] < seconds for row in rounds[2:])
    assert sum(row["num_late"] for row in rounds) == 1
    assert [status for client in (0, 1) for status in deployment.statuses("late", client)] == ["ok"] * 8


def test_over_sampling_does_not_wait_for_the_slowest(deployment: "Deployment") -> None:
    done = deployment.run("over", "num-rounds=4", "clients-per-round=2", "over-sampling=0.5")
    assert done.returncode == 0, done.stderr + deployment.logs()
    rounds = deployment.rows("over", "rounds.jsonl")
    assert [row["num_sampled"] for row in rounds] == [3] * 4
    assert [row["num_ok"] for row in rounds] == [2] * 4
    assert deployment.statuses("over", 2)[1] == "dropped: no reply in time"
    assert sum(row["num_late"] for row in rounds) >= 1


def test_a_node_killed_in_a_round_comes_back_with_its_memory(deployment: "Deployment") -> None:
    # A dead node is noticed after a minute, and refused so long: these are enough rounds for it to take part again.
    run = deployment.submit("killed", "scheme=ef21", "compressor=TopK(fraction=0.2)", "num-rounds=8")
    deployment.wait("two rounds", lambda: len(deployment.rows("killed", "rounds.jsonl")) >= 2, 600.0)
    deployment.wait("a task of round 3", lambda: deployment.find("node-1", "flwr-clientapp"), 300.0)
    for pid in deployment.find("node-1", "flower-supernode"):  # its supervisor lives on
        os.kill(pid, signal.SIGKILL)
    _, errors = run.communicate(timeout=1200.0)
    assert run.returncode == 0, errors + deployment.logs()
    statuses = deployment.statuses("killed", 1)
    assert statuses[:2] == ["ok", "ok"]
    assert statuses[2].startswith("dropped: error 5"), statuses
    assert statuses[-1] == "ok", statuses
    assert not [status for status in statuses if "memory" in status]
    assert deployment.statuses("killed", 0) == ["ok"] * 8
    assert deployment.log("node-1").count("SuperNode ID") >= 2


def test_a_killed_server_goes_on_and_ends_in_the_same_bytes(deployment: "Deployment") -> None:
    run = deployment.submit("torn", "num-rounds=4")
    deployment.wait("two rounds", lambda: len(deployment.rows("torn", "rounds.jsonl")) >= 2, 600.0)
    deployment.kill("server")
    _, errors = run.communicate(timeout=300.0)
    assert run.returncode != 0
    assert "Traceback" not in errors
    deployment.start_server()
    done = deployment.resume("torn")
    assert done.returncode == 0, done.stderr + deployment.logs()
    assert [row["round"] for row in deployment.rows("torn", "rounds.jsonl")] == [1, 2, 3, 4]
    config = load_config(deployment.directory.parent / "scenario.toml", {}).changed(
        engine="local", num_rounds=4, tier_assignment=ASSIGNMENT, runs_dir=deployment.runs, run_name="reference"
    )
    whole, torn = (load_state(directory / "checkpoint") for directory in (serve(config), deployment.runs / "torn"))
    assert whole is not None
    assert torn is not None
    assert torch.equal(whole.vector, torn.vector)
