"""Which task a reply answers, and whose turn it is: sums of floats depend on their order, and replies come in any."""

from collections.abc import Iterable, Iterator
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log

from .round import OpenRound, Taken
from .summing import Summed


def in_client_order(
    opened: OpenRound, replies: Iterable[Message | Summed]
) -> Iterator[tuple[int, Message | Taken | None]]:
    """Pair every client of the cohort with its reply, in ascending order; None for one that never came.

    A reply is held back only while one before it is out. The sums of groups are laid into `opened.sums` before the
    last of their clients is given.
    """
    waiting: dict[int, Message | Taken] = {}
    seen: set[int] = set()
    num_given = 0
    for reply in replies:
        if isinstance(reply, Summed):
            new: list[tuple[int, Message | Taken]] = list(reply.taken)
            opened.sums[opened.gathering.group_of(new[0][0])] = reply.sums
        else:
            client = opened.client_of(reply)
            if client is None or client in seen:
                log(WARNING, "ignored a reply of node %d that answers no open task", reply.metadata.src_node_id)
                continue
            new = [(client, reply)]
        seen.update(client for client, _ in new)
        waiting.update(new)
        while num_given < len(opened.cohort) and (awaited := opened.cohort[num_given]) in waiting:
            yield awaited, waiting.pop(awaited)
            num_given += 1
    for client in opened.cohort[num_given:]:
        yield client, waiting.pop(client, None)
