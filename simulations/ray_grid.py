"""The `ray` engine: clients run in batches on Ray actors, one for each processor of the cluster.

Work that is lost with a worker is done again elsewhere, so faults change no result: a client's reply is a function
of its message and its node's state. A client that takes its worker down twice is given up.
"""

import contextlib
import itertools
import logging
import math
import pickle
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from flwr.app import Error, Message, MessageType
from flwr.clientapp import ClientApp
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fl_mlmc.config import Scalar

from .cargo import Cargo
from .grid import SimulatedGrid
from .needs import Need, Needs
from .ray_worker import Answer, AtOnce, Parcel, Setting, Worker, read_progress

BATCH_SECONDS = 0.05
"""Client time in a batch: long against a millisecond of Ray, short against a round."""
FIRST_GUESS_SECONDS = 0.01
MAX_BATCH = 512
MAX_KILLS = 2
QUEUED_BATCHES = 2  # one runs, the next one waits in the worker
MAX_FAILED_STARTS = 5
LOOK_AT_NODES_SECONDS = 5.0
WAIT_FOR_NODES_SECONDS = 60.0
CRASHED, UNAVAILABLE = 8, 5  # flwr's ErrorCode.CLIENT_APP_CRASHED and NODE_UNAVAILABLE

logger = logging.getLogger(__name__)


class RayGrid(SimulatedGrid):
    """A Grid of `num_nodes` simulated nodes whose ClientApp runs on all machines of the connected Ray cluster.

    A client takes what `needs` says of its machine. One that runs longer than `client_timeout` seconds is given up;
    0 waits for ever. Machines that do not have the partition directory `data` get a copy. `at_once`, if given,
    answers the messages of a batch together. Replies come in the order in which they finish. Use it in a `with`
    block: leaving it ends the workers.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Scalar],
        needs: Needs | None = None,
        client_timeout: float = 0.0,
        data: Path | None = None,
        at_once: AtOnce | None = None,
    ) -> None:
        super().__init__(num_nodes)
        self._needs = needs or Needs()
        self._client_timeout = client_timeout
        setting = Setting(client_app, num_nodes, dict(run_config), client_timeout, at_once)
        self._at_once = at_once is not None
        self._crew = _Crew(self._needs.kinds, setting, data)
        self._cost = _Cost()
        self._rounds = itertools.count(1)
        self._batches = itertools.count(1)

    def get_node_ids(self) -> Iterable[int]:
        # A range, not a list: it says that the nodes differ in nothing but their number, and costs a million nothing.
        return range(1, self.num_nodes + 1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        server_round, broadcast = next(self._rounds), _Broadcast()
        self._crew.recruit()
        source = (_Job(turn, self.number(message), self._needs.of(message)) for turn, message in enumerate(messages))
        queue = _Queue()
        try:
            while time.monotonic() < deadline:
                queue.add(itertools.islice(source, max(0, self._cost.look_ahead(len(self._crew.ready)) - len(queue))))
                self._hand_out(queue, server_round, broadcast)
                if not queue and not self._crew.is_busy:
                    return
                for worker, number in self._crew.wait(min(1.0, deadline - time.monotonic())):
                    yield from self._take_in(worker, number, queue)
            logger.warning("gave up %d clients that had no reply in %g s", len(queue) + self._crew.num_open, timeout)
        finally:
            self._crew.drop_work()

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _hand_out(self, queue: "_Queue", server_round: int, broadcast: "_Broadcast") -> None:
        for depth in range(1, QUEUED_BATCHES + 1):
            for worker in self._crew.ready:
                need = queue.first_need(worker.has_gpu) if len(worker.batches) < depth else None
                if need is not None and self._crew.has_room(worker, need):
                    jobs = self._cost.take(queue.line(need), len(self._crew.ready))
                    states = (self._states.get(job.node) for job in jobs)
                    messages = zip((job.message for job in jobs), states, strict=True)
                    at_once = self._at_once and len(jobs) > 1 and all(job.may_join for job in jobs)
                    parcel = Parcel.pack(next(self._batches), server_round, list(messages), broadcast.put, at_once)
                    worker.send(parcel, jobs)

    def _take_in(self, worker: "_Worker", number: int | None, queue: "_Queue") -> Iterator[Message]:
        """The replies of a batch; if it is lost, its clients go back into the queue."""
        try:
            if number is None:
                worker.greet()
                return
            answers: list[Answer] = pickle.loads(ray.get(worker.batches[number].ref))
        except RayTaskError:
            raise
        except RayError as error:
            yield from self._lose(worker, error, queue)
            return
        for job, (reply, state, seconds) in zip(worker.done(number), answers, strict=True):
            self._cost.learn(job, seconds)
            if state is None:
                self._states.pop(job.node, None)
            else:
                self._states[job.node] = state
            yield reply

    def _lose(self, worker: "_Worker", error: RayError, queue: "_Queue") -> Iterator[Message]:
        number, index, seconds = worker.last_seen()
        suspect = worker.batches[number].jobs[index] if number in worker.batches and index >= 0 else None
        jobs = [job for batch in worker.batches.values() for job in batch.jobs]
        for job in jobs:
            job.was_lost = True
        logger.warning("lost a worker with %d clients; they run again elsewhere: %s", len(jobs), _first_line(error))
        self._crew.replace(worker, error)
        reason = None
        if suspect is not None:
            suspect.num_kills += 1
            if 0 < self._client_timeout <= seconds:
                reason = f"it ran longer than the client-timeout of {self._client_timeout:g} s"
            elif suspect.num_kills >= MAX_KILLS:
                reason = f"it killed its worker {suspect.num_kills} times ({_first_line(error)})"
        queue.add_first(job for job in reversed(jobs) if reason is None or job is not suspect)
        if suspect is not None and reason is not None:
            logger.warning("gave up the client of node %d: %s", suspect.node, reason)
            yield Message(Error(CRASHED, reason), reply_to=suspect.message)


@dataclass(eq=False)
class _Job:
    """A message until its reply is there."""

    turn: int
    """Its place among the round's messages."""
    message: Message
    need: Need
    num_kills: int = 0
    was_lost: bool = False

    @property
    def may_join(self) -> bool:
        """Whether it may run at once with others: whom a lost worker was at is known only if they ran one by one."""
        return not self.was_lost and self.message.metadata.message_type == MessageType.TRAIN

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id

    @property
    def kind(self) -> tuple[str, int]:
        """Jobs of one kind take about equally long: the submodel's size tells tiers apart."""
        arrays = self.message.content.array_records.values()
        size = sum(len(array.data) for record in arrays for array in record.values())
        return self.message.metadata.message_type, size


class _Queue:
    """Jobs that wait for a worker, in a line for each need."""

    def __init__(self) -> None:
        self._lines: dict[Need, deque[_Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            self.line(job.need).append(job)

    def add_first(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            self.line(job.need).appendleft(job)

    def line(self, need: Need) -> deque[_Job]:
        return self._lines.setdefault(need, deque())

    def first_need(self, gpu: bool) -> Need | None:
        """Of the jobs that want a GPU, or of those that do not, the need of the one whose turn it is."""
        waiting = [line[0] for need, line in self._lines.items() if line and bool(need.gpus) == gpu]
        return min(waiting, key=lambda job: job.turn).need if waiting else None


@dataclass(frozen=True)
class _Batch:
    jobs: list[_Job]
    ref: ray.ObjectRef


class _Cost:
    """How long clients take, learned from those that are done, and the batches that follow from it."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, int], float] = {}
        self._mean = FIRST_GUESS_SECONDS

    def learn(self, job: _Job, seconds: float) -> None:
        before = self._seconds.get(job.kind, seconds)
        self._seconds[job.kind] = 0.8 * before + 0.2 * seconds
        self._mean = 0.95 * self._mean + 0.05 * seconds

    def look_ahead(self, num_workers: int) -> int:
        """How many jobs to hold ready."""
        return max(1, num_workers) * 2 * QUEUED_BATCHES * min(MAX_BATCH, 1 + int(BATCH_SECONDS / self._mean))

    def take(self, queue: deque[_Job], num_workers: int) -> list[_Job]:
        """The next batch. Batches get smaller as the queue runs out, so that all workers end together."""
        most = min(MAX_BATCH, math.ceil(len(queue) / (2 * num_workers)))
        batch: list[_Job] = []
        seconds = 0.0
        while queue and len(batch) < most and seconds < BATCH_SECONDS:
            batch.append(queue.popleft())
            seconds += self._seconds.get(batch[-1].kind, self._mean)
        return batch


class _Broadcast:
    """What one round has laid into the object store; it goes when the round does."""

    def __init__(self) -> None:
        self._refs: dict[int, tuple[bytes, ray.ObjectRef]] = {}

    def put(self, data: bytes) -> ray.ObjectRef:
        # Messages of a tier hold the very same bytes. Keeping them here keeps their identity from being reused.
        if id(data) not in self._refs:
            self._refs[id(data)] = data, ray.put(data)
        return self._refs[id(data)][1]


@dataclass(eq=False)
class _Worker:
    """The driver's side of one actor."""

    actor: Any
    node: str
    has_gpu: bool
    progress: Path
    greeting: ray.ObjectRef | None
    """The answer that says that the actor has started, and on which GPUs; None once it has."""
    gpus: tuple[str, ...] = ()
    """The GPUs of its machine that Ray gave it."""
    batches: dict[int, _Batch] = field(default_factory=dict)
    """Batches sent and not yet answered, by number; the actor runs them in this order."""

    def send(self, parcel: Parcel, jobs: list[_Job]) -> None:
        self.batches[parcel.number] = _Batch(jobs, self.actor.run.remote(parcel))

    def done(self, number: int) -> list[_Job]:
        return self.batches.pop(number).jobs

    @property
    def taken(self) -> Need:
        """What its clients take, at most: batches run one after another."""
        needs = [batch.jobs[0].need for batch in self.batches.values()]
        return Need(max((need.cpus for need in needs), default=0.0), max((need.gpus for need in needs), default=0.0))

    def greet(self) -> None:
        """Take note that the actor has started; RayError if it could not."""
        if self.greeting is not None:
            self.gpus = ray.get(self.greeting)
        self.greeting = None

    def last_seen(self) -> tuple[int, int, float]:
        """What the dead worker was at (`read_progress`); nothing if its machine is gone too."""
        if self.progress.exists():
            return read_progress(self.progress)
        place = NodeAffinitySchedulingStrategy(self.node, soft=False)
        reader = ray.remote(num_cpus=0, max_retries=0)(read_progress).options(scheduling_strategy=place)
        try:
            return ray.get(reader.remote(self.progress), timeout=10)
        except RayError:
            return -1, -1, 0.0


class _Crew:
    """The workers: as many on each machine of the cluster as it carries clients, the lost ones replaced."""

    def __init__(self, needs: set[Need], setting: Setting, data: Path | None) -> None:
        self._needs = needs
        self._data = data
        self._home = ray.get_runtime_context().get_node_id()
        self._resources: dict[str, Mapping[str, float]] = {}
        self._setting = ray.put(setting)
        self._name = f"fl-mlmc-{uuid.uuid4().hex[:12]}"
        self._numbers = itertools.count(1)
        self._failed_starts = 0
        self._looked, self._manned = 0.0, time.monotonic()
        self.workers: list[_Worker] = []
        self.recruit()

    @property
    def _unmet(self) -> str:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        unmet = {need for need in self._needs if not any(need.slots(machine) for machine in machines)}
        return " or ".join(sorted(map(str, unmet or self._needs)))

    @property
    def num_open(self) -> int:
        """Jobs that are with a worker."""
        return sum(len(batch.jobs) for worker in self.workers for batch in worker.batches.values())

    @property
    def is_busy(self) -> bool:
        return any(worker.batches for worker in self.workers)

    @property
    def ready(self) -> list[_Worker]:
        """The workers that have started."""
        return [worker for worker in self.workers if worker.greeting is None]

    def wait(self, seconds: float) -> Iterator[tuple[_Worker, int | None]]:
        """Batches that are done or lost, None for a start, waiting up to `seconds` for the first."""
        if time.monotonic() - self._looked > LOOK_AT_NODES_SECONDS:
            self.recruit()
        owners: dict[ray.ObjectRef, tuple[_Worker, int | None]] = {}
        for worker in self.workers:
            if worker.greeting is not None:
                owners[worker.greeting] = worker, None
            owners |= {batch.ref: (worker, number) for number, batch in worker.batches.items()}
        if not owners:
            time.sleep(min(0.2, max(0.0, seconds)))  # no machine carries a worker now, one may join
            if time.monotonic() - self._manned > WAIT_FOR_NODES_SECONDS:
                raise RuntimeError(f"no machine of the Ray cluster has {self._unmet} for a client")
            return
        self._manned = time.monotonic()
        ready, _ = ray.wait(list(owners), timeout=max(0.0, seconds))
        for ref in ready:
            yield owners[ref]

    def recruit(self) -> None:
        """Start the workers that the cluster's machines could carry and do not have."""
        self._looked = time.monotonic()
        for node in ray.nodes():
            if node["Alive"]:
                name, resources = node["NodeID"], node["Resources"]
                self._resources[name] = resources
                for gpus in {self._claim(need) for need in self._needs}:
                    wanted = max(
                        Need(need.cpus, gpus).slots(resources) for need in self._needs if bool(need.gpus) == bool(gpus)
                    )
                    present = sum(worker.node == name and worker.has_gpu == bool(gpus) for worker in self.workers)
                    self.workers += [self._start(name, gpus) for _ in range(wanted - present)]

    def has_room(self, worker: _Worker, need: Need) -> bool:
        """Whether the worker's machine, and its GPU, carry a client of that need beside what the others do."""
        if len(self._needs) == 1:  # there are no more workers than fit
            return True
        others = [other for other in self.workers if other is not worker and other.node == worker.node]
        mine = Need(max(need.cpus, worker.taken.cpus), max(need.gpus, worker.taken.gpus))
        if not Need.fit([mine, *(other.taken for other in others)], self._resources[worker.node]):
            return False
        sharers = [other.taken for other in others if set(other.gpus) & set(worker.gpus)]
        return not sharers or Need.fit([Need(0.0, need.gpus) for need in (mine, *sharers)], {"GPU": 1.0})

    def replace(self, worker: _Worker, error: RayError) -> None:
        """Another worker for one that is dead; RuntimeError if workers die before they ever did anything."""
        self.workers.remove(worker)
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)
        self._failed_starts = 0 if worker.greeting is None else self._failed_starts + 1
        if self._failed_starts > MAX_FAILED_STARTS:
            raise RuntimeError(f"Ray workers do not start: {error}")
        self.recruit()

    def drop_work(self) -> None:
        """Forget what is under way; workers that are at it are ended, the next round starts others."""
        for worker in [worker for worker in self.workers if worker.batches]:
            self._dismiss(worker)

    def close(self) -> None:
        for worker in self.workers[:]:
            self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        ray.kill(worker.actor)
        worker.progress.unlink(missing_ok=True)

    def _claim(self, need: Need) -> float:
        """What a worker for such clients asks of Ray, which then shows it a GPU: the least that one of them takes."""
        return min(other.gpus for other in self._needs if other.gpus) if need.gpus else 0.0

    @cached_property
    def _cargo(self) -> Cargo | None:
        return Cargo.load(self._data) if self._data else None

    def _start(self, node: str, gpus: float) -> _Worker:
        progress = Path(tempfile.gettempdir(), f"{self._name}-{next(self._numbers)}")
        # Processors are counted here and not by Ray: inside `flwr run` Flower's own idle actors hold all of them.
        options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0}
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        cargo = None if node == self._home else self._cargo
        worker = ray.remote(Worker).options(scheduling_strategy=place, **options)
        actor: Any = worker.remote(self._setting, progress, cargo)
        return _Worker(actor, node, gpus > 0, progress, actor.gpus.remote())


def _first_line(error: BaseException) -> str:
    # Ray's word on a machine that ran out of memory is one line of 3 kB, a list of its processes after the first ";".
    return next((line.strip().split("; ")[0] for line in str(error).splitlines() if line.strip()), type(error).__name__)
