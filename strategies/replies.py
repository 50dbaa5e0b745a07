"""What comes back from clients: which task a reply answers, whether it keeps the rules, and how long it is.

Every reply is taken for hostile. One that breaks a rule raises ProtocolError or WireError, both ValueErrors; the
strategy counts on neither: whatever a reply raises costs its own client only. What a client says stands in quotes, so
that it cannot pose as what we say.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.common.logger import log

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

from .round import OpenRound, Sent


class ClientFailed(ProtocolError):
    """A client says that it has no update to send, and why."""

    def __init__(self, failure: TrainFailure) -> None:
        super().__init__(f"it says {failure.failure!r}")
        self.failure = failure


def in_client_order(opened: OpenRound, replies: Iterable[Message]) -> Iterator[tuple[int, Message | None]]:
    """Pair every client of the cohort with its reply, in ascending order; None for one that never came.

    Sums of floats depend on their order, and replies come in any. A reply is held back only while one before it is out.
    """
    waiting: dict[int, Message] = {}
    seen: set[int] = set()
    num_given = 0
    for reply in replies:
        client = opened.client_of(reply)
        if client is None or client in seen:
            log(WARNING, "ignored a reply of node %d that answers no open task", reply.metadata.src_node_id)
            continue
        seen.add(client)
        waiting[client] = reply
        while num_given < len(opened.cohort) and (awaited := opened.cohort[num_given]) in waiting:
            yield awaited, waiting.pop(awaited)
            num_given += 1
    for client in opened.cohort[num_given:]:
        yield client, waiting.pop(client, None)


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
    reply: Message | None, sent: Sent, limits: AggregationConfig, num_messages: int = 1, follow: References = ()
) -> tuple[TrainUpdate, list[Payload]]:
    """The update and the payloads of a reply; ProtocolError or WireError says which rule it breaks.

    `follow`: the parts of the user's own that the client's compressor may name, those of the run's.
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
    if (update.server_round, update.client) != (sent.task.server_round, sent.task.client):
        raise ProtocolError(
            f"it answers round {update.server_round} for client {update.client}, the task was round "
            f"{sent.task.server_round} for client {sent.task.client}"
        )
    if update.code_stamp != code_stamp():
        raise ProtocolError(f"it runs code {update.code_stamp!r}, the server runs {code_stamp()}")
    if update.num_examples > limits.max_examples:
        raise ProtocolError(f"it declares {update.num_examples} examples, 1 to {limits.max_examples} are allowed")
    if update.compressor:
        update = replace(update, compressor=repr(parse(update.compressor, follow)))
    names = [payload_name(number) for number in range(num_messages)]
    payloads = [read_payload(arrays, name, sent.plan.size) for name in names]
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
