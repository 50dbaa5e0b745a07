"""What strategies and clients say to each other, as plain values; both wrap them in Flower's records.

A train message carries one `Array` (the client's submodel as a payload, stype `PAYLOAD_STYPE`) and the fields of a
`TrainTask`; its reply one `Array` (the update) and the fields of a `TrainUpdate`. Schemes with several points or
messages number their arrays; `ANCHOR` and `MOVEMENT` travel beside them where a scheme asks for them. A client that
cannot give an update replies with a `TrainFailure` instead.
"""

import hashlib
import math
from collections.abc import Container, Mapping
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as made
from functools import cache, lru_cache
from itertools import count, takewhile
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints

from ..rooms import files
from .ranges import Between, ListOf, Range, Text

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
    try:
        said = str(error)
    except Exception:  # an error of somebody else's code may fail even at this
        said = f"{type(error).__name__}, which does not say what it is"
    text = "".join(character if character.isprintable() else " " for character in said[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def reason_of(error: Exception) -> str:
    """Why a message is dropped, fit for logs: what a ValueError says; any other error by its name too."""
    return printable(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {printable(error)}"


MOST = 2**31
"""Of what is counted: rounds, clients, examples, steps, levels."""
MOST_DRAWS = 254
"""As many as MLMC can draw; a row in the log holds them all."""
MOST_BITS = 1e15
MOST_SECONDS = 1e9
"""Thirty years."""
LARGEST = 3.4028235e38
"""Of the numbers in float32, rounded up."""

Count = Annotated[int, Between(0, MOST)]
Seconds = Annotated[float, Between(0, MOST_SECONDS)]
Location = Annotated[str, Text(5000, has_lines=True)]
Name = Annotated[str, Text(100)]


class Record:
    """A frozen dataclass of plain values that travels as a config record with dashed keys.

    Every field is annotated with its type and its range: what comes from elsewhere is held to both.
    """

    def to_config(self) -> dict[str, Any]:
        """The fields by their keys, without those that have their default."""
        # Each key costs, and Flower cannot size an empty list or text.
        values = ((field, getattr(self, field.name)) for field in _layout(type(self)))  # type: ignore[arg-type]
        return {field.key: value for field, value in values if value != field.default}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read it back; ProtocolError on a field that is missing, of another type or out of its range."""
        values: dict[str, Any] = {}
        for field in _layout(cls):  # type: ignore[arg-type]
            value: Any = config.get(field.key, field.default)
            is_allowed = type(value) is field.kind and value in field.range
            if not is_allowed:
                raise ProtocolError(
                    f"{cls.__name__} has {field.key} = {_shown(value)}, expected {field.kind.__name__} {field.range}"
                )
            values[field.name] = list(value) if field.kind is list else value
        return cls(**values)


class _Field(NamedTuple):
    """A field of a record: the key that it travels under, what it may be, and what it is if nothing travels."""

    name: str
    key: str
    kind: type
    range: Range
    default: Any
    """None: it must travel."""


@cache
def _layout(record: type[Record]) -> list[_Field]:
    hints = get_type_hints(record, include_extras=True)
    laid_out = []
    for field in fields(record):  # type: ignore[arg-type]
        kind, allowed = get_args(hints[field.name])
        default = field.default if field.default is not MISSING else [] if kind is list else None
        laid_out.append(_Field(field.name, field.name.replace("_", "-"), kind, allowed, default))
    return laid_out


def _shown(value: object) -> str:
    if isinstance(value, str | bytes | list):
        value = value[:60]  # the rest would be cut off all the same
    try:
        return printable(repr(value), 60)
    except ValueError:  # there are more than Python writes out
        return "a number of too many digits to show"


@dataclass(frozen=True)
class TrainTask(Record):
    """What the server asks: train the submodel of `width` as client number `client`."""

    server_round: Count
    client: Count
    tier: Name
    width: Annotated[float, Between(0, 1, is_open=True)]
    data: Location
    """Where the prepared data lies, for clients that share the server's disk."""
    state: Location = ""
    """Where clients that share the server's disk keep their memories; empty: the scheme has none."""
    memory_round: Count = 0
    """The round whose memory the client must have, because its message was taken then; 0: none yet."""
    checkpoint_round: Count = 0
    """The round whose memory the client must keep, because the last checkpoint counts on it; 0: none yet."""
    rank: Count = 0
    """The client's place in the cohort, from 0."""
    cohort_size: Count = 1
    gradients: Count = 1
    """Minibatch gradients to take, and messages to send of them, where the scheme sets a client's work by its pace."""
    messages: Count = 1
    data_meta: Annotated[str, Text(10**6, has_lines=True)] = ""
    """What the run's data set is, for devices that bring examples of their own."""
    uplink_budget: Annotated[int, Between(0, 2**62)] = 0
    """Bytes that the payload may have, as the node's own config says; 0: any."""
    base: Name = ""
    """`Model.base_digest` of the server's model, of what never travels and must be the same here; empty: all does."""


@dataclass(frozen=True)
class TrainUpdate(Record):
    """What the client sends beside its payload: update = after − before, over its own submodel."""

    server_round: Count
    client: Count
    code_stamp: Name
    num_examples: Annotated[int, Between(1, MOST)]
    num_steps: Count
    train_loss: Annotated[float, Between(-LARGEST, LARGEST)]
    train_seconds: Seconds
    encode_seconds: Seconds
    expected_bits: Annotated[float, Between(0, MOST_BITS)]
    levels: Annotated[list, ListOf(int, Between(1, MOST), MOST_DRAWS)]
    probabilities: Annotated[list, ListOf(float, Between(0, 1, is_open=True), MOST_DRAWS)]
    """The chance of each of the levels to be drawn."""
    labels: Annotated[list, ListOf(int, Between(0, MOST), 10**6)]
    """The classes among the client's examples, where the run averages by label; otherwise empty."""
    held_out_examples: Count = 0
    """Those that the model was evaluated on as it came, before the client trained it; 0: it was not."""
    held_out_metrics: Annotated[list, ListOf(float, Between(-math.inf, math.inf, or_nan=True), 100)] = made(
        default_factory=list
    )
    """Its loss and the run's metrics on them, in the order of `TrainingConfig.metric_names`."""
    compressor: Annotated[str, Text(200)] = ""
    """What compressed the update, where that was not the run's own: a device chose a smaller fraction."""
    curvature: Annotated[float, Between(-LARGEST, math.inf)] = math.inf
    """vᵀHv / ‖v‖² as a bilevel client measured it; infinite where nothing was measured."""


@dataclass(frozen=True)
class TrainFailure(Record):
    """Why a client has no update to send."""

    server_round: Count
    client: Count
    failure: Annotated[str, Text(10_000, has_lines=True)]
    curvature: Annotated[float, Between(-LARGEST, math.inf, or_nan=True)] = math.inf
    """Along v, as a bilevel client saw it before its steps diverged, NaN if it did not; infinite: another failure."""


@dataclass(frozen=True)
class RosterEntry(Record):
    """Who a node is: the clients it hosts are first, first + stride, … below the run's number of clients."""

    first: Count
    stride: Count
    tier: Name
    """The tier it declares; empty where the run's shares decide."""
    node: Name
    """A name that repeats from run to run."""
    code_stamp: Name


def code_stamp() -> str:
    """A digest of the source that both sides run: the files of `fl_mlmc` and `clients`.

    The server compares it with each client's: a client that runs other code is left out by name, not averaged in.
    """
    return stamp_of("clients", "fl_mlmc")


@lru_cache(maxsize=4)
def stamp_of(*packages: str) -> str:
    """A digest of the source files of packages."""
    digest = hashlib.blake2b(digest_size=8)
    for package in packages:
        for name, path in files(package):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
