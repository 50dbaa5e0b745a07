"""A round of `Decoding`: what each client was sent, what came of it, and the rows that this leaves in the log."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING

import torch
from flwr.app import Array, ArrayRecord, Error, Message
from flwr.common.logger import log

from fl_mlmc.aggregation import Mean, NotFiniteError
from fl_mlmc.run.coded import num_bytes
from fl_mlmc.run.npy import FLOATS, read_npy, to_floats
from fl_mlmc.run.protocol import printable, reason_of

from .decoded import NUMPY, Decoded, Rules, Sent, decode_reply
from .decoded_tiers import Placed, Tiers
from .round import Row
from .rows import one_or_all

LOSSES = ("train_loss", "train-loss", "loss")
"""What apps call the loss of their training; the first that is there is the log's `train_loss`."""
UNKNOWN = 0  # flwr's ErrorCode.UNKNOWN

_Key = tuple[int, str]
"""A node and a message's group: by these a reply is told."""


@dataclass(eq=False)
class Outcome:
    """What came of one message."""

    node: int
    sent: Sent
    reply: Message | None = None
    decoded: Decoded | None = None
    reason: str = "no reply in time"
    """Why nothing was taken of it; empty if it was."""
    payload_bytes: int = 0
    message_bytes: int = 0
    downlink_bytes: int = 0
    plain_bytes: int | None = None
    """What `message_bytes` would be without compression; None if nothing was taken."""
    whole: Sent = field(default_factory=dict)
    """The arrays before a tier's submodel was cut out of them."""
    placed: Placed | None = None
    """Where its update lies in the model, where the run has tiers."""

    @property
    def client(self) -> int:
        """The number that the client says it has; its node's id where it says none."""
        return self.decoded.facts.client if self.decoded and self.decoded.facts else self.node

    def take(self, reply: Message, rules: Rules, tiers: Tiers | None) -> None:
        """Read the reply to the message; the first one counts."""
        self.reply = reply
        try:
            if reply.has_content():
                arrays = reply.content.array_records.values()
                self.payload_bytes = sum(len(array.data) for record in arrays for array in record.values())
                self.message_bytes = num_bytes(reply.content.values())
            sent, width = self.sent, 1.0
            if tiers and reply.has_content():
                width, sent = tiers.received(reply, self.node, self.sent)
            self.decoded, self.reason = decode_reply(reply, sent, rules), ""
            self.plain_bytes = self.decoded.plain_bytes
            if tiers:
                self.placed, self.sent = tiers.placed(self.decoded, width, sent, self.whole), sent
        except Exception as error:  # a reply is of somebody else's making: whatever it raises costs it alone
            self.drop(reason_of(error))

    def drop(self, reason: str) -> None:
        """Take nothing of the reply."""
        self.decoded, self.plain_bytes, self.reason = None, None, reason

    def told(self) -> Message | None:
        """The reply as the strategy inside is to get it; one with an error where nothing was taken of it."""
        if self.reply is None or self.reply.has_error():
            return self.reply
        if self.decoded is None:
            return Message(metadata=self.reply.metadata, error=Error(UNKNOWN, self.reason))  # type: ignore[call-overload]
        self.reply.content = self.decoded.content
        return self.reply

    def row(self, server_round: int, tiers: Tiers | None) -> Row:
        """The client's row of clients.jsonl."""
        facts, metrics = (self.decoded.facts, self.decoded.metrics) if self.decoded else (None, {})
        arrays = [array for record in self.sent.values() for array in record.values()]
        width = self.placed.width if self.placed else 1.0
        return {
            "round": server_round,
            "client": self.client,
            "node": str(self.node),
            "tier": tiers.name(width) if tiers else "full",
            "width": width,
            "num_examples": self.decoded.num_examples if self.decoded else None,
            "num_parameters": sum(math.prod(array.shape) for array in arrays if array.dtype in FLOATS),
            "compressor": facts.compressor if facts else "none",
            "level": one_or_all(facts.levels) if facts else None,
            "probability": one_or_all(facts.probabilities) if facts else None,
            "payload_bytes": self.payload_bytes,
            "message_bytes": self.message_bytes,
            "plain_bytes": self.plain_bytes,
            "downlink_bytes": self.downlink_bytes,
            "expected_bits": facts.expected_bits if facts else None,
            "encode_seconds": facts.encode_seconds if facts else None,
            "train_loss": next((metrics[name] for name in LOSSES if name in metrics), None),
            "status": f"dropped: {self.reason}" if self.reason else "ok",
        }


@dataclass(eq=False)
class DecodedRound:
    """One round. `arrays` are the weights of the model that it begins with."""

    number: int
    arrays: Mapping[str, Array]
    outcomes: dict[_Key, Outcome] = field(default_factory=dict)
    row: Row = field(default_factory=dict)
    """Of rounds.jsonl, once the replies are in."""
    mean: Mean | None = None
    """Of the updates, where the run has tiers."""
    metrics: Row = field(default_factory=dict)
    """What the strategy and the app say of the round, by the names that they give it."""
    started: float = field(default_factory=time.perf_counter)

    def remember(self, message: Message, whole: Sent) -> None:
        """Keep what a message holds, before it is sent; ValueError where it cannot be told from one before it.

        `whole`: the same before tiers cut it.
        """
        key = (message.metadata.dst_node_id, message.metadata.group_id)
        if key in self.outcomes:
            raise ValueError(
                f"node {key[0]} gets two messages of group {key[1]!r} in round {self.number}, whose replies cannot be "
                "told apart: give each a group_id of its own"
            )
        sent = arrays_of(message)
        downlink_bytes = sum(len(array.data) for record in sent.values() for array in record.values())
        self.outcomes[key] = Outcome(key[0], sent, downlink_bytes=downlink_bytes, whole=whole)

    def take(self, replies: Iterable[Message], rules: Rules, tiers: Tiers | None) -> list[Outcome]:
        """What came of each message, in an order that does not depend on which reply came first."""
        for reply in replies:
            outcome = self.outcomes.get((reply.metadata.src_node_id, reply.metadata.group_id))
            if outcome is None or outcome.reply is not None:
                log(WARNING, "ignored a reply of node %d that answers no open message", reply.metadata.src_node_id)
            else:
                outcome.take(reply, rules, tiers)
        ordered = sorted(self.outcomes.values(), key=lambda outcome: (outcome.client, outcome.node))
        _drop_odd(ordered)
        if tiers:
            taken = ((each.node, each.decoded, each.placed) for each in ordered if each.decoded and each.placed)
            self.mean = tiers.fill(taken)
            for outcome in ordered:
                if outcome.reason:
                    tiers.forget(outcome.node)
        for outcome in ordered:
            if outcome.reason:
                log(WARNING, "node %d dropped in round %d: %s", outcome.node, self.number, outcome.reason)
        return ordered

    def close(self, arrays: ArrayRecord | None) -> None:
        """Note what the strategy made of the round: its next model, or none; NotFiniteError if that is not finite."""
        self.row["seconds"] = time.perf_counter() - self.started
        self.row["update_norm"] = 0.0 if arrays is None else _moved(self.arrays, arrays)


def arrays_of(message: Message) -> Sent:
    """The arrays of a message, which are kept when its records are taken apart."""
    return {name: dict(record) for name, record in message.content.array_records.items()}


def _drop_odd(outcomes: list[Outcome]) -> None:
    """Drop replies that cannot be averaged with most of the others."""
    forms = Counter(outcome.decoded.form for outcome in outcomes if outcome.decoded)
    if len(forms) < 2:
        return
    usual = forms.most_common(1)[0][0]
    for outcome in outcomes:
        if outcome.decoded and outcome.decoded.form != usual:
            odd = min(map(str, set(outcome.decoded.form) ^ set(usual)), default="their order")
            outcome.drop(f"its arrays and metrics are not those of most replies, they differ in {printable(odd, 200)}")


def _moved(before: Mapping[str, Array], after: ArrayRecord) -> float:
    """‖after − before‖ over the arrays of floating point that both have."""
    square = 0.0
    for key, new in after.items():
        if new.dtype not in FLOATS or new.stype != NUMPY:
            continue
        values = to_floats(read_npy(new.data, new.dtype, new.shape), new.dtype)
        if not bool(values.isfinite().all()):
            raise NotFiniteError(
                f"the strategy made array {key!r} not finite, although every update is: set max_update_norm"
            )
        old = before.get(key)
        if old is not None and old.dtype in FLOATS and old.stype == NUMPY and old.shape == new.shape:
            moved = values - to_floats(read_npy(old.data, old.dtype, old.shape), old.dtype)
            square += float(torch.linalg.vector_norm(moved, dtype=torch.float64)) ** 2
    return math.sqrt(square)
