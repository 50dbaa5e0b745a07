"""The workers of the `ray` engine, seen from the driver: who they are, what they are at, and who replaces them."""

import contextlib
import itertools
import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..needs import Need
from .cargo import Cargo
from .queue import QUEUED_BATCHES, Job
from .spool import Spool
from .worker import Done, Parcel, Setting, Worker, look_at_progress, read_progress

MAX_FAILED_STARTS = 5
LOOK_AT_NODES_SECONDS = 5.0
WAIT_FOR_NODES_SECONDS = 60.0
LISTEN_SECONDS = 1.0
GRACE_SECONDS = 1.0
"""Beyond the limit at which a worker ends itself."""
BEGIN_SECONDS = 10.0
"""For a worker to read a batch, and to say which client it begins with."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Jobs that were sent to a worker together, and the answer that Ray promised."""

    jobs: list[Job]
    ref: ray.ObjectRef
    place: int
    """Where in the worker's spool its answers are laid."""


@dataclass(eq=False)
class Member:
    """The driver's side of one actor."""

    actor: Any
    node: str
    has_gpu: bool
    progress: Path
    greeting: ray.ObjectRef | None
    """The answer that says that the actor has started, and on which GPUs; None once it has."""
    spool: Spool | None = None
    """What the actor lays large answers into; None on another machine."""
    spool_path: Path | None = None
    gpus: tuple[str, ...] = ()
    """The GPUs of its machine that Ray gave it."""
    is_here: bool = False
    """Whether it is on the driver's machine."""
    pid: int = 0
    """Of its process, there; 0 until it has started."""
    was_frozen: bool = False
    """Whether it was ended for its silence."""
    batches: dict[int, Batch] = field(default_factory=dict)
    """Batches sent and not yet answered, by number; the actor runs them in this order."""
    turned: float = 0.0
    """When the first of them became the first, by the driver's clock."""

    def send(self, parcel: Parcel, jobs: list[Job]) -> None:
        """Send the batch `parcel` of `jobs`; the spool has a place free, since few batches are queued at once."""
        taken = {batch.place for batch in self.batches.values()}
        place = next(place for place in range(QUEUED_BATCHES) if place not in taken)
        ref = self.actor.run.remote(parcel._replace(place=place))
        if not self.batches:
            self.turned = time.monotonic()
        self.batches[parcel.number] = Batch(jobs, ref, place)

    def answers(self, number: int) -> Done:
        """What a batch came to; RayError if it is lost."""
        batch = self.batches[number]
        return ray.get(batch.ref).open(self.spool, batch.place)

    def done(self, number: int) -> list[Job]:
        """Take the batch off its list, for it was answered; its jobs."""
        self.turned = time.monotonic()
        return self.batches.pop(number).jobs

    @property
    def taken(self) -> Need:
        """What its clients take, at most: batches run one after another."""
        needs = [batch.jobs[0].need for batch in self.batches.values()]
        return Need(max((need.cpus for need in needs), default=0.0), max((need.gpus for need in needs), default=0.0))

    def greet(self) -> None:
        """Take note that the actor has started; RayError if it could not."""
        if self.greeting is not None:
            self.gpus, self.pid = ray.get(self.greeting)
        self.greeting = None
        self._unlink_spool()  # both have it open; it goes when they do

    def is_silent(self, client_timeout: float) -> bool:
        """Whether it has been at a client, or has not begun with one, for longer than its own clock would let it.

        On another machine nobody sees which client it is at, so it has the time of its whole batch.
        """
        if not self.batches:
            return False
        first, batch = next(iter(self.batches.items()))
        number, index, seconds = look_at_progress(self.progress) if self.progress.exists() else (-1, -1, 0.0)
        has_begun = number >= first
        if not has_begun:
            seconds = time.monotonic() - self.turned - BEGIN_SECONDS
        clients = 1 if self.is_here and (index >= 0 or not has_begun) else len(batch.jobs)
        if seconds <= (0.2 + clients) * client_timeout + GRACE_SECONDS:
            return False
        return not ray.wait([batch.ref], timeout=0)[0]  # it may have answered, and the driver have had no time for it

    def kill(self) -> None:
        """End the process, which may be stopped and deaf to Ray."""
        if not self.pid:  # to the system 0 is everybody of this group
            raise ValueError("the worker has not started: which process it is nobody knows")
        if self.is_here and _state(self.pid):
            os.kill(self.pid, signal.SIGKILL)
        else:
            place = NodeAffinitySchedulingStrategy(self.node, soft=False)
            killer = ray.remote(num_cpus=0, max_retries=0)(os.kill).options(scheduling_strategy=place)
            killer.remote(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing behind of an actor that is dead."""
        self.progress.unlink(missing_ok=True)
        self._unlink_spool()
        if self.spool is not None:
            self.spool.close()

    def _unlink_spool(self) -> None:
        if self.spool_path is not None:
            self.spool_path.unlink(missing_ok=True)

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


class Crew:
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
        self._listened = 0.0
        self.workers: list[Member] = []
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
        """Whether any batch is under way."""
        return any(worker.batches for worker in self.workers)

    @property
    def ready(self) -> list[Member]:
        """The workers that have started."""
        return [worker for worker in self.workers if worker.greeting is None]

    def wait(self, seconds: float) -> Iterator[tuple[Member, int | None]]:
        """Batches that are done or lost, None for a start, waiting up to `seconds` for the first.

        RuntimeError if for a while no machine carries a worker.
        """
        if time.monotonic() - self._looked > LOOK_AT_NODES_SECONDS:
            self.recruit()
        owners: dict[ray.ObjectRef, tuple[Member, int | None]] = {}
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

    def end_silent(self, client_timeout: float) -> None:
        """End workers that do not end themselves after `client_timeout`: stopped ones, and such as no signal reaches.

        Their work is lost as that of others that die.
        """
        if not client_timeout or time.monotonic() - self._listened < LISTEN_SECONDS:
            return
        self._listened = time.monotonic()
        for worker in self.ready:
            if not worker.was_frozen and worker.is_silent(client_timeout):
                logger.warning("a worker is silent for longer than the client-timeout of %g s allows", client_timeout)
                worker.was_frozen = True
                worker.kill()

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

    def has_room(self, worker: Member, need: Need) -> bool:
        """Whether the worker's machine, and its GPU, carry a client of that need beside what the others do."""
        if len(self._needs) == 1:  # there are no more workers than fit
            return True
        others = [other for other in self.workers if other is not worker and other.node == worker.node]
        mine = Need(max(need.cpus, worker.taken.cpus), max(need.gpus, worker.taken.gpus))
        if not Need.fit([mine, *(other.taken for other in others)], self._resources[worker.node]):
            return False
        sharers = [other.taken for other in others if set(other.gpus) & set(worker.gpus)]
        return not sharers or Need.fit([Need(0.0, need.gpus) for need in (mine, *sharers)], {"GPU": 1.0})

    def replace(self, worker: Member, error: RayError) -> None:
        """Another worker for one that is dead; RuntimeError if workers die before they ever did anything."""
        self._dismiss(worker)
        self._failed_starts = 0 if worker.greeting is None else self._failed_starts + 1
        if self._failed_starts > MAX_FAILED_STARTS:
            raise RuntimeError(f"Ray workers do not start: {error}")
        self.recruit()

    def drop_work(self) -> None:
        """Forget what is under way; workers that are at it are ended, the next round starts others."""
        for worker in [worker for worker in self.workers if worker.batches]:
            self._dismiss(worker)

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for worker in self.workers[:]:
            self._dismiss(worker)

    def _dismiss(self, worker: Member) -> None:
        self.workers.remove(worker)
        with contextlib.suppress(RayError):
            ray.kill(worker.actor)
        worker.close()

    def _claim(self, need: Need) -> float:
        """What a worker for such clients asks of Ray, which then shows it a GPU: the least that one of them takes."""
        return min(other.gpus for other in self._needs if other.gpus) if need.gpus else 0.0

    @cached_property
    def _cargo(self) -> Cargo | None:
        return Cargo.load(self._data) if self._data else None

    def _start(self, node: str, gpus: float) -> Member:
        progress = Path(tempfile.gettempdir(), f"{self._name}-{next(self._numbers)}")
        # Processors are counted here and not by Ray: inside `flwr run` Flower's own idle actors hold all of them.
        options = {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0}
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        is_here = node == self._home
        cargo = None if is_here else self._cargo
        spool, path = (is_here and Spool.create(QUEUED_BATCHES)) or (None, None)
        worker = ray.remote(Worker).options(scheduling_strategy=place, **options)
        actor: Any = worker.remote(self._setting, progress, cargo, path)
        greeting = actor.greet.remote()
        return Member(actor, node, gpus > 0, progress, greeting, spool=spool, spool_path=path, is_here=is_here)


def _state(pid: int) -> str:
    """The state of a Ray worker's process on this machine; empty if it is none, or where there is no /proc."""
    try:
        process = Path(f"/proc/{pid}")
        is_worker = (process / "cmdline").read_bytes().startswith(b"ray::")
        return (process / "stat").read_text().rpartition(")")[2].split()[0] if is_worker else ""
    except OSError:
        return ""
