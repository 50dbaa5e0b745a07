"""The strategy on devices that lag: the deadline of a round, over-sampling, and what becomes of late replies."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import Message

from fl_mlmc.clients.client_app import app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.app.server_app import run_directory
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies import device_grid
from fl_mlmc.strategies.device_grid import DeviceGrid
from fl_mlmc.strategies.tiered import TieredStrategy, from_arrays, to_arrays

Held = Callable[[int, int], bool]
"""Whether the reply of (client, round) is still on its way."""


class Link(LocalGrid):
    """A SuperLink that has every reply when it is asked for, if not `held`; tasks end with their time to live."""

    def __init__(self, config: RunConfig, held: Held, given: set[tuple[int, int]]) -> None:
        super().__init__(app, config.cohort.num_clients, config.to_flower())
        self._held, self._given, self._tasks, self._one = held, given, dict[str, Message](), threading.Lock()
        self._ttl = 2 * config.cohort.round_timeout

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        tasks = {message.metadata.message_id: message for message in map(self.number, messages)}
        assert {task.metadata.ttl for task in tasks.values() if task.metadata.message_type == "train"} <= {self._ttl}
        self._tasks |= tasks
        return list(tasks)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (name,) = message_ids
        task = self._tasks[name]
        facts = task.content.config_records[CONFIG]
        is_over = time.time() > task.metadata.created_at + task.metadata.ttl
        if is_over or ("client" in facts and self._held(facts["client"], facts["server-round"])):  # type: ignore[arg-type]
            return []
        with self._one:
            reply = self._answer(task)
            if "client" in facts:
                self._given.add((facts["client"], facts["server-round"]))  # type: ignore[arg-type]
            return [reply]

    def get_nodes(self) -> Any:
        return []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(threading.enumerate())
    monkeypatch.setattr(device_grid, "POLL_SECONDS", 0.01)
    yield
    for thread in (
        set(threading.enumerate()) - before
    ):  # late clients that still train would not survive the interpreter's end
        thread.join(30.0)


def run(config: RunConfig, held: Held, given: set[tuple[int, int]] | None = None) -> torch.Tensor:
    """The final model; `given` gets the (client, round) of every reply that was fetched."""
    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    strategy = TieredStrategy(config, model, RoundLog.create(run_directory(config), {}), str(data))
    start, grid = (
        to_arrays(model.initial(config.seed)),
        DeviceGrid(Link(config, held, set() if given is None else given)),
    )
    return from_arrays(strategy.start(grid, start, config.num_rounds, timeout=config.cohort.round_timeout).arrays)


def num_rounds_done(config: RunConfig) -> int:
    log = run_directory(config) / "rounds.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def test_a_reply_after_the_deadline_is_counted_in_a_later_round_and_changes_nothing(small: RunConfig) -> None:
    config = small.changed(engine="flower", num_rounds=4, clients_per_round=6)
    pace = config.changed(run_name="pace", num_rounds=1)
    run(pace, lambda client, in_round: False)
    seconds = max(4.0, 8 * read_rounds(run_directory(pace))["seconds"].max())  # enough for those who do not lag
    config = config.changed(round_timeout=seconds)
    given: set[tuple[int, int]] = set()

    def is_held(client: int, in_round: int) -> bool:
        """One until its round is over; the next round's until that one is there, which a fast round would not see."""
        if (client, in_round) == (2, 1):
            return num_rounds_done(config) < 1
        return in_round == 2 and (2, 1) not in given

    late = run(config, is_held, given)
    rounds, clients = read_rounds(run_directory(config)), read_clients(run_directory(config))
    assert clients[clients["client"] == 2]["status"].tolist() == ["dropped: no reply in time", "ok", "ok", "ok"]
    assert set(clients[clients["client"] != 2]["status"]) == {"ok"}
    assert rounds["num_late"].sum() == 1
    assert rounds["num_late"].iloc[0] == 0
    assert seconds - 0.1 < rounds["seconds"].iloc[0] < 1.5 * seconds
    assert rounds["seconds"].iloc[1:].max() < seconds
    never = config.changed(run_name="never")
    assert torch.equal(late, run(never, lambda client, in_round: (client, in_round) == (2, 1)))
    assert read_rounds(run_directory(never))["num_late"].sum() == 0


def test_over_sampling_ends_a_round_with_the_fastest(small: RunConfig) -> None:
    config = small.changed(
        engine="flower", num_rounds=4, clients_per_round=4, over_sampling=0.5, quorum=1.0, round_timeout=60.0
    )
    given: set[tuple[int, int]] = set()

    def is_held(client: int, in_round: int) -> bool:
        """The slow ones until their round is over; the others until the slow replies of the round before are there."""
        if client in (2, 5):
            return num_rounds_done(config) < in_round
        return in_round > 1 and not {(2, in_round - 1), (5, in_round - 1)} <= given

    run(config, is_held, given)
    rounds, clients = read_rounds(run_directory(config)), read_clients(run_directory(config))
    assert rounds["num_sampled"].tolist() == [6, 6, 6, 6]
    assert rounds["num_ok"].tolist() == [4, 4, 4, 4]
    assert set(clients[~clients["client"].isin([2, 5])]["status"]) == {"ok"}
    assert set(clients[clients["client"].isin([2, 5])]["status"]) == {"dropped: no reply in time"}
    assert rounds["seconds"].max() < 60.0
    assert rounds["num_late"].sum() >= 2
