"""A reply to a strategy of Flower's, with the arrays that the strategy expects: those sent, and the decoded update.

Every reply is taken for hostile: see `fl_mlmc.strategies.replies`. What is checked here is all that the strategy then
counts on: names, shapes, dtypes, finite numbers, a weight.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.run.coded import FACTS, UPDATE, CodedUpdate, counterparts, num_bytes, unpack_flags
from fl_mlmc.run.npy import FLOATS, read_npy, to_floats, to_npy
from fl_mlmc.run.protocol import MOST, PAYLOAD, ProtocolError

from .replies import last_line, read_payload

Sent = Mapping[str, Mapping[str, Array]]
"""The arrays that a client was sent, by record and name."""
Form = tuple[object, ...]
"""What the arrays and metrics of a reply are called, and how large they are."""

NUMPY = "numpy.ndarray"


@dataclass(frozen=True)
class Rules:
    """What a reply may be."""

    weight: str = "num-examples"
    """The metric by which the strategy weighs a reply; empty: it weighs by none."""
    loss: str = ""
    """The metric of which it takes powers; empty: none."""
    max_examples: float = MOST
    max_update_norm: float = 0.0
    """0: any."""


@dataclass(frozen=True)
class Decoded:
    """A reply that keeps the rules, as a client without the mod would have sent it."""

    content: RecordDict
    num_examples: float | None
    facts: CodedUpdate | None
    """None: it came without the mod."""

    @property
    def metrics(self) -> dict[str, int | float | list[int] | list[float]]:
        """All that its metric records say."""
        return {key: value for record in self.content.metric_records.values() for key, value in record.items()}

    @property
    def plain_bytes(self) -> int:
        """What the reply would hold without compression, by Flower's count: as the client says, and not above that."""
        rebuilt = num_bytes(self.content.values())
        return min(self.facts.plain_bytes, rebuilt) if self.facts else rebuilt

    @cached_property
    def form(self) -> Form:
        """Equal for replies that can be averaged."""
        records = self.content.array_records
        arrays = (
            (name, key, array.dtype, array.shape) for name, record in records.items() for key, array in record.items()
        )
        metrics = (
            (name, key, len(value) if isinstance(value, list) else None)
            for name, record in self.content.metric_records.items()
            for key, value in record.items()
        )
        return (*records, *sorted(arrays), *self.content.metric_records, *sorted(metrics, key=str))


def decode_reply(reply: Message, sent: Sent, rules: Rules) -> Decoded:
    """What the strategy is to get of a reply to a message with the arrays `sent`.

    ProtocolError or WireError says which rule it breaks; hostile ones may raise anything else.
    """
    if reply.has_error():
        raise ProtocolError(f"error {reply.error.code}: {last_line(reply.error.reason)!r}")
    records = dict(reply.content)
    facts, update = records.pop(FACTS, None), records.pop(UPDATE, None)
    if facts is not None and not isinstance(facts, ConfigRecord):
        raise ProtocolError(f"its record {FACTS!r} is no config record")
    if facts is None and update is not None:
        raise ProtocolError(f"it has a record {UPDATE!r} and none {FACTS!r} to tell what of")
    said = None if facts is None else CodedUpdate.from_config(facts)
    given = {name: record for name, record in records.items() if isinstance(record, ArrayRecord)}
    arrays = _Arrays(sent, given, said, update)
    rebuilt = {name: arrays.rebuilt(name) for name in given}
    if rules.max_update_norm and not arrays.norm <= rules.max_update_norm:
        raise ProtocolError(f"its update has norm {arrays.norm:.4g}, {rules.max_update_norm:g} is allowed")
    content = RecordDict({name: rebuilt.get(name, record) for name, record in records.items()})
    decoded = Decoded(content, _num_examples(content, rules), said)
    _check_metrics(decoded.metrics, rules)
    return decoded


class _Arrays:
    """The arrays of a reply, put back together."""

    def __init__(self, sent: Sent, given: Mapping[str, ArrayRecord], said: CodedUpdate | None, update: object) -> None:
        names = [(record, key) for record, arrays in sent.items() for key in arrays]
        coded = _flagged(names, said.coded) if said else set()
        kept = _flagged(names, said.kept) if said else set()
        self._sent, self._given, self._kept = sent, given, kept
        self._answers = counterparts(sent, given)
        self._parts = dict(self._decoded([name for name in names if name in coded], update))
        self._square = 0.0
        if lost := {record for record, _ in coded | kept} - set(self._answers.values()):
            raise ProtocolError(f"it speaks of arrays of record {min(lost)!r}, and has none that answers it")

    @property
    def norm(self) -> float:
        """Of the update that was rebuilt so far."""
        return math.sqrt(self._square)

    def rebuilt(self, name: str) -> ArrayRecord:
        """A record as the client had it: the arrays that were sent in their order, then those of its own."""
        given, out = self._given[name], {}
        sent = self._sent[self._answers[name]] if name in self._answers else {}
        for key, old in sent.items():
            if (array := self._answer(self._answers[name], key, old, given.get(key))) is not None:
                out[key] = array
        return ArrayRecord(out | {key: _own(array) for key, array in given.items() if key not in sent})

    def _decoded(self, names: list[tuple[str, str]], update: object) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """The update of each array that is coded."""
        if odd := [key for record, key in names if not _is_float(self._sent[record][key])]:
            raise ProtocolError(f"it codes array {odd[0]!r}, which is not of floating point")
        sizes = [math.prod(self._sent[record][key].shape) for record, key in names]
        if not sum(sizes):
            if update is not None:
                raise ProtocolError(f"it has a record {UPDATE!r}, and says that no array is coded")
            return
        vector = read_payload(update, PAYLOAD, sum(sizes)).dense()
        yield from zip(names, vector.split(sizes), strict=True)

    def _answer(self, record: str, key: str, old: Array, given: Array | None) -> Array | None:
        """What became of an array that was sent; None: the client has none of that name."""
        update, is_kept = self._parts.get((record, key)), (record, key) in self._kept
        if (update is not None) + is_kept + (given is not None) > 1:
            raise ProtocolError(f"it tells of array {key!r} in more than one way")
        if is_kept:
            return old
        if update is not None:
            self._weigh(key, update)
            after = _floats(old) + update
            if not bool(after.to(FLOATS[old.dtype]).isfinite().all()):
                raise ProtocolError(f"array {key!r} would not be finite in {old.dtype}")
            return _array(after, old)
        if given is None:
            return None
        if given.shape != old.shape or given.stype != NUMPY:
            raise ProtocolError(
                f"array {key!r} has stype {given.stype!r} and shape {given.shape}, expected {NUMPY!r} and {old.shape}"
            )
        if not (_is_float(old) and given.dtype in FLOATS):
            return _own(given)  # a count that was averaged came as a float, and goes as a whole number
        after = _floats(given)
        self._weigh(key, after - _floats(old))
        return given if given.dtype == old.dtype else _array(after, old)

    def _weigh(self, key: str, update: Tensor) -> None:
        """Add to the norm; ProtocolError where a coordinate is larger than sums of squares can take."""
        peak = float(update.abs().max()) if update.numel() else 0.0
        if not peak <= LARGEST_UPDATE:
            raise ProtocolError(f"the update of array {key!r} has a coordinate of {peak:.3g}")
        self._square += float(torch.linalg.vector_norm(update, dtype=torch.float64)) ** 2


def _flagged(names: list[tuple[str, str]], flags: bytes) -> set[tuple[str, str]]:
    return {name for name, flag in zip(names, unpack_flags(flags, len(names)), strict=True) if flag}


def _own(array: Array) -> Array:
    """An array that is no update of another: numbers, and finite."""
    if array.stype != NUMPY:
        raise ProtocolError(f"an array has stype {array.stype!r}, expected {NUMPY!r}")
    found = read_npy(array.data, array.dtype, array.shape)
    if array.dtype in FLOATS and not bool(to_floats(found, array.dtype).isfinite().all()):
        raise ProtocolError("an array holds numbers that are not finite")
    return array


def _is_float(array: Array) -> bool:
    return array.dtype in FLOATS and array.stype == NUMPY


def _floats(array: Array) -> Tensor:
    return to_floats(read_npy(array.data, array.dtype, array.shape), array.dtype)


def _array(values: Tensor, like: Array) -> Array:
    return Array(like.dtype, like.shape, NUMPY, to_npy(values, like.dtype, like.shape))


def _num_examples(content: RecordDict, rules: Rules) -> float | None:
    if not rules.weight:
        return None
    # Flower reads the first record; one reply with another form than the others is refused later.
    found = next((record.get(rules.weight) for record in content.metric_records.values()), None)
    if not isinstance(found, int | float) or not 0 < found <= rules.max_examples:
        raise ProtocolError(
            f"its metrics say {rules.weight} = {found!r}, expected a number up to {rules.max_examples:g}"
        )
    return found


def _check_metrics(metrics: Mapping[str, int | float | list[int] | list[float]], rules: Rules) -> None:
    for key, value in metrics.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(math.isfinite(number) for number in numbers):
            raise ProtocolError(f"its metric {key!r} is not finite")
    if rules.loss and not (isinstance(loss := metrics.get(rules.loss), int | float) and loss >= 0):
        raise ProtocolError(f"its metrics say {rules.loss} = {loss!r}, expected a number of at least 0")
