"""One client's round: take the submodel, see what its own examples make of it, send the scheme's messages."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fl_mlmc.compression.compressors.base import Compressed, Compressor
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import ANCHOR, MOVEMENT, TrainTask, TrainUpdate, code_stamp, payload_names
from fl_mlmc.run.rng import stream
from fl_mlmc.schemes import Part, Round, Scheme, Turn, Workload
from fl_mlmc.schemes.base import Find
from fl_mlmc.training.threads import threads

from .budget import check_budget, uplink_of
from .data import LocalData
from .finder import Finder
from .memory import ClientMemory


@dataclass(frozen=True)
class ClientReply:
    """An update and its payloads, one a message of the scheme."""

    update: TrainUpdate
    payloads: tuple[bytes, ...]
    size: int
    """Coordinates of the submodel, and so of the payloads."""


@dataclass(frozen=True)
class OpenTask:
    """A task with what its message holds: points of the model, and how far it moved in the round of the memory."""

    task: TrainTask
    finder: Finder
    points: list[Tensor]
    movement: Tensor | None


def run_task(task: TrainTask, arrays: Mapping[str, bytes], config: RunConfig, data: LocalData) -> ClientReply:
    """Look at the points that `arrays` hold with the client's own examples, and encode what the scheme sends.

    TrainingError if training gives nothing finite or the memory is lost; WireError if a payload is broken.
    """
    return finish(open_task(task, arrays, config, data), config)


def open_task(task: TrainTask, arrays: Mapping[str, bytes], config: RunConfig, data: LocalData) -> OpenTask:
    """The task with what its message holds; WireError if a payload is broken."""
    finder = Finder(task, config, data)
    return OpenTask(task, finder, *received(arrays, finder.own.size, finder.device))


def finish(opened: OpenTask, config: RunConfig) -> ClientReply:
    """The reply to a task; TrainingError as in `run_task`."""
    task, finder = opened.task, opened.finder
    with threads(config.threads_of(task.tier)):
        is_evaluated = config.output.is_evaluated(task.server_round, config.num_rounds)
        seen = finder.evaluate(opened.points[0]) if is_evaluated else {}
        scheme = config.resolved_scheme(finder.model.spec.size)
        start = time.perf_counter()
        is_part = scheme.deals_out and config.cohort.cuts_models
        part = Part(finder.model.spec.size, finder.own.indices) if is_part else None
        find = finder.gradient if scheme.moves_itself else finder.step if scheme.takes_minibatches else finder.update
        uplink = uplink_of(task, config, scheme, finder.own.size)
        turn = turn_of(task, config.seed, config.cohort.num_clients, uplink, part)
        messages = encode(scheme, find, opened.points, task, turn, opened.movement)
        payloads = tuple(encode_payload(message.payload) for message in messages)
        check_budget(payloads, uplink, task)
        total = time.perf_counter() - start
    num_steps, seconds = (sum(getattr(each, name) for each in finder.trained) for name in ("num_steps", "seconds"))
    first = messages[0]
    return ClientReply(
        TrainUpdate(
            server_round=task.server_round,
            client=task.client,
            code_stamp=code_stamp(),
            num_examples=len(finder.labels),
            num_steps=num_steps,
            train_loss=sum(each.loss * each.num_steps for each in finder.trained) / num_steps,
            train_seconds=seconds,
            encode_seconds=total - (seconds - finder.seconds_ahead),
            expected_bits=sum(message.expected_bits for message in messages),
            levels=list(first.levels),
            probabilities=list(first.probabilities),
            labels=finder.present.nonzero().flatten().tolist() if config.aggregation.average_by_label else [],
            held_out_examples=len(finder.held_out) if seen else 0,
            held_out_metrics=list(seen.values()),
            compressor=first.chosen or ("" if uplink is config.compression.uplink else repr(uplink)),
        ),
        payloads,
        finder.own.size,
    )


def received(arrays: Mapping[str, bytes], size: int, device: torch.device) -> tuple[list[Tensor], Tensor | None]:
    """The points that a message holds, and how far the model moved in the round of the client's memory."""
    vectors = {name: _last(name, size).read(payload).to(device) for name, payload in arrays.items()}
    points = [vectors[name] for name in payload_names(vectors)]
    if ANCHOR in vectors:
        points = [vectors[ANCHOR] + correction for correction in points]
    return points, vectors.get(MOVEMENT)


class _Last:
    """The vector read last: clients of a tier that are simulated one after another get the very same bytes."""

    def __init__(self, size: int) -> None:
        self._size, self._payload, self._vector = size, b"", torch.empty(0)

    def read(self, payload: bytes) -> Tensor:
        if payload is not self._payload:
            self._vector = decode_payload(payload, self._size).dense()
            self._payload = payload
        return self._vector


@lru_cache(maxsize=16)
def _last(name: str, size: int) -> _Last:
    return _Last(size)


def turn_of(task: TrainTask, seed: int, num_clients: int, uplink: Compressor, part: Part | None) -> Turn:
    """The client's part in its round, with the randomness that its compressor draws from."""
    round = Round(seed, task.server_round, num_clients, task.cohort_size)
    rng = stream(seed, "level", task.server_round, task.client)
    return Turn(round, task.rank, uplink, rng, part, Workload(task.gradients, task.messages))


def encode(
    scheme: Scheme, find: Find, points: list[Tensor], task: TrainTask, turn: Turn, movement: Tensor | None = None
) -> tuple[Compressed, ...]:
    """The scheme's messages about `points`, each of the submodel's shape; what it remembers is on disk by then.

    `movement`: how far the model moved in the round of the client's memory, where the scheme must hear of it.
    TrainingError if the memory is lost.
    """
    if not scheme.has_memory:
        return scheme.encode(find, points, {}, turn)[0]
    kept = ClientMemory(Path(task.state), task.client)
    memory = kept.load(task.memory_round, points[0]) if task.memory_round else scheme.init_client(points[0])
    if movement is not None:
        memory = scheme.settle(memory, movement)
    messages, memory = scheme.encode(find, points, memory, turn)
    kept.save(task.server_round, memory, keep=(task.memory_round, task.checkpoint_round))
    return messages
