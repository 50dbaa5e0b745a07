"""Groups summed on workers of the ray engine come to the bytes of every other engine, through every fault."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_mlmc.clients import client_app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.frames import read_clients
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.simulations.engines.ray.grid import RayGrid
from fl_mlmc.simulations.engines.ray.session import ray_session
from fl_mlmc.strategies import order
from fl_mlmc.strategies.summing import Summed
from fl_mlmc.strategies.tiered import TieredStrategy, from_arrays, to_arrays

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

KILLS_ONCE, KILLS_ALWAYS, LIES, FAILS = 3, 5, 8, 11
"""Clients, and what becomes of them or their workers."""


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session(cpus=2):
        yield


def faulty(marks: str, num_kills: dict[int, int]) -> ClientApp:
    """Clients of which some kill their process so many times, one lies about its round, and one fails."""
    app = ClientApp()

    @app.query("roster")
    def who(message: Message, context: Context) -> Message:
        return client_app.who(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = message.content.config_records[CONFIG]["client"]
        with open(f"{marks}-{client}", "a") as mark:
            mark.write("x")
        if os.path.getsize(f"{marks}-{client}") <= num_kills.get(client, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if client == FAILS or num_kills.get(client) == 0:
            raise ValueError("on purpose")
        reply = client_app.train(message, context)
        if client == LIES:
            reply.content.config_records[CONFIG]["server-round"] = 77
        return reply

    return app


def trained(config: RunConfig, grid: Grid) -> tuple[bytes, Any]:
    """The model's bytes, and what the log says of clients but for times."""
    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    log = RoundLog.create(Path(config.output.runs_dir) / config.output.run_name, {})
    strategy = TieredStrategy(config, model, log, str(data))
    result = strategy.start(grid, to_arrays(model.initial(config.seed)), config.num_rounds)
    rows = read_clients(log.directory).drop(columns=["train_seconds", "encode_seconds"])
    return from_arrays(result.arrays).numpy().tobytes(), rows


def test_sums_on_workers_change_no_byte_whatever_happens(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.changed(num_clients=24, clients_per_round=24, num_rounds=1)
    num_sums = []
    real = order.in_client_order

    def counting(opened: Any, replies: Any) -> Any:
        return real(opened, (num_sums.append(1) or each if isinstance(each, Summed) else each for each in replies))

    monkeypatch.setattr("fl_mlmc.strategies.tiered.in_client_order", counting)
    settings = config.cohort.num_clients, config.to_flower()
    here = trained(config, LocalGrid(faulty(str(tmp_path / "here"), {KILLS_ALWAYS: 0}), *settings))
    assert not num_sums
    app = faulty(str(tmp_path / "there"), {KILLS_ONCE: 1, KILLS_ALWAYS: 999})
    with RayGrid(app, *settings) as grid:
        there = trained(config.changed(run_name="there"), grid)
    assert num_sums
    assert there[0] == here[0]
    own = here[1]["client"] != KILLS_ALWAYS  # here it raises, there its worker dies: its words are others
    assert here[1][own].equals(there[1][own])
    lost = there[1][~own]
    assert lost["status"].str.contains("killed its worker 2 times").all()
    [lie] = here[1][here[1]["client"] == LIES]["status"]
    assert lie == f"dropped: it answers round 77 for client {LIES}, the task was round 1 for client {LIES}"
