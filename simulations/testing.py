"""The law of replies: whatever one client sends back, the round goes on, says so, and the model stays finite.

`Trial` puts a strategy to it, in this process and without an engine. `fuzz_reply` makes a fuzzer's bytes into edits of
a good reply: whatever Flower lets a device send.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl_mlmc.bilevel.run import problem_of, state_model
from fl_mlmc.compression.blocks import DenseBlock, Payload, SparseBlock
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.models import Model, build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import CLIENTS, ROUNDS, RoundLog
from fl_mlmc.run.protocol import (
    ARRAYS,
    CONFIG,
    PAYLOAD,
    PAYLOAD_STYPE,
    TrainTask,
    TrainUpdate,
    code_stamp,
    payload_name,
)
from fl_mlmc.strategies.bilevel import FedBilevel
from fl_mlmc.strategies.round import Row
from fl_mlmc.strategies.tiered import TieredStrategy, from_arrays, to_arrays
from fl_mlmc.testing import sealed

from .engines.simulated import identify_process

Replies = Callable[[Message, Message], Iterable[Message]]
"""What comes back of a task: (its message, what a client replies that behaves) -> replies."""

GOOD, OTHER = 0, 1
"""The clients of a trial: one that behaves, and one that need not."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "labels": {"average_by_label": True, "max_update_norm": 100.0, "max_examples": 1000},
    "median": {"aggregation": "median"},
    "memory": {"scheme": "ef21", "compressor": "TopK(fraction=0.5)"},
    "two messages": {"scheme": "adiana(2.0, 0.1)", "compressor": "RandK(fraction=0.5)", "local_steps": 0},
    "bilevel": {"task": "bilevel", "scheme": "rafbo"},
}
"""Run configs under which a reply is read by different rules."""


class Trial:
    """A strategy of two clients, and rounds in which one of them sends what it likes.

    `directory` is where its log goes; `changes` are run-config keys.
    """

    def __init__(self, directory: Path, changes: Mapping[str, Any]) -> None:
        identify_process()
        small = {"model": "mlp(hidden=(3,))", "num_clients": 2, "clients_per_round": 2, "quorum": 1, "local_steps": 1}
        self.config = RunConfig(**{**small, "engine": "local", **changes})
        self._log = RoundLog.create(directory, {})
        self.strategy, model = self._strategy()
        self._arrays = to_arrays(model.initial(0))

    def _strategy(self) -> tuple[TieredStrategy, Model]:
        if not self.config.training.is_bilevel:
            model = build_model(self.config.training.model, (2,), 3)
            return TieredStrategy(self.config, model, self._log), model
        problem = problem_of(self.config, (2,), 3)
        state = state_model(self.config, problem)
        return FedBilevel(self.config, problem, state, self._log), state

    def round(self, replies: Replies) -> Row:
        """The row of the client that answers by `replies`; AssertionError if the round did not go on, or hid it."""
        for name in (CLIENTS, ROUNDS):
            (self._log.directory / name).write_text("")
        nodes = cast(Grid, SimpleNamespace(get_node_ids=lambda: range(1, 3)))
        tasks = list(self.strategy.configure_train(1, self._arrays, ConfigRecord(), nodes))
        good = [self.good_reply(task) for task in tasks]
        stepped, _ = self.strategy.aggregate_train(1, [*replies(tasks[OTHER], good[OTHER]), good[GOOD]])
        rows, [row] = (
            [json.loads(line) for line in (self._log.directory / name).read_text().splitlines()]
            for name in (CLIENTS, ROUNDS)
        )
        assert [(row["client"], row["status"]) for row in rows[:1]] == [(GOOD, "ok")], rows
        [said] = rows[1:]
        assert said["client"] == OTHER
        assert said["status"] == "ok" or said["status"].startswith("dropped: "), said
        assert said["status"].isprintable()
        assert len(said["status"]) < 600
        assert row["num_ok"] == 1 + (said["status"] == "ok")
        assert stepped is not None
        assert bool(from_arrays(stepped).isfinite().all())
        return said

    def good_reply(self, task: Message) -> Message:
        """What a client says that behaves: updates of ones."""
        told = TrainTask.from_config(task.content.config_records[CONFIG])
        [size] = task.content.array_records[ARRAYS][PAYLOAD].shape
        ones = Array("float32", (size,), PAYLOAD_STYPE, encode_payload(Payload(size, (DenseBlock(torch.ones(size)),))))
        update = TrainUpdate(
            *(told.server_round, told.client, code_stamp(), 10, 4, 0.5, 0.1, 0.01, 320.0, [2], [0.25], [0]),
            curvature=1.0,
        )
        names = map(payload_name, range(self.strategy.num_messages))
        arrays, facts = ArrayRecord(dict.fromkeys(names, ones)), ConfigRecord(update.to_config())
        return Message(RecordDict({ARRAYS: arrays, CONFIG: facts}), reply_to=task)


def edited(
    task: Message, reply: Message, facts: Mapping[str, Any] | None = None, payload: bytes | None = None, **array: Any
) -> Message:
    """The reply with other values of its config record, another payload, or another dtype, shape or stype of it."""
    old = reply.content.array_records[ARRAYS][PAYLOAD]
    kept = {"dtype": old.dtype, "shape": old.shape, "stype": old.stype, "data": payload or old.data}
    arrays = ArrayRecord({**reply.content.array_records[ARRAYS], PAYLOAD: Array(**{**kept, **array})})
    config = ConfigRecord({**reply.content.config_records[CONFIG], **(facts or {})})
    return Message(RecordDict({ARRAYS: arrays, CONFIG: config}), reply_to=task)


KEYS = [
    *("server-round", "client", "code-stamp", "num-examples", "num-steps", "train-loss", "train-seconds"),
    *("encode-seconds", "expected-bits", "levels", "probabilities", "labels", "compressor", "curvature"),
    *("failure", "unheard-of"),
]
"""Of a reply's config record, as `fuzz_reply` numbers them."""


def fuzz_reply(trials: Mapping[str, Trial], data: bytes) -> Row:
    """A round in which a fuzzer's input is the reply; any failure is a finding.

    The first byte chooses one of `trials`, then comes one edit after another: `_Edits`.
    """
    source = _Source(data)
    trial = list(trials.values())[source.byte() % len(trials)]

    def replies(task: Message, good: Message) -> Iterable[Message]:
        return _Edits(source, task, good).replies()

    return trial.round(replies)


def sample_replies() -> Mapping[str, bytes]:
    """Inputs of `fuzz_reply` to begin with: the lies that once got through, and one reply that is good."""
    blocks = 4 * encode_payload(Payload(21, (SparseBlock(21, torch.tensor([3]), torch.tensor([3e38])),)))[14:]
    plain, labels, bilevel = (bytes([list(SETTINGS).index(name)]) for name in ("plain", "labels", "bilevel"))
    return {
        "good": plain,
        "compressor-without-hash": plain + fuzz_edit("compressor", "TopK(fraction={[]:1})"),
        "curvature": bilevel + fuzz_edit("curvature", -1e300),
        "curvature-in-range": bilevel + fuzz_edit("curvature", -3e38),
        "failure": bilevel + fuzz_edit("failure", "the steps diverge") + fuzz_edit("curvature", float("nan")),
        "chance-nan": plain + fuzz_edit("probabilities", [float("nan")]),
        "chance-seven": plain + fuzz_edit("probabilities", [0.5, 7.0]),
        "seconds-negative": plain + fuzz_edit("train-seconds", -1.0),
        "labels": labels + fuzz_edit("labels", [2, 0, 1, 1]),
        "levels": plain + fuzz_edit("levels", [-5]),
        "group": plain + bytes([_Edits.NAME, 1]) + _written("1/" + "9" * 250)[1:],
        "blocks-beyond-float32": plain + bytes([_Edits.PAYLOAD, 0, 4]) + blocks,
    }


def fuzz_edit(key: str, value: Any) -> bytes:
    """The bytes by which `fuzz_reply` sets a fact of the reply."""
    return bytes([_Edits.SET, KEYS.index(key)]) + _written(value)


def _written(value: Any) -> bytes:
    if isinstance(value, list):
        return bytes([130 + _written(value[0])[0], len(value)]) + b"".join(_written(item)[1:] for item in value)
    if isinstance(value, int):
        return b"\0" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"\1" + struct.pack("<d", value)
    return b"\2" + bytes([len(value.encode()), 1]) + value.encode()


class _Source:
    """Bytes to draw values from; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_left(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def byte(self) -> int:
        return self.take(1)[0]

    def rest(self) -> bytes:
        return self.take(max(0, len(self._data) - self._at))

    def text(self) -> str:
        length, times = self.take(2)
        return self.take(length).decode("utf-8", "replace") * max(1, times)

    def integer(self) -> int:
        return int(struct.unpack("<q", self.take(8))[0])

    def number(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def value(self) -> Any:
        kinds = (self.integer, self.number, self.text, lambda: self.take(self.byte()), lambda: bool(self.byte() % 2))
        kind = self.byte()
        draw = kinds[kind % len(kinds)]
        return [draw() for _ in range(self.byte())] if kind >= 128 else draw()


class _Edits:
    """A good reply, and what becomes of it by one edit after another, each begun by a byte that says which."""

    SET, REMOVE, ARRAY, PAYLOAD, NAME, RECORD = range(6)
    TIMES, ERROR = 254, 255

    def __init__(self, source: _Source, task: Message, good: Message) -> None:
        self._source, self._task = source, task
        self._facts: dict[str, Any] = dict(good.content.config_records[CONFIG])
        self._arrays: dict[str, Array] = dict(good.content.array_records[ARRAYS])
        [self._size] = self._arrays[PAYLOAD].shape
        self._records: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}

    def replies(self) -> list[Message]:
        source, count = self._source, 1
        edits = (self._set, self._remove, self._array, self._payload, self._name, self._record)
        while source.is_left:
            which = source.byte()
            if which == self.ERROR:
                return [self._named(Message(Error(source.integer() % 2**31, source.text()), reply_to=self._task))]
            if which == self.TIMES:
                count = source.byte() % 3
            else:
                edits[which % len(edits)]()
        content = RecordDict({ARRAYS: ArrayRecord(self._arrays), CONFIG: ConfigRecord(self._facts), **self._records})
        return [self._named(Message(content, reply_to=self._task))] * count

    def _set(self) -> None:
        key, value = KEYS[self._source.byte() % len(KEYS)], self._source.value()
        try:
            self._facts[key] = ConfigRecord({key: value})[key]
        except TypeError:  # Flower sends no such thing
            return

    def _remove(self) -> None:
        self._facts.pop(KEYS[self._source.byte() % len(KEYS)], None)

    def _array(self) -> None:
        source, name = self._source, payload_name(self._source.byte() % 3)
        shape = tuple(source.integer() for _ in range(source.byte() % 4))
        data = source.take(source.byte())
        self._arrays[name] = Array(source.text(), shape, source.text(), data)

    def _payload(self) -> None:
        """What is left, as blocks of a payload whose header and checksum are right."""
        name = payload_name(self._source.byte() % 2)
        head = b"MLMC" + struct.pack("<BBII", 1, self._source.byte(), self._size, 0)
        self._arrays[name] = Array("float32", (self._size,), PAYLOAD_STYPE, sealed(head + self._source.rest()))

    def _name(self) -> None:
        if self._source.byte() % 2:
            self._metadata["_group_id"] = self._source.text()
        else:
            self._metadata["_src_node_id"] = self._source.integer() % 2**63

    def _record(self) -> None:
        name = (ARRAYS, CONFIG, "more")[self._source.byte() % 3]
        kinds = (ArrayRecord(), ConfigRecord(), MetricRecord({"x": self._source.number()}))
        self._records[name] = kinds[self._source.byte() % 3]

    def _named(self, message: Message) -> Message:
        message.metadata.__dict__.update(self._metadata)
        return message
