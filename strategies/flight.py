"""An update on its way: computed from an older model, and in at a time to come. It outlives the process."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl_mlmc.compression.wire import decode_payload
from fl_mlmc.run.protocol import TrainUpdate

from .round import Answer, Reading, Sent


@dataclass(frozen=True, eq=False)
class Flight:
    """A reply that is in at `arrives`, simulated seconds. Flights are ordered by that, then by client number."""

    arrives: float
    reading: Reading
    data: tuple[bytes, ...] = ()
    """Its payloads as they came; none where there is no update."""

    def __lt__(self, other: "Flight") -> bool:
        """Whether it is in first."""
        return (self.arrives, self.client) < (other.arrives, other.client)

    @property
    def client(self) -> int:
        """Whose it is."""
        return self.reading.answer.sent.task.client

    @property
    def begun_in(self) -> int:
        """The round whose model it started from."""
        return self.reading.answer.sent.task.server_round

    def packed(self) -> Tensor:
        """All of it as bytes, uint8: a line of JSON, then the payloads."""
        answer = self.reading.answer
        head = {
            "client": self.client,
            "round": self.begun_in,
            "arrives": self.arrives,
            "begins": answer.begins,
            "simulated_seconds": answer.simulated_seconds,
            "downlink_bytes": answer.sent.downlink_bytes,
            "payload_bytes": answer.payload_bytes,
            "message_bytes": answer.message_bytes,
            "reason": answer.reason,
            "update": answer.update.to_config() if answer.update else None,
            "lengths": [len(each) for each in self.data],
        }
        whole = json.dumps(head).encode() + b"\n" + b"".join(self.data)
        return torch.from_numpy(np.frombuffer(whole, np.uint8).copy())


def unpacked(packed: Tensor, sent_of: Callable[[int, int], Sent]) -> Flight:
    """What `packed` made, where `sent_of` gives the task of a client in a round, as it was sent."""
    line, _, rest = packed.numpy().tobytes().partition(b"\n")
    head: dict[str, Any] = json.loads(line)
    sent = replace(sent_of(head["client"], head["round"]), downlink_bytes=head["downlink_bytes"])
    ends = np.cumsum([0, *head["lengths"]]).tolist()
    data = tuple(rest[start:end] for start, end in pairwise(ends))
    update = None if head["update"] is None else TrainUpdate.from_config(head["update"])
    told = ("payload_bytes", "message_bytes", "reason", "simulated_seconds", "begins")
    answer = Answer(sent, update=update, **{name: head[name] for name in told})
    return Flight(head["arrives"], Reading(answer, [decode_payload(each, sent.plan.size) for each in data]), data)
