"""How a reply is taken: read, checked and added to the round's sums, by the same code wherever that is done."""

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flwr.app import Message

from fl_mlmc.aggregation.fednova import StepNorm
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.own import references
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.config.aggregation import AggregationConfig
from fl_mlmc.run.protocol import TrainUpdate, code_stamp, reason_of
from fl_mlmc.submodels import IndexPlan

from .held_out import HeldOut, check_metrics
from .replies import ClientFailed, read_update, sizes
from .round import Asked, Taken

Add = Callable[[IndexPlan, Sequence[Payload], float, list[int] | None], None]
"""Adds a client's messages to the sums, with its weight and its labels; ValueError if they cannot be taken."""


class Taking:
    """The rules of a run for replies. `num_messages` of the scheme; `server_stamp`: the code that clients must run."""

    def __init__(self, config: RunConfig, num_messages: int, server_stamp: str = "") -> None:
        self._aggregation, self._num_messages = config.aggregation, num_messages
        self._step_norm = StepNorm(config.training) if config.aggregation.weighting == "fednova" else None
        self._held_out = HeldOut.of(config)
        self._named = references(config.compression.compressor)
        self._server_stamp = server_stamp or code_stamp()

    def take(self, asked: Asked, reply: Message | None, add: Add) -> Taken:
        """What came of a client's task: `add` has its messages, if the reply keeps the rules."""
        payload_bytes = message_bytes = 0
        num_steps: int | None = None
        try:
            payload_bytes, message_bytes = sizes(reply)
            update, payloads = read_update(
                reply, asked, self._aggregation, self._num_messages, self._named, self._server_stamp
            )
            num_steps = update.num_steps
            if self._held_out or update.held_out_metrics:
                check_metrics(update, self._held_out)
            if self._step_norm:
                norm = self._step_norm.of(update.num_examples, asked.task.server_round)
                payloads = [payload.scaled(1 / norm) for payload in payloads]
            add(asked.plan, payloads, *counted(update, self._aggregation))
        except Exception as error:  # a reply is of somebody else's making: whatever it raises costs it alone
            failure = error.failure if isinstance(error, ClientFailed) else None
            # Another error nobody foresaw: it may be a fault of ours.
            trace = "" if isinstance(error, ValueError) else "".join(traceback.format_exception(error))
            return Taken(payload_bytes, message_bytes, None, reason_of(error), failure, trace, num_steps)
        return Taken(payload_bytes, message_bytes, update, num_steps=num_steps)


class Counted(NamedTuple):
    """An update's weight, and the classes that it speaks of; None: all."""

    weight: float
    labels: list[int] | None


def counted(update: TrainUpdate, aggregation: AggregationConfig) -> Counted:
    """How an update counts in the mean."""
    weight = 1 if aggregation.weighting == "clients" else update.num_examples
    return Counted(weight, update.labels if aggregation.average_by_label else None)
