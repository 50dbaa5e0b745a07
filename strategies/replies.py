"""What comes back from clients: whether a reply keeps the rules, and how long it is.

Every reply is taken for hostile. One that breaks a rule raises ProtocolError or WireError, both ValueErrors; the
strategy counts on neither: whatever a reply raises costs its own client only. What a client says stands in quotes, so
that it cannot pose as what we say.
"""

from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message

from fl_mlmc import parse
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.compression.wire import decode_payload
from fl_mlmc.own import References
from fl_mlmc.run.config.aggregation import AggregationConfig
from fl_mlmc.run.protocol import (
    ARRAYS,
    CONFIG,
    PAYLOAD_STYPE,
    ProtocolError,
    TrainFailure,
    TrainUpdate,
    code_stamp,
    payload_name,
)

from .round import Asked, Sent


class ClientFailed(ProtocolError):
    """A client says that it has no update to send, and why."""

    def __init__(self, failure: TrainFailure) -> None:
        super().__init__(f"it says {failure.failure!r}")
        self.failure = failure


def sizes(reply: Message | None) -> tuple[int, int]:
    """Bytes of a reply's payloads, and of all that it holds; ProtocolError if Flower cannot tell."""
    if reply is None or not reply.has_content():
        return 0, 0
    records = list(reply.content.values())
    arrays = (array for record in records if isinstance(record, ArrayRecord) for array in record.values())
    try:
        message_bytes = sum(record.count_bytes() for record in records)
    except IndexError:  # Flower looks at the first item of every list
        raise ProtocolError("it holds an empty list, and has no length by Flower's count") from None
    return sum(len(array.data) for array in arrays), message_bytes


def read_update(
    reply: Message | None,
    asked: "Asked | Sent",
    limits: AggregationConfig,
    num_messages: int = 1,
    follow: References = (),
    server_stamp: str = "",
) -> tuple[TrainUpdate, list[Payload]]:
    """The update and the payloads of a reply; ProtocolError or WireError says which rule it breaks.

    `follow`: the parts of the user's own that the client's compressor may name, those of the run's. `server_stamp`: of
    the code that the server runs, where that is another process than this one.
    """
    if reply is None:
        raise ProtocolError("no reply in time")
    if reply.has_error():
        raise ProtocolError(f"error {reply.error.code}: {last_line(reply.error.reason)!r}")
    records = dict(reply.content)
    facts, arrays = records.get(CONFIG), records.get(ARRAYS)
    if not isinstance(facts, ConfigRecord):
        raise ProtocolError(f"it has no config record {CONFIG!r}")
    if "failure" in facts:
        raise ClientFailed(TrainFailure.from_config(facts))
    update = TrainUpdate.from_config(facts)
    if (update.server_round, update.client) != (asked.task.server_round, asked.task.client):
        raise ProtocolError(
            f"it answers round {update.server_round} for client {update.client}, the task was round "
            f"{asked.task.server_round} for client {asked.task.client}"
        )
    if update.code_stamp != (wanted := server_stamp or code_stamp()):
        raise ProtocolError(f"it runs code {update.code_stamp!r}, the server runs {wanted}")
    if update.num_examples > limits.max_examples:
        raise ProtocolError(f"it declares {update.num_examples} examples, 1 to {limits.max_examples} are allowed")
    if update.compressor:
        update = replace(update, compressor=repr(parse(update.compressor, follow)))
    names = [payload_name(number) for number in range(num_messages)]
    payloads = [read_payload(arrays, name, asked.plan.size) for name in names]
    for payload in payloads if limits.max_update_norm else ():
        if not (norm := float(payload.dense().norm())) <= limits.max_update_norm:
            raise ProtocolError(f"its update has norm {norm:.4g}, max-update-norm is {limits.max_update_norm:g}")
    return update, payloads


def read_payload(arrays: object, name: str, size: int) -> Payload:
    """The payload in array `name` of a record, over `size` coordinates; ProtocolError or WireError if it is none."""
    array = arrays.get(name) if isinstance(arrays, ArrayRecord) else None
    expected = ("float32", PAYLOAD_STYPE, (size,))
    if array is None or (array.dtype, array.stype, array.shape) != expected:
        found = "no array" if array is None else f"dtype {array.dtype!r}, stype {array.stype!r} and shape {array.shape}"
        raise ProtocolError(f"its {name} has {found}, expected {expected[0]!r}, {expected[1]!r} and {expected[2]}")
    return decode_payload(array.data, size)


def last_line(reason: str | None) -> str:
    """The last line of an error's reason, which names the error; never empty."""
    lines = (reason or "no reason given")[-2000:].strip().splitlines()
    return lines[-1] if lines else "no reason given"
