"""Real devices as a Grid: replies until the deadline, or until enough are there; nobody holds up the others.

Flower's own `send_and_receive` fetches replies one after another. A device that announces a reply and then uploads it
slowly, or never, would keep the server there past any deadline. Here each node has a thread of its own while it owes
replies: a stalled upload holds up nothing but later replies of the same node, and there are never more threads than
nodes, however many rounds a silent one lets pass.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS = 0.5
MOST_POLLS = 50
"""Questions a second to the SuperLink, from all threads together, once nodes are many."""

UNREADABLE = 0  # flwr's ErrorCode.UNKNOWN

Fetched = tuple[str, Message | Exception | None]


@dataclass(frozen=True, eq=False)
class _Owed:
    """A task sent whose reply is awaited until `ends`, for the round that reads `results` until it is `over`."""

    name: str
    ends: float
    results: "queue.SimpleQueue[Fetched]"
    over: threading.Event


class DeviceGrid(Grid):
    """The Grid that Flower hands over, with a deadline that holds.

    Replies that miss their round are fetched all the same, counted and thrown away, so they neither pile up on the
    SuperLink nor get into another round.
    """

    def __init__(self, flowers: Grid) -> None:
        self._flowers = flowers
        self._late: queue.SimpleQueue[Fetched] = queue.SimpleQueue()
        self._owed: dict[int, list[_Owed]] = {}  # by node, oldest first; a node that is in it has a thread
        self._lock = threading.Lock()

    def collect(self, messages: Iterable[Message], seconds: float, wanted: int = 0) -> Iterator[Message]:
        """The replies that come within `seconds`, or the first `wanted` good ones if that is above 0.

        What the caller makes of one, such as decoding it, counts against the `seconds`.
        A reply that cannot be read, or that bears another name than its task, becomes an error reply of the node that
        the task was for. What the SuperLink itself cannot do is raised.
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
            self._await(message.metadata.dst_node_id, _Owed(name, ends, results, over))
        num_good = 0
        try:
            for _ in sent:
                left = deadline - time.monotonic()
                if left <= 0:  # what is made of one reply is time that the others lack
                    break
                try:
                    name, found = results.get(timeout=left)
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
        """All replies that come within `timeout` seconds, an hour by default."""
        return list(self.collect(messages, 3600.0 if timeout is None else timeout))

    def get_node_ids(self) -> Iterable[int]:
        """Flower's numbers of the nodes that are connected."""
        return self._flowers.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages without waiting; their names."""
        return self._flowers.push_messages(list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages of these names that are there by now."""
        return self._flowers.pull_messages(message_ids)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node; Flower asks a Grid for this."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def set_run(self, run: Any) -> None:
        """Say which run this Grid is of; Flower does at the start."""
        self._flowers.set_run(run)

    @property
    def run(self) -> Any:
        """Flower's description of the run."""
        return self._flowers.run

    def _await(self, node: int, task: _Owed) -> None:
        with self._lock:
            is_watched = node in self._owed
            self._owed.setdefault(node, []).append(task)
        if not is_watched:
            threading.Thread(target=self._watch, args=(node,), daemon=True).start()

    def _watch(self, node: int) -> None:
        """Fetch what `node` owes until it owes nothing."""
        num_passes = 0
        while True:
            with self._lock:
                owed = self._owed[node]
                if not owed:
                    del self._owed[node]
                    return
                # A round waits for the newest; of the older ones one a pass, in turn.
                tasks = [owed[-1], *([owed[num_passes % (len(owed) - 1)]] if len(owed) > 1 else [])]
                num_watched = len(self._owed)
            num_passes += 1
            for task in tasks:
                found = self._fetch(task)
                if found is not None or time.monotonic() >= task.ends:
                    with self._lock:
                        owed.remove(task)
                    (self._late if task.over.is_set() else task.results).put((task.name, found))
            if owed:
                time.sleep(max(POLL_SECONDS, num_watched / MOST_POLLS))

    def _fetch(self, task: _Owed) -> Message | Exception | None:
        if time.monotonic() >= task.ends:
            return None
        try:
            return next(iter(self._flowers.pull_messages([task.name])), None)
        except Exception as error:  # what a hostile node made of its reply, or the end of the SuperLink
            return error


def _as_reply(sent: Message, found: Message | Exception | None) -> Message:
    if isinstance(found, httpx.HTTPError):
        raise found
    if found is None:
        return Message(Error(UNREADABLE, "no reply in time"), reply_to=sent)
    if isinstance(found, Exception):
        return Message(Error(UNREADABLE, f"its reply cannot be read: {type(found).__name__}: {found}"), reply_to=sent)
    if found.has_error():  # the SuperLink signs what it says of a node that is gone with its own name
        return Message(found.error, reply_to=sent)
    asked, answered = sent.metadata, found.metadata
    if (answered.src_node_id, answered.group_id) != (asked.dst_node_id, asked.group_id):
        # The SuperLink knows whose task this answers; what the reply says of itself is the sender's own text.
        reason = f"its reply calls itself one of node {answered.src_node_id} to task {answered.group_id!r}"
        return Message(Error(UNREADABLE, reason), reply_to=sent)
    return found
