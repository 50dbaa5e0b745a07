"""Real devices as a Grid: replies until the deadline, or until enough are there; nobody holds up the others.

Flower's own `send_and_receive` fetches replies one after another. A device that announces a reply and then uploads it
slowly, or never, would keep the server there past any deadline. Here every reply is fetched by a thread of its own.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS = 0.5
UNREADABLE = 0  # flwr's ErrorCode.UNKNOWN

Fetched = tuple[str, Message | Exception | None]


class DeviceGrid(Grid):
    """The Grid that Flower hands over, with a deadline that holds.

    Replies that miss their round are fetched all the same, counted and thrown away, so they neither pile up on the
    SuperLink nor get into another round.
    """

    def __init__(self, flowers: Grid) -> None:
        self._flowers = flowers
        self._late: queue.SimpleQueue[Fetched] = queue.SimpleQueue()

    def collect(self, messages: Iterable[Message], seconds: float, wanted: int = 0) -> Iterator[Message]:
        """The replies that come within `seconds`, or the first `wanted` good ones if that is above 0.

        A reply that cannot be read becomes an error reply. What the SuperLink itself cannot do is raised.
        """
        outgoing = list(messages)
        if not outgoing:
            return
        deadline = time.monotonic() + seconds
        names = list(self._flowers.push_messages(outgoing))
        sent = {name: message for name, message in zip(names, outgoing, strict=False) if name}
        results: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        over = threading.Event()
        for name, message in sent.items():
            ends = time.monotonic() + message.metadata.ttl  # so long the SuperLink keeps the task
            arguments = (name, ends, results, over, max(POLL_SECONDS, len(sent) / 50))
            threading.Thread(target=self._fetch, args=arguments, daemon=True).start()
        num_good = 0
        try:
            for _ in sent:
                try:
                    name, found = results.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                reply = _as_reply(sent[name], found)
                num_good += reply.has_content()
                yield reply
                if wanted and num_good >= wanted:
                    break
        finally:
            over.set()
            while not results.empty():  # fetched, but not in time
                self._late.put(results.get())

    def take_late(self) -> int:
        """How many replies came, since this was last asked, after their round was over; they are gone now."""
        count = 0
        while not self._late.empty():
            _, found = self._late.get()
            count += isinstance(found, Message) and found.has_content()
        return count

    def names(self) -> dict[int, str]:
        """The name that each node was registered under; without node authentication there are none."""
        nodes: Iterable[Any] = self._flowers.get_nodes()
        return {node.node_id: node.name for node in nodes if node.name}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return list(self.collect(messages, 3600.0 if timeout is None else timeout))

    def get_node_ids(self) -> Iterable[int]:
        return self._flowers.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._flowers.push_messages(list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._flowers.pull_messages(message_ids)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def set_run(self, run: Any) -> None:
        self._flowers.set_run(run)

    @property
    def run(self) -> Any:
        return self._flowers.run

    def _fetch(
        self, name: str, ends: float, results: "queue.SimpleQueue[Fetched]", over: threading.Event, pause: float
    ) -> None:
        found: Message | Exception | None = None
        while found is None and time.monotonic() < ends:
            try:
                found = next(iter(self._flowers.pull_messages([name])), None)
            except Exception as error:  # what a hostile node made of its reply, or the end of the SuperLink
                found = error
            if found is None:
                time.sleep(pause)
        (self._late if over.is_set() else results).put((name, found))


def _as_reply(sent: Message, found: Message | Exception | None) -> Message:
    if isinstance(found, httpx.HTTPError):
        raise found
    if found is None:
        return Message(Error(UNREADABLE, "no reply in time"), reply_to=sent)
    if isinstance(found, Exception):
        return Message(Error(UNREADABLE, f"its reply cannot be read: {type(found).__name__}: {found}"), reply_to=sent)
    # The SuperLink signs what it says of a node that is gone with its own name.
    return Message(found.error, reply_to=sent) if found.has_error() else found
