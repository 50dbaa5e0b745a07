"""The SuperLink of a federation as the ServerApp sees it: replies are lost, late, twice there, broken and forged."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import ARRAYS, CONFIG, PAYLOAD
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.simulations.testing import edited

from .clock import Clock

HARMLESS = ("twice", "slow", "clock off by little")
"""What may befall a reply that is in the mean all the same."""
SILENT = ("task lost", "reply lost", "late", "clock off by much")
"""What has it not be there in time."""
BROKEN = ("flipped", "cut", "error", "forged", "empty", "old")
"""What has it be there, and be none."""

TIMEOUT = 6.0
"""round-timeout, in simulated seconds."""


Task = tuple[int, int]
"""A round and a client."""


@dataclass(frozen=True)
class Outage:
    """The gate is cut off from the SuperLink from `start` on, for `seconds`; `is_ours`: the ServerApp is."""

    start: float
    seconds: float
    is_ours: bool = False

    def covers(self, when: float) -> bool:
        return self.start <= when < self.start + self.seconds


def task_of(message: Message) -> Task | None:
    """Which round and client a message is for; None: it asks a node who it is."""
    server_round, is_task, client = message.metadata.group_id.partition("/")
    return (int(server_round), int(client)) if is_task else None


def broken(fault: str, task: Message, reply: Message) -> Message:
    """What becomes of a reply by one of `BROKEN`."""
    if fault == "error":
        return Message(Error(2, "the ClientApp\x1b[31m raised"), reply_to=task)
    if fault == "empty":
        return Message(RecordDict({ARRAYS: ArrayRecord(), CONFIG: ConfigRecord()}), reply_to=task)
    if fault == "old":
        [number, _] = task_of(task) or (0, 0)
        return edited(task, reply, facts={"server-round": number + 1})
    data = bytearray(reply.content.array_records[ARRAYS][PAYLOAD].data)
    if fault == "flipped":
        data[len(data) // 2] ^= 16
        return edited(task, reply, payload=bytes(data))
    if fault == "cut":
        return edited(task, reply, payload=bytes(data[: len(data) // 2]))
    assert fault == "forged"
    reply.metadata.__dict__["_src_node_id"] = task.metadata.dst_node_id % 3 + 1
    return reply


class Clients(LocalGrid):
    """The clients themselves: every reply is there at once, but for those that `faults` befell. The oracle.

    A client without a memory is a function of its task, so what was asked before is in `known`.
    """

    def __init__(
        self,
        app: ClientApp,
        config: RunConfig,
        faults: Mapping[Task, str],
        known: dict[Any, RecordDict],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(app, config.cohort.num_clients, config.to_flower())
        self._faults, self._known, self._check = faults, known, check

    def answer(self, message: Message) -> Message:
        """What the client of a message replies."""
        facts = message.content.config_records[CONFIG]
        if facts.get("state"):
            reply = super()._answer(message)
            self._check()  # what ends the process is no failure of the client
            return reply
        arrays = message.content.array_records.get(ARRAYS, {})
        data = tuple((name, array.data) for name, array in arrays.items())
        key = (message.metadata.dst_node_id, task_of(message), tuple(map(str, facts.items())), data)
        if key not in self._known:
            self._known[key] = super()._answer(message).content
        return Message(self._known[key], reply_to=message)

    def _answer(self, message: Message) -> Message:
        fault = self._faults.get(task_of(message) or (0, 0), "")
        if fault in BROKEN:
            return broken(fault, message, self.answer(message))
        return Message(Error(0, "lost"), reply_to=message) if fault else self.answer(message)


class Link(Grid):
    """A SuperLink in simulated time, as Flower's Grid of a deployment shows it."""

    def __init__(
        self, clock: Clock, clients: Clients, seed: int, faults: Mapping[Task, str], outages: Iterable[Outage]
    ) -> None:
        self._clock, self._clients, self._faults = clock, clients, faults
        self._outages = [outage for outage in outages if not outage.is_ours]
        self._own_outages = [outage for outage in outages if outage.is_ours]
        self._draw = random.Random(seed)
        self._there: dict[str, list[tuple[float, Message]]] = {}
        self.held_up: set[Task] = set()
        """Whose replies an outage held up."""
        self.has_failed = False
        """Whether the ServerApp could not reach it."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """The tasks lie with the nodes from now on."""
        self._check_reach()
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What is there of the replies."""
        self._check_reach()
        found: list[Message] = []
        for name in message_ids:
            waiting = self._there.get(name, [])
            found += [reply for when, reply in waiting if when <= self._clock.now]
            self._there[name] = [(when, reply) for when, reply in waiting if when > self._clock.now]
        return found

    def _push(self, message: Message) -> str:
        self._clients.number(message)
        name, task = message.metadata.message_id, task_of(message)
        fault = self._faults.get(task, "") if task else ""
        when = self._clock.now + self._draw.uniform(0.0, 2.0)
        if fault == "slow":
            when = self._clock.now + self._draw.uniform(2.0, TIMEOUT - 1.0)
        if fault == "late":
            when = self._clock.now + self._draw.uniform(TIMEOUT + 0.1, 2 * TIMEOUT)
        for outage in self._outages:
            if outage.covers(self._clock.now) or outage.covers(when):
                when = max(when, outage.start + outage.seconds)
                if task:
                    self.held_up.add(task)
        if fault != "task lost":
            reply = self._clients.answer(message)
            if fault in BROKEN and reply.has_content() and ARRAYS in reply.content:
                reply = broken(fault, message, reply)
            ahead = {"clock off by little": (-300.0, 4.0), "clock off by much": (10.0, 1e6)}.get(fault, (0.0, 0.0))
            reply.metadata.__dict__["_created_at"] = self._clock.wall() + self._draw.uniform(*ahead)
            # Flower refuses the request of a node whose clock is so far off, so its reply never comes.
            if fault not in ("reply lost", "clock off by much"):
                self._there[name] = [(when, reply)] * (2 if fault == "twice" else 1)
        return name

    def _check_reach(self) -> None:
        if any(outage.covers(self._clock.now) for outage in self._own_outages):
            self.has_failed = True
            raise httpx.ConnectError("Connection refused")

    def get_node_ids(self) -> Iterable[int]:
        return self._clients.get_node_ids()

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=node, name="") for node in self.get_node_ids()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("Flower's own does not keep deadlines")

    def create_message(self, *args: Any, **options: Any) -> Message:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError
