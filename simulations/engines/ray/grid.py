"""The `ray` engine: clients run in batches on Ray actors, one for each processor of the cluster.

Work that is lost with a worker is done again elsewhere, so faults change no result: a client's reply is a function
of its message and its node's state. A client that takes its worker down twice is given up.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from ray.exceptions import RayError, RayTaskError

from fl_mlmc.aggregation import Groups
from fl_mlmc.run.config import Scalar
from fl_mlmc.strategies.summing import Sum, SummingGrid

from ..needs import Needs
from ..simulated import SimulatedGrid
from .crew import Crew, Member
from .queue import QUEUED_BATCHES, Cost, Job, Queue
from .worker import AtOnce, Parcel, Setting

MAX_KILLS = 2
AHEAD = 16
"""Groups for each worker that may be summed before their turn: the server holds no more of them."""
CRASHED = 8  # flwr's ErrorCode.CLIENT_APP_CRASHED

logger = logging.getLogger(__name__)


class RayGrid(SimulatedGrid, SummingGrid):
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
        self._crew = Crew(self._needs.kinds, setting, data)
        self._cost = Cost()
        self._rounds = itertools.count(1)
        self._batches = itertools.count(1)
        self._sum: tuple[Sum | None, ray.ObjectRef | None] = None, None

    def get_node_ids(self) -> Iterable[int]:
        """The range 1 to `num_nodes`: nodes that differ in nothing but their number."""
        # A range, not a list: it says that the nodes differ in nothing but their number, and costs a million nothing.
        return range(1, self.num_nodes + 1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """The replies in the order in which they come; clients without one after `timeout` seconds are given up.

        RuntimeError where no machine carries a client, or no worker starts.
        """
        source = ([self._job(position, message)] for position, message in enumerate(messages))
        return self._exchange(source, 1, timeout)

    def sum_and_receive(
        self, messages: Iterable[Message], groups: Groups, summing: Sum, *, timeout: float | None = None
    ) -> Iterator[Any]:
        """As `send_and_receive`, but the sums of groups in place of their replies.

        The round's last groups, one for each worker, are answered client by client: workers end together. So are all
        where tiers differ in what they need, for the clients of a group then run on different workers.
        """
        if len(self._needs.kinds) > 1:
            return self.send_and_receive(messages, timeout=timeout)
        if self._sum[0] is not summing:
            self._sum = summing, ray.put(summing)
        num_summed, numbered = len(groups) - len(self._crew.workers), enumerate(messages)

        def jobs(number: int) -> list[Job]:
            group = number if number < num_summed else None
            return [self._job(*each, group) for each in itertools.islice(numbered, len(groups.ranks(number)))]

        return self._exchange(map(jobs, range(len(groups))), groups.size, timeout)

    def _job(self, position: int, message: Message, group: int | None = None) -> Job:
        return Job(position, self.number(message), self._needs.of(message), group)

    def _exchange(self, source: Iterator[list[Job]], unit: int, timeout: float | None) -> Iterator[Any]:
        """Answers to the jobs of `source`, which come by lists of `unit` at most that stay together."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        server_round, broadcast = next(self._rounds), _Broadcast()
        self._crew.recruit()
        queue = Queue()
        try:
            while time.monotonic() < deadline:
                self._hand_out(queue, source, unit, server_round, broadcast)
                if not queue and not self._crew.is_busy:
                    return
                self._crew.end_silent(self._client_timeout)
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

    def _hand_out(
        self, queue: "Queue", source: Iterator[list[Job]], unit: int, server_round: int, broadcast: "_Broadcast"
    ) -> None:
        ready = self._crew.ready
        for depth in range(1, QUEUED_BATCHES + 1):
            # Making messages takes time, so nobody waits for more than is needed to begin.
            num_idle = sum(not worker.batches for worker in ready)
            wanted = unit * num_idle if depth == 1 else self._cost.look_ahead(len(ready))
            while len(queue) < wanted and (jobs := next(source, None)) is not None:
                queue.add(jobs)
            for worker in ready:
                need = queue.first_need(worker.has_gpu) if len(worker.batches) < depth else None
                if need is not None and self._is_near(queue.line(need)[0]) and self._crew.has_room(worker, need):
                    jobs = self._cost.take(queue.line(need), len(ready))
                    states = (self._states.get(job.node) for job in jobs)
                    messages = zip((job.message for job in jobs), states, strict=True)
                    at_once = self._at_once and len(jobs) > 1 and all(job.may_join for job in jobs)
                    groups = [job.group for job in jobs]
                    parcel = Parcel.pack(
                        next(self._batches), server_round, list(messages), broadcast.put, at_once, groups, self._sum[1]
                    )
                    worker.send(parcel, jobs)

    def _is_near(self, job: Job) -> bool:
        """Whether a job's group is not far ahead of the first one under way, which sums of later groups wait for."""
        if job.group is None:
            return True
        firsts = (batch.jobs[0].group for worker in self._crew.workers for batch in worker.batches.values())
        open_groups = [group for group in firsts if group is not None]
        return not open_groups or job.group - min(open_groups) <= AHEAD * len(self._crew.workers)

    def _take_in(self, worker: "Member", number: int | None, queue: "Queue") -> Iterator[Any]:
        """The replies and sums of a batch; if it is lost, its clients go back into the queue."""
        try:
            if number is None:
                worker.greet()
                return
            done = worker.answers(number)
        except RayTaskError:
            raise
        except RayError as error:
            yield from self._retry(worker, error, queue)
            return
        for job, (reply, state, seconds) in zip(worker.done(number), done.answers, strict=True):
            self._cost.learn(job, seconds)
            if state is None:
                self._states.pop(job.node, None)
            else:
                self._states[job.node] = state
            if reply is not None:
                yield reply
        yield from done.sums

    def _retry(self, worker: "Member", error: RayError, queue: "Queue") -> Iterator[Message]:
        """Put a dead worker's clients back into the queue; an error reply for one that has cost too many workers."""
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
            if 0 < self._client_timeout <= seconds and not worker.was_frozen:
                reason = f"it ran longer than the client-timeout of {self._client_timeout:g} s"
            elif suspect.num_kills >= MAX_KILLS:
                reason = f"it killed its worker {suspect.num_kills} times ({_first_line(error)})"
        queue.add_first(job for job in reversed(jobs) if reason is None or job is not suspect)
        if suspect is not None and reason is not None:
            logger.warning("gave up the client of node %d: %s", suspect.node, reason)
            yield Message(Error(CRASHED, reason), reply_to=suspect.message)


class _Broadcast:
    """What one round has laid into the object store; it goes when the round does."""

    def __init__(self) -> None:
        self._refs: dict[int, tuple[bytes, ray.ObjectRef]] = {}

    def put(self, data: bytes) -> ray.ObjectRef:
        # Messages of a tier hold the very same bytes. Keeping them here keeps their identity from being reused.
        if id(data) not in self._refs:
            self._refs[id(data)] = data, ray.put(data)
        return self._refs[id(data)][1]


def _first_line(error: BaseException) -> str:
    # Ray's word on a machine that ran out of memory is one line of 3 kB, a list of its processes after the first ";".
    return next((line.strip().split("; ")[0] for line in str(error).splitlines() if line.strip()), type(error).__name__)
