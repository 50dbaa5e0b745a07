"""The far side of the `ray` engine: what runs in a Ray worker process, and how messages get there.

A batch travels as one pickle in which clients that get the same submodel share one copy. Arrays of `SHARED_BYTES`
and more stay out of it: the driver puts each once into Ray's object store, and each worker reads it once a round.
Answers come back through shared memory where the driver is on the same machine, else through the object store.
"""

import copyreg
import faulthandler
import io
import logging
import mmap
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from flwr.app import Array, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.run.config import Scalar
from fl_mlmc.strategies.summing import Exchange, Sum

from ..heap import keep_heap
from ..simulated import answer, context_of, identify_process, raised
from .cargo import Cargo
from .spool import Spool

SHARED_BYTES = 16_384

Request = tuple[Message, RecordDict | None]
"""A message and its node's state, None if that is empty."""


AtOnce = Callable[[Sequence[Message], Sequence[Context]], list[Message]]
"""A ClientApp's way to answer several messages together; each reply is what the app itself would say."""


class Answer(NamedTuple):
    """A client's reply, the state it leaves behind (None if empty) and how long it took."""

    reply: Message | None
    """None: it is in the sum of a group."""
    state: RecordDict | None
    seconds: float


class Done(NamedTuple):
    """What a batch came to."""

    answers: list[Answer]
    """Of each client, in the order of the batch."""
    sums: Sequence[Any] = ()
    """Of each of its groups, as the round's `Sum` makes them."""


class Worker:
    """Runs batches of clients, one client after another."""

    def __init__(
        self, setting: "Setting", progress: Path, cargo: Cargo | None = None, spool: Path | None = None
    ) -> None:
        identify_process()
        torch.set_num_threads(1)  # workers are as many as processors
        keep_heap()
        self._setting = setting
        self._limit = _TimeLimit(setting.client_timeout)
        self._progress = Progress(progress)
        self._broadcasts = _Broadcasts()
        self._spool = Spool(spool) if spool else None
        self._sums: dict[ray.ObjectRef, Sum] = {}
        self._data_path = "" if cargo is None or (here := cargo.unload()) == cargo.partition else str(here)

    def greet(self) -> "Greeting":
        """Say that this process has started, and which it is."""
        return Greeting(tuple(map(str, ray.get_gpu_ids())), os.getpid())

    def run(self, parcel: "Parcel") -> "Return":
        """The packed Answers to a batch."""
        requests = parcel.open(self._broadcasts.of(parcel))
        calls = [(message, self._context(message, state)) for message, state in requests]
        found = self._at_once(parcel.number, calls) if parcel.at_once else None
        done = self._summed(parcel, calls, found or self._one_by_one(parcel.number, calls))
        self._limit.lift()
        try:
            return Return.pack(done, self._spool, parcel.place)
        except Exception:  # one of them holds what cannot be sent
            answers = [_sendable(answer, message) for answer, (message, _) in zip(done.answers, calls, strict=True)]
            return Return.pack(done._replace(answers=answers), self._spool, parcel.place)

    def _summed(self, parcel: "Parcel", calls: "list[tuple[Message, Context]]", found: Iterable[Answer]) -> Done:
        """The answers, those of a group as one sum: each is taken before the next client begins."""
        answers: list[Answer] = []
        sums: list[Any] = []

        def exchanges(part: "Iterable[tuple[int | None, tuple[Message, Context], Answer]]") -> Iterator[Exchange]:
            for _, (message, _), found in part:
                fit = found if found.state is None else _sendable(found, message)
                answers.append(fit._replace(reply=None))
                assert fit.reply is not None
                yield message, fit.reply

        for group, part in groupby(zip(parcel.groups, calls, found, strict=True), key=lambda each: each[0]):
            if group is None:
                answers += [reply for _, _, reply in part]
            else:
                sums.append(self._summing(parcel)(exchanges(part)))
        return Done(answers, sums)

    def _summing(self, parcel: "Parcel") -> Sum:
        assert parcel.summing is not None, "a batch with groups says what sums them"
        if parcel.summing not in self._sums:
            self._sums = {parcel.summing: ray.get(parcel.summing)}
        return self._sums[parcel.summing]

    def _context(self, message: Message, state: RecordDict | None) -> Context:
        setting = self._setting
        return context_of(message, setting.num_nodes, setting.run_config, state or RecordDict(), self._data_path)

    def _one_by_one(self, number: int, calls: "list[tuple[Message, Context]]") -> Iterator[Answer]:
        for index, (message, context) in enumerate(calls):
            start = time.monotonic()
            self._limit.renew(start)
            self._progress.write(number, index, start)
            reply = answer(self._setting.client_app, message, context, is_apart=True)
            yield Answer(reply, context.state or None, time.monotonic() - start)

    def _at_once(self, number: int, calls: "list[tuple[Message, Context]]") -> list[Answer] | None:
        """The answers of the setting's `at_once`; None, and a line in the log, if it raises."""
        start = time.monotonic()
        self._limit.renew(start, len(calls))
        self._progress.write(number, -1, start)
        messages, contexts = zip(*calls, strict=True)
        try:
            replies = self._setting.at_once(messages, contexts)  # type: ignore[misc]
        except BaseException:  # of a client's own code, as in `answer`
            logging.getLogger(__name__).exception("clients could not be run at once; they run one by one")
            return None
        seconds = (time.monotonic() - start) / len(calls)
        return [Answer(reply, context.state or None, seconds) for reply, context in zip(replies, contexts, strict=True)]


class Greeting(NamedTuple):
    """A worker that has started."""

    gpus: tuple[str, ...]
    """The GPUs that it sees, by Ray's numbers."""
    pid: int


class Setting(NamedTuple):
    """What a run's workers have in common."""

    client_app: ClientApp
    num_nodes: int
    run_config: dict[str, Scalar]
    client_timeout: float
    at_once: AtOnce | None = None


class Parcel(NamedTuple):
    """A batch on its way: pickled requests, and the large arrays that they share."""

    number: int
    server_round: int
    """Which call of the grid it belongs to; its broadcast holds that long."""
    requests: bytes
    shared: list[ray.ObjectRef]
    order: list[int]
    """Indices into `shared`: which of them each large array of the requests is, in the order of unpickling."""
    at_once: bool
    """Whether its clients are run at the same time."""
    groups: Sequence[int | None] = ()
    """Of each request: the group whose sum its reply goes into; None: the reply is wanted itself."""
    summing: ray.ObjectRef | None = None
    """What sums a group."""
    place: int = 0
    """Where in the worker's spool its answers go."""

    @classmethod
    def pack(
        cls,
        number: int,
        server_round: int,
        requests: Sequence[Request],
        put: Callable[[bytes], ray.ObjectRef],
        at_once: bool = False,
        groups: Sequence[int | None] = (),
        summing: ray.ObjectRef | None = None,
    ) -> "Parcel":
        """Pack requests; `put` lays bytes into the object store, once for the same bytes object."""
        shared: dict[ray.ObjectRef, int] = {}
        pickled, large = _pickled_apart(list(requests))
        order = [shared.setdefault(put(data), len(shared)) for data in large]
        wanted = list(groups) or [None] * len(requests)
        return cls(number, server_round, pickled, list(shared), order, at_once, wanted, summing)

    def open(self, shared: Sequence[bytes]) -> list[Request]:
        """The requests, given the bytes of `shared`."""
        return pickle.loads(self.requests, buffers=[shared[index] for index in self.order])


class Return(NamedTuple):
    """What a batch came to, on its way back."""

    done: bytes
    sizes: list[int]
    """Bytes of each large array, in the order of unpickling."""
    large: list[np.ndarray] | None
    """The arrays, uint8: Ray copies them into its object store and nowhere else. None if they lie in the spool."""

    @classmethod
    def pack(cls, done: Done, spool: Spool | None, place: int) -> "Return":
        """What was done, large arrays laid into `place` of the spool if there is one with room."""
        pickled, large = _pickled_apart(done)
        spooled = spool is not None and spool.write(place, large)
        sizes = [len(data) for data in large]
        return cls(pickled, sizes, None if spooled else [np.frombuffer(data, np.uint8) for data in large])

    @property
    def num_bytes(self) -> int:
        """What travels."""
        return len(self.done) + sum(self.sizes)

    def open(self, spool: Spool | None, place: int) -> Done:
        """What was done, read on the driver's side; `spool` and `place` as in `pack`."""
        # Copied out: whoever keeps a reply must not keep a batch in the object store.
        if self.large is not None:
            return pickle.loads(self.done, buffers=[data.tobytes() for data in self.large])
        assert spool is not None
        return pickle.loads(self.done, buffers=spool.read(place, self.sizes))


def _sendable(answer: Answer, message: Message) -> Answer:
    """The answer, or an error in its place if it, or its state, cannot be sent."""
    try:
        _pickled_apart(answer)
    except Exception as error:
        return Answer(raised(message, error), None, answer.seconds)
    return answer


def _pickled_apart(value: object) -> tuple[bytes, list[Any]]:
    """A pickle of `value` without the data of large Arrays and of NumPy's, and these in the order of unpickling.

    They are bytes, the very object where it was bytes, or views of them.
    """
    large: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> None:
        raw = buffer.raw()
        large.append(raw.obj if isinstance(raw.obj, bytes) else raw)

    def reduce_array(array: Array) -> Any:
        if len(array.data) < SHARED_BYTES:
            return array.__reduce_ex__(5)
        return Array, (array.dtype, array.shape, array.stype, pickle.PickleBuffer(array.data))

    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=keep)
    pickler.dispatch_table = {**copyreg.dispatch_table, Array: reduce_array}
    pickler.dump(value)
    return file.getvalue(), large


class _Broadcasts:
    """The round's broadcast in this process: each of its arrays is read from the object store once."""

    def __init__(self) -> None:
        self._server_round = 0
        self._known: dict[ray.ObjectRef, bytes] = {}

    def of(self, parcel: Parcel) -> list[bytes]:
        if parcel.server_round != self._server_round:
            self._server_round, self._known = parcel.server_round, {}
        for ref in parcel.shared:
            if ref not in self._known:
                self._known[ref] = ray.get(ref)
        return [self._known[ref] for ref in parcel.shared]


class Progress:
    """Which client a worker is at: a few bytes of mapped memory that outlive the process."""

    FORMAT = struct.Struct("<qqd")

    def __init__(self, path: Path) -> None:
        path.write_bytes(self.FORMAT.pack(-1, -1, 0.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), self.FORMAT.size)

    def write(self, number: int, index: int, start: float) -> None:
        """Say that client `index` of batch `number` begins."""
        self.FORMAT.pack_into(self._memory, 0, number, index, start)


def look_at_progress(path: Path) -> tuple[int, int, float]:
    """Batch, client and its seconds so far, asked on the worker's machine; −1, −1 and 0 if it is at nothing."""
    try:
        number, index, start = Progress.FORMAT.unpack(path.read_bytes())
    except (FileNotFoundError, struct.error):  # it died before it began
        return -1, -1, 0.0
    return number, index, time.monotonic() - start


def read_progress(path: Path) -> tuple[int, int, float]:
    """`look_at_progress` for the last time: takes the file away."""
    found = look_at_progress(path)
    path.unlink(missing_ok=True)
    return found


class _TimeLimit:
    """Ends this process when a client runs longer than `seconds`, even inside C code; 0 is no limit."""

    # A thread of the C library watches the clock. Arming it anew costs 60 µs, so it is armed with a tenth to spare
    # and left alone until that is used up.
    def __init__(self, seconds: float) -> None:
        self._seconds, self._armed = seconds, -float("inf")

    def renew(self, now: float, num_clients: int = 1) -> None:
        if self._seconds and (num_clients > 1 or now - self._armed > 0.1 * self._seconds):
            faulthandler.dump_traceback_later((0.1 + num_clients) * self._seconds, exit=True, file=2)
            self._armed = now if num_clients == 1 else -float("inf")

    def lift(self) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
            self._armed = -float("inf")
