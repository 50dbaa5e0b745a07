"""What strategies and clients say to each other, as plain values; both wrap them in Flower's records.

A train message carries one `Array` (the client's submodel as a payload, stype `PAYLOAD_STYPE`) and the fields of a
`TrainTask`; its reply one `Array` (the update) and the fields of a `TrainUpdate`. Schemes with several points or
messages number their arrays; `ANCHOR` and `MOVEMENT` travel beside them where a scheme asks for them. A client that
cannot give an update replies with a `TrainFailure` instead.
"""

import hashlib
import math
from collections.abc import Container, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache, lru_cache
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Self

PAYLOAD_STYPE = "fl_mlmc.payload/1"
ARRAYS, CONFIG, PAYLOAD = "arrays", "config", "payload"
ANCHOR = "anchor"
"""The array with the anchor that the points of this message are corrections of."""
MOVEMENT = "movement"
"""The array with how far the model moved in the round of the client's memory."""
ROSTER_ACTION = "roster"
"""The action of the query message that asks nodes for their RosterEntry."""


def payload_name(number: int) -> str:
    """The array of the scheme's point, or message, `number`, from 0."""
    return PAYLOAD if number == 0 else f"{PAYLOAD}-{number + 1}"


def payload_names(present: Container[str]) -> list[str]:
    """The arrays of points or messages that are `present`, in order."""
    return list(takewhile(lambda name: name in present, map(payload_name, count())))


class ProtocolError(ValueError):
    """A message from elsewhere breaks a rule of the protocol. Drop it, log the drop, go on."""


def printable(error: object, most: int = 500) -> str:
    """What was said by or of a client, fit for logs and terminals: one line, no control characters, not long."""
    text = "".join(character if character.isprintable() else " " for character in str(error)[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


class _Record:
    """A frozen dataclass of plain values that travels as a config record with dashed keys."""

    def to_config(self) -> dict[str, Any]:
        # What has its default is not sent: each key costs, and Flower cannot size an empty list or text.
        values = ((key, getattr(self, field.name), default) for field, key, default in _layout(type(self)))  # type: ignore[arg-type]
        return {key: value for key, value, default in values if value != default}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read it back; ProtocolError on a missing field or one of another type."""
        values = {}
        for field, key, default in _layout(cls):  # type: ignore[arg-type]
            value = config.get(key, list(default) if field.type is list else default)
            if type(value) is not field.type:
                raise ProtocolError(f"{cls.__name__} has {key} = {value!r}, expected {field.type}")
            values[field.name] = value
        return cls(**values)


@cache
def _layout(kind: type) -> list[tuple["Field[Any]", str, Any]]:
    """The fields of a record, the keys they travel under, and what they are if nothing travels; None: it must."""
    return [(field, field.name.replace("_", "-"), _default(field)) for field in fields(kind)]


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return [] if field.type is list else None


@dataclass(frozen=True)
class TrainTask(_Record):
    """What the server asks: train the submodel of `width` as client number `client`."""

    server_round: int
    client: int
    tier: str
    width: float
    data: str
    """Where the prepared data lies, for clients that share the server's disk."""
    state: str = ""
    """Where clients that share the server's disk keep their memories; empty: the scheme has none."""
    memory_round: int = 0
    """The round whose memory the client must have, because its message was taken then; 0: none yet."""
    checkpoint_round: int = 0
    """The round whose memory the client must keep, because the last checkpoint counts on it; 0: none yet."""
    rank: int = 0
    """The client's place in the cohort, from 0."""
    cohort_size: int = 1
    gradients: int = 1
    """Minibatch gradients to take, and messages to send of them, where the scheme sets a client's work by its pace."""
    messages: int = 1
    data_meta: str = ""
    """What the run's data set is, for devices that bring examples of their own."""
    uplink_budget: int = 0
    """Bytes that the payload may have, as the node's own config says; 0: any."""


@dataclass(frozen=True)
class TrainUpdate(_Record):
    """What the client sends beside its payload: update = after − before, over its own submodel."""

    server_round: int
    client: int
    code_stamp: str
    num_examples: int
    num_steps: int
    train_loss: float
    train_seconds: float
    encode_seconds: float
    expected_bits: float
    levels: list
    probabilities: list
    labels: list
    """The classes among the client's examples, where the run averages by label; otherwise empty."""
    compressor: str = ""
    """What compressed the update, where that was not the run's own: a device chose a smaller fraction."""
    curvature: float = math.inf
    """vᵀHv / ‖v‖² as a bilevel client measured it; infinite where nothing was measured."""


@dataclass(frozen=True)
class TrainFailure(_Record):
    """Why a client has no update to send."""

    server_round: int
    client: int
    failure: str
    curvature: float = math.inf
    """Along v, as a bilevel client saw it before its steps diverged, NaN if it did not; infinite: another failure."""


@dataclass(frozen=True)
class RosterEntry(_Record):
    """Who a node is: the clients it hosts are first, first + stride, … below the run's number of clients."""

    first: int
    stride: int
    tier: str
    """The tier it declares; empty where the run's shares decide."""
    node: str
    """A name that repeats from run to run."""
    code_stamp: str


def code_stamp() -> str:
    """A digest of the source that both sides run: the files of `fl_mlmc` and `clients`.

    The server compares it with each client's: a client that runs other code is left out by name, not averaged in.
    """
    return stamp_of("clients", "fl_mlmc")


@lru_cache(maxsize=4)
def stamp_of(*packages: str) -> str:
    """A digest of the source files of packages."""
    root = Path(__file__).parents[2]
    digest = hashlib.blake2b(digest_size=8)
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
