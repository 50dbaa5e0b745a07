"""One client's round of a bilevel run: take its part of x, y and v, step them, send back the compressed change.

What is personal (y and v, or x) is read from the client's memory, steps along, and is kept there, full size.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from fl_mlmc.bilevel import Held, Point, Shard
from fl_mlmc.bilevel.problem import ClientData
from fl_mlmc.bilevel.rabo import Reply, Scheme, advance
from fl_mlmc.bilevel.run import data_of, first_point, held_of, problem_of, scheme_of
from fl_mlmc.config import RunConfig
from fl_mlmc.protocol import TrainTask, TrainUpdate, code_stamp
from fl_mlmc.rng import stream
from fl_mlmc.wire import encode_payload

from .budget import check_budget, uplink_of
from .data import LocalData
from .sgd_client import ClientReply, encode, received
from .state import ClientMemory
from .trainer import TrainingError, device_of, threads

PERSONAL = "personal"
"""The folder of the run's memories where the clients' own parts of the point lie, beside what schemes remember."""


class DivergedError(TrainingError):
    """The steps led to values that are not finite; `curvature` is the last that was seen along v, NaN if none was."""

    def __init__(self, curvature: float) -> None:
        super().__init__(f"the bilevel steps diverge; the curvature along v was {curvature:.3g}")
        self.curvature = curvature


def run_bilevel_task(task: TrainTask, arrays: Mapping[str, bytes], config: RunConfig, data: LocalData) -> ClientReply:
    """Step what `arrays` hold on the client's own examples, of which the outer loss has some for itself.

    DivergedError if that gives no finite update; WireError if the payload is broken.
    """
    with threads(config.threads_of(task.tier)):
        start = time.perf_counter()
        problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
        device = device_of(config)
        features, labels = (torch.from_numpy(part).to(device) for part in data.client(task.client))
        shard = Shard(task.client, features, labels, config.seed, config.outer_share, config.batch_size)
        own = data_of(problem, shard)
        held = held_of(config, problem, own, task.width, task.server_round, task.client)
        memory = _Personal(task, config, held, device)
        (state,), _ = received(arrays, held.num_values, device)
        reply = _step(scheme_of(config, own.num_examples, task.server_round), held, state, memory, own, config, task)
        encode_start = time.perf_counter()
        update = held.pack(reply.update)
        scheme = config.resolved_scheme(problem.state_spec.size)
        uplink = uplink_of(task, config, len(update))
        (compressed,) = encode(scheme, lambda point, sample=0: update, [update], task, config)
        encoded = encode_payload(compressed.payload)
        check_budget([encoded], uplink, task)
        end = time.perf_counter()
    return ClientReply(
        TrainUpdate(
            server_round=task.server_round,
            client=task.client,
            code_stamp=code_stamp(),
            num_examples=own.num_examples,
            num_steps=reply.num_steps,
            train_loss=float(reply.loss),
            train_seconds=encode_start - start,
            encode_seconds=end - encode_start,
            expected_bits=compressed.expected_bits,
            levels=list(compressed.levels),
            probabilities=list(compressed.probabilities),
            labels=[],
            compressor="" if uplink is config.uplink else repr(uplink),
            curvature=float(reply.curvature.nan_to_num(torch.inf)),
        ),
        (encoded,),
        held.num_values,
    )


class _Personal:
    """The client's own point: what the server does not send, as it was after the round that the server counts on."""

    def __init__(self, task: TrainTask, config: RunConfig, held: Held, device: torch.device) -> None:
        self._task, self._held = task, held
        self._names = [name for name, sent in zip("xyv", held.problem.travels, strict=True) if not sent]
        self._memory = ClientMemory(Path(task.state) / PERSONAL, task.client)
        first = Point(*(part.to(device) for part in first_point(config, held.problem, config.seed)))
        if self._names and task.memory_round:
            kept = self._memory.load(task.memory_round, first.y if "y" in self._names else first.x)
            first = first._replace(**kept)
        self.point = first

    def keep(self, scheme: Scheme, reply: Reply) -> None:
        """Step it, and have it on disk before the reply is sent."""
        if self._names:
            change = self._held.scatter(reply.update)
            after = advance(scheme, self._held.problem, self.point, change, reply.num_steps)
            state = {name: getattr(after, name) for name in self._names}
            rounds = (self._task.memory_round, self._task.checkpoint_round)
            self._memory.save(self._task.server_round, state, keep=rounds)


def _step(
    scheme: Scheme,
    held: Held,
    state: torch.Tensor,
    memory: _Personal,
    data: ClientData,
    config: RunConfig,
    task: TrainTask,
) -> Reply:
    rng = stream(config.seed, "batches", task.server_round, task.client)
    reply = scheme.client(held, held.unpack(state, held.gather(memory.point)), data, rng)
    if not all(bool(part.isfinite().all()) for part in (*reply.update, reply.loss)):
        raise DivergedError(float(reply.curvature))
    memory.keep(scheme, reply)
    return reply
