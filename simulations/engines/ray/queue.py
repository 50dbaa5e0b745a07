"""What waits for a worker of the `ray` engine, and how much of it makes a batch."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from flwr.app import Message, MessageType

from ..needs import Need

BATCH_SECONDS = 0.1
"""Client time in a batch: long against a millisecond of Ray, short against a round."""
FIRST_GUESS_SECONDS = 0.01
MAX_BATCH = 256
QUEUED_BATCHES = 2  # one runs, the next one waits in the worker


@dataclass(eq=False)
class Job:
    """A message until its reply is there."""

    position: int
    """Its place among the round's messages."""
    message: Message
    need: Need
    group: int | None = None
    """The group whose sum its reply goes into, with the worker; None: the reply is wanted itself."""
    num_kills: int = 0
    was_lost: bool = False

    @property
    def may_join(self) -> bool:
        """Whether it may run at once with others: whom a lost worker was at is known only if they ran one by one."""
        return not self.was_lost and self.message.metadata.message_type == MessageType.TRAIN

    @property
    def node(self) -> int:
        """Whom the message is for."""
        return self.message.metadata.dst_node_id

    @cached_property
    def kind(self) -> tuple[str, int]:
        """Jobs of one kind take about equally long: the submodel's size tells tiers apart."""
        arrays = self.message.content.array_records.values()
        size = sum(len(array.data) for record in arrays for array in record.values())
        return self.message.metadata.message_type, size


class Queue:
    """Jobs that wait for a worker, in a line for each need."""

    def __init__(self) -> None:
        self._lines: dict[Need, deque[Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, jobs: Iterable[Job]) -> None:
        """Jobs at the end of their lines."""
        for job in jobs:
            self.line(job.need).append(job)

    def add_first(self, jobs: Iterable[Job]) -> None:
        """Jobs at the head of their lines, the last one first: those of a lost worker, in reverse order."""
        for job in jobs:
            self.line(job.need).appendleft(job)

    def line(self, need: Need) -> deque[Job]:
        """The jobs of one need that wait, in their order; takers take from its head."""
        return self._lines.setdefault(need, deque())

    def first_need(self, gpu: bool) -> Need | None:
        """Of the jobs that want a GPU, or of those that do not, the need of the first."""
        waiting = [line[0] for need, line in self._lines.items() if line and bool(need.gpus) == gpu]
        return min(waiting, key=lambda job: job.position).need if waiting else None


class Cost:
    """How long clients take, learned from those that are done, and the batches that follow from it."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, int], float] = {}
        self._mean = FIRST_GUESS_SECONDS

    def learn(self, job: Job, seconds: float) -> None:
        """A client was done after `seconds`: a fifth of what is thought of its kind from now on."""
        before = self._seconds.get(job.kind, seconds)
        self._seconds[job.kind] = 0.8 * before + 0.2 * seconds
        self._mean = 0.95 * self._mean + 0.05 * seconds

    def look_ahead(self, num_workers: int) -> int:
        """How many jobs to hold ready."""
        return max(1, num_workers) * 2 * QUEUED_BATCHES * min(MAX_BATCH, 1 + int(BATCH_SECONDS / self._mean))

    def take(self, queue: deque[Job], num_workers: int) -> list[Job]:
        """The next batch, of whole groups; smaller as the queue runs out, so that all workers end together."""
        most = min(MAX_BATCH, math.ceil(len(queue) / (2 * num_workers)))
        batch: list[Job] = []
        seconds = 0.0
        while queue and len(batch) < most and seconds < BATCH_SECONDS:
            batch.append(queue.popleft())
            group = batch[-1].group
            while queue and group is not None and queue[0].group == group:
                batch.append(queue.popleft())
                seconds += self._seconds.get(batch[-1].kind, self._mean)
            seconds += self._seconds.get(batch[-1].kind, self._mean)
        return batch
