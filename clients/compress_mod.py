"""The client mod `compressed`: a Flower ClientApp's update leaves as a payload.

The mod sees the arrays that come and those that go. What changed among them is compressed; the app notices nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from fl_mlmc import parse
from fl_mlmc.compression import Compressor
from fl_mlmc.compression.compressors.base import Compressed, checked
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.own import EVERY
from fl_mlmc.run.coded import FACTS, SERVER_ROUND, UPDATE, CodedUpdate, counterparts, num_bytes, pack_flags
from fl_mlmc.run.npy import FLOATS, read_npy, to_floats
from fl_mlmc.run.protocol import PAYLOAD, PAYLOAD_STYPE
from fl_mlmc.run.rng import stream

Records = Mapping[str, Mapping[str, Array]]
"""Arrays by record and name."""


STATISTICS = ("running_mean", "running_var")
"""Of batch norm: a variance that a compressor took below zero would make a model's outputs NaN."""


def compressed(compressor: str | Compressor, seed: int = 0, whole: tuple[str, ...] = STATISTICS) -> "CompressedUpdates":
    """A mod that sends a ClientApp's update compressed, for a server whose strategy is wrapped in `Decoding`.

    ::

        app = ClientApp(mods=[compressed("MLMC(TopK(fraction=0.05))")])

    `compressor` is one, or its text (docs/compressors.md); it need not be known to the server. Each draw comes from
    `seed`, the round and the client (its `partition-id`, or its node's id): the same three give the same bytes. Arrays
    whose names end in one of `whole` travel as they are, and so do those that are not of floating point; what did not
    change does not travel at all. ValueError on a text that names no compressor.

    The first of several mods is the outermost: what changes arrays, such as noise for privacy, comes after this one.
    """
    return CompressedUpdates(parse(compressor, EVERY) if isinstance(compressor, str) else compressor, seed, whole)


@dataclass(frozen=True)
class CompressedUpdates:
    """The mod that `compressed` makes."""

    compressor: Compressor
    seed: int = 0
    whole: tuple[str, ...] = STATISTICS

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """The app's reply to `message`; its update compressed if it was asked to train and did.

        ValueError, which Flower makes an error reply of, on arrays that are not finite or have another shape than those
        that came, and on a message that tells no round.
        """
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
            return call_next(message, context)
        before = {name: dict(record) for name, record in message.content.array_records.items()}  # apps take them apart
        server_round, client = _round_of(message), int(context.node_config.get("partition-id", context.node_id))
        reply = call_next(message, context)
        if reply.has_content():
            start, plain_bytes = time.perf_counter(), num_bytes(reply.content.values())
            found = _take_updates(reply, before, self.whole)
            coded = self._coded(found.vector, server_round, client)
            facts = CodedUpdate(
                client=client,
                compressor=repr(self.compressor),
                plain_bytes=plain_bytes,
                encode_seconds=time.perf_counter() - start,
                expected_bits=coded.expected_bits if coded else 0.0,
                coded=pack_flags(found.coded),
                kept=pack_flags(found.kept),
                levels=list(coded.levels) if coded else [],
                probabilities=list(coded.probabilities) if coded else [],
            )
            reply.content[FACTS] = ConfigRecord(facts.to_config())
            if coded is not None:
                payload = encode_payload(coded.payload)
                array = Array("float32", (found.vector.numel(),), PAYLOAD_STYPE, payload)
                reply.content[UPDATE] = ArrayRecord({PAYLOAD: array})
        return reply

    def _coded(self, vector: Tensor, server_round: int, client: int) -> Compressed | None:
        if not vector.numel():
            return None
        return self.compressor.compress(checked(vector), stream(self.seed, "level", server_round, client))


@dataclass(frozen=True)
class _Found:
    """What changed: the update of all arrays that are `coded`, flat float32, and which arrays are as they came."""

    vector: Tensor
    coded: list[bool]
    kept: list[bool]


def _take_updates(reply: Message, before: Records, whole: tuple[str, ...]) -> _Found:
    """Take out of a reply what need not travel as it is."""
    records = reply.content.array_records
    answers = {sent: name for name, sent in counterparts(before, records).items()}
    parts, coded, kept = [torch.empty(0)], [], []
    for sent, arrays in before.items():
        record = ArrayRecord(dict(records[answers[sent]])) if sent in answers else ArrayRecord()
        for key, old in arrays.items():
            update = _update(key, old, record[key], whole) if key in record else None
            coded.append(update is not None and update.numel() > 0)
            kept.append(update is not None and not update.numel())
            if update is not None:
                parts.append(update)
                del record[key]
        if sent in answers:
            reply.content[answers[sent]] = record
    return _Found(torch.cat(parts), coded, kept)


def _update(key: str, old: Array, new: Array, whole: tuple[str, ...]) -> Tensor | None:
    """After − before of an array, flat float32; empty where nothing changed, None where it travels as it is."""
    if (old.dtype, old.shape, old.data) == (new.dtype, new.shape, new.data):
        return torch.empty(0)
    is_float = old.dtype in FLOATS and new.dtype in FLOATS and old.stype == new.stype == "numpy.ndarray"
    if not is_float or key.endswith(whole):
        return None
    if old.shape != new.shape:
        raise ValueError(
            f"array {key!r} came with shape {old.shape} and leaves with shape {new.shape}: an update needs both alike. "
            "A mod that cuts arrays stands before compressed in the list of mods"
        )
    after, was = (to_floats(read_npy(array.data, array.dtype, array.shape), array.dtype) for array in (new, old))
    # An app whose model has fewer digits than the server's lost some of them before it trained.
    update = (after - was.to(FLOATS[new.dtype])).float()
    return update if update.any() else torch.empty(0)


def _round_of(message: Message) -> int:
    """The round that a message is of, as one of its config records tells."""
    for record in message.content.config_records.values():
        if isinstance(found := record.get(SERVER_ROUND), int):
            return found
    raise ValueError(
        f"no config record of the message has {SERVER_ROUND!r}, by which the compressor draws anew in each round: wrap "
        "the server's strategy, strategy = Decoding(…) from fl_mlmc.strategies, or put the round there"
    )
