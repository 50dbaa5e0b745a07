"""A round under way: all that the server knows of it, from the draw of its cohort until its row is in the log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from flwr.app import Message
from torch import Tensor

from fl_mlmc.aggregation import GroupSum, Mean
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.run.protocol import TrainFailure, TrainTask, TrainUpdate
from fl_mlmc.submodels import IndexPlan

from .broadcast import Broadcast
from .roster import Seat
from .scheme_server import Gathering

Row = dict[str, Any]
"""A row of the round log, by column."""


class Asked(NamedTuple):
    """A client's task, and the coordinates of the model that it is about: all that it takes to read the reply."""

    task: TrainTask
    plan: IndexPlan


class Taken(NamedTuple):
    """What came of a reply, wherever it was taken."""

    payload_bytes: int = 0
    message_bytes: int = 0
    update: TrainUpdate | None = None
    """What is in the sums; None: nothing."""
    reason: str = ""
    """Why there is no update; empty if there is one."""
    failure: TrainFailure | None = None
    """What the client says, where it says itself that it has no update."""
    trace: str = ""
    """Where an error arose that nobody foresaw."""
    num_steps: int | None = None
    """What the client did, where its reply could be read."""


@dataclass(frozen=True)
class Sent:
    """A client's task in a round, and what was sent along with it."""

    task: TrainTask
    seat: Seat
    plan: IndexPlan
    downlink_bytes: int = 0
    anchor_bytes: int = 0
    """The part of them that the client fetched before the round."""


@dataclass(frozen=True)
class Answer:
    """What came of a client's task: an update that is in the round's means, or the reason why there is none."""

    sent: Sent
    payload_bytes: int = 0
    message_bytes: int = 0
    update: TrainUpdate | None = None
    reason: str = ""
    """Why there is no update; empty if there is one."""
    simulated_seconds: float | None = None
    """How long the round waited for it, on the simulated clock; None: it did no work that is known."""
    begins: float = 0.0
    """What the simulated clock read when it was asked."""
    failure: TrainFailure | None = None
    """What the client says, where it says itself that it has no update."""

    @classmethod
    def of(cls, sent: Sent, taken: Taken) -> "Answer":
        """That of a client whose reply was taken."""
        return cls(
            sent,
            taken.payload_bytes,
            taken.message_bytes,
            update=taken.update,
            reason=taken.reason,
            failure=taken.failure,
        )


class Reading(NamedTuple):
    """A reply as it was read, not yet in the means: its answer, with the update or a reason, and its payloads."""

    answer: Answer
    payloads: Sequence[Payload] = ()


@dataclass(eq=False)
class OpenRound:
    """One round of a strategy. Its cohort, model and broadcast are set when it begins; the rest comes in."""

    number: int
    """From 1."""
    started: float
    """By `time.perf_counter`."""
    vector: Tensor
    """The model that is broadcast: flat, float32 of shape (size,)."""
    cohort: tuple[int, ...]
    """The clients sampled, ascending."""
    gathering: Gathering
    broadcast: Broadcast
    quorum: int
    """Updates that must be taken."""
    sent: dict[int, Sent] = field(default_factory=dict)
    """What each client was sent; an engine may ask for messages one by one, so it may still grow."""
    factors: Mapping[int, float] = field(default_factory=dict)
    """On the weights of the clients sampled, where not all are as likely to be."""
    wanted: int = 0
    """Good replies after which the round is over, the first by the simulated clock; 0: it waits for all."""
    deadline: float = math.inf
    """Simulated seconds after which the round is over."""
    waited_seconds: float = 0.0
    """Simulated seconds until enough clients were on."""
    num_late: int = 0
    """Replies to earlier rounds that came since the last one."""
    answers: list[Answer] = field(default_factory=list)
    """Of the cohort, in its order, as far as they are in."""
    sums: dict[int, list[GroupSum]] = field(default_factory=dict)
    """Of groups that were summed where they arose and are not in the means yet, by number."""
    mean: Mean | None = None
    """What all updates come to, once it is known."""
    aggregate_seconds: float = 0.0
    """Spent on answers, the mean and the step."""
    row: Row = field(default_factory=dict)
    """The log's row of the round, once it is aggregated."""

    @property
    def simulated_seconds(self) -> float:
        """How long the round takes on the simulated clock, with the wait before it."""
        return self.waited_seconds + max((answer.simulated_seconds or 0.0 for answer in self.answers), default=0.0)

    @property
    def taken(self) -> list[TrainUpdate]:
        """The updates that are in the means."""
        return [answer.update for answer in self.answers if answer.update is not None]

    def group_id(self, client: int) -> str:
        """The name of a client's task, which comes back on every reply, errors included."""
        return f"{self.number}/{client}"

    def client_of(self, reply: Message) -> int | None:
        """The client whose task `reply` answers; None if it answers none of this round, or comes from elsewhere."""
        # Looked up, not read: a reply calls itself what it likes.
        client = self._clients.get(reply.metadata.group_id)
        if client is None or client not in self.sent:
            return None
        return client if self.sent[client].seat.node_id == reply.metadata.src_node_id else None

    @cached_property
    def _clients(self) -> dict[str, int]:
        return {self.group_id(client): client for client in self.cohort}
