"""A group that is summed elsewhere comes to the bytes, the rows and the reasons of one that is summed here."""

import itertools
import pickle
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_mlmc.aggregation import Groups
from fl_mlmc.clients import client_app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.frames import read_clients
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies.summing import Sum, Summed, SummingGrid
from fl_mlmc.strategies.tiered import QuorumError, TieredStrategy, from_arrays, to_arrays

LIES, STRAYS, FAILS, GIVEN_UP = 0, 2, 3, 4


class Apart(LocalGrid, SummingGrid):
    """Sums groups by three workers of which each knows what was pickled alone; the last group ends first."""

    def sum_and_receive(
        self, messages: Iterable[Message], groups: Groups, summing: Sum, *, timeout: float | None = None
    ) -> Iterator[Any]:
        workers = [pickle.loads(pickle.dumps(summing)) for _ in range(3)]
        for worker in workers if self.server_stamp else ():
            worker._server_stamp = self.server_stamp
        sent = list(messages)
        for number, worker in zip(reversed(range(len(groups))), itertools.cycle(workers), strict=False):
            own = [sent[rank] for rank in groups.ranks(number)]
            if number == len(groups) - 2:  # one that is answered client by client
                yield from self.send_and_receive(own)
                continue
            lost = [each for each in own if each.content.config_records[CONFIG]["client"] == GIVEN_UP]
            yield from self.send_and_receive(lost)
            kept = [each for each in own if each not in lost]
            found = worker((each, next(iter(self.send_and_receive([each])))) for each in kept)
            self.sums.append(pickle.loads(pickle.dumps(found)))
            yield self.sums[-1]

    sums: list[Summed]
    server_stamp = ""


def app() -> ClientApp:
    """Clients of which some break rules."""
    made = ClientApp()

    @made.query("roster")
    def who(message: Message, context: Context) -> Message:
        return client_app.who(message, context)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        client = message.content.config_records[CONFIG]["client"]
        if client in (FAILS, GIVEN_UP):
            raise ValueError("on purpose")
        reply = client_app.train(message, context)
        if client == LIES:
            reply.content.config_records[CONFIG]["server-round"] = 77
        if client == STRAYS:
            reply.metadata.__dict__["_group_id"] = "1/1"
        return reply

    return made


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


SUMMED: dict[str, dict[str, Any]] = {
    "rolling": {"width_rule": "rolling", "evaluate_clients": 0.2},
    "memory": {"scheme": "ef21", "compressor": "TopK(fraction=0.2)"},
    "dealt out": {"scheme": "tamuna(0.1, 0.5, overlap=3)", "local_steps": 0, "compressor": "Identity()"},
    "labels": {"average_by_label": True, "masked_cross_entropy": True},
    "fednova": {"weighting": "fednova"},
}
SINGLE: dict[str, dict[str, Any]] = {
    "median": {"aggregation": "median", "compressor": "Identity()"},
    "workloads": {"scheme": "shadowheart(noise=20.0)", "local_steps": 0, "compressor": "RandK(fraction=0.5)",
                  "tiers": "fast:1:0.5:speed=1e-3:up=1e5,slow:1:0.5:speed=5e-4:up=2e4"},
}  # fmt: skip


@pytest.mark.parametrize("name", [*SUMMED, *SINGLE])
def test_where_a_group_is_summed_changes_nothing(small: RunConfig, name: str) -> None:
    config = small.changed(num_clients=12, clients_per_round=12, **(SUMMED | SINGLE)[name])
    settings = app(), config.cohort.num_clients, config.to_flower()
    here = trained(config, LocalGrid(*settings))
    grid = Apart(*settings)
    grid.sums = []
    there = trained(config.changed(run_name="there"), grid)
    assert bool(grid.sums) == (name in SUMMED)
    assert there[0] == here[0]
    assert there[1].equals(here[1])
    reasons = here[1].groupby("client")["status"].first().to_dict()
    dropped = {
        LIES: "dropped: it answers round 77 for client 0, the task was round 1 for client 0",
        STRAYS: "dropped: no reply in time",
        FAILS: "dropped: error 2: 'ValueError: on purpose'",
        GIVEN_UP: "dropped: error 2: 'ValueError: on purpose'",
    }
    assert len(reasons) == 12 or name == "workloads"  # who has no time is not asked
    assert reasons == {client: dropped.get(client, "ok") for client in reasons}


def test_clients_must_run_the_servers_code_and_not_that_of_the_worker(small: RunConfig) -> None:
    config = small.changed(num_clients=6, clients_per_round=6, num_rounds=1)
    grid = Apart(app(), config.cohort.num_clients, config.to_flower())
    grid.sums, grid.server_stamp = [], "another"
    with suppress(QuorumError):
        trained(config, grid)
    rows = read_clients(Path(config.output.runs_dir) / config.output.run_name)
    summed = [client for found in grid.sums for client, _ in found.taken if client not in (LIES, STRAYS, FAILS)]
    assert summed
    told = rows.set_index("client")["status"][summed]
    assert told.str.match("dropped: it runs code '[0-9a-f]{16}', the server runs another").all()
