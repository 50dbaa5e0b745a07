"""One client's round of a bilevel run: take its part of x, y and v, step them, send back the compressed change.

What is personal (y and v, or x) is read from the client's memory, steps along, and is kept there, full size.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fl_mlmc import schemes
from fl_mlmc.bilevel import BilevelProblem, Held, Point, Shard
from fl_mlmc.bilevel.base import Method, Reply
from fl_mlmc.bilevel.run import data_of, first_point, held_of, method_of, problem_of
from fl_mlmc.bilevel.server_step import advance
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import TrainTask, TrainUpdate, code_stamp
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import plan
from fl_mlmc.training.local import TrainingError, device_named
from fl_mlmc.training.threads import threads

from .budget import check_budget, uplink_of
from .data import LocalData
from .memory import ClientMemory
from .sgd_client import ClientReply, encode, received, turn_of

PERSONAL = "personal"
"""The folder of the run's memories where the clients' own parts of the point lie, beside what schemes remember."""


class DivergedError(TrainingError):
    """The steps led to values that are not finite; `curvature` is the last that was seen along v, NaN if none was."""

    def __init__(self, curvature: float) -> None:
        super().__init__(f"the bilevel steps diverge; the curvature along v was {curvature:.3g}")
        self.curvature = curvature


def run_bilevel_task(task: TrainTask, arrays: Mapping[str, bytes], config: RunConfig, data: LocalData) -> ClientReply:
    """Step what `arrays` hold on the client's own examples, of which the outer loss has some for itself.

    DivergedError if that gives no finite update; WireError if a payload is broken.
    """
    with threads(config.threads_of(task.tier)):
        problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
        finder = _Finder(task, config, data)
        points, movement = received(arrays, finder.held.num_values, finder.device)
        uploads = config.resolved_scheme(problem.state_spec.size)
        start = time.perf_counter()
        part = _part(problem, task, config) if uploads.deals_out and config.cohort.cuts_models else None
        uplink = uplink_of(task, config, uploads, finder.held.num_values)
        turn = turn_of(task, config.seed, config.cohort.num_clients, uplink, part)
        messages = encode(uploads, finder, points, task, turn, movement)
        finder.keep()
        payloads = tuple(encode_payload(message.payload) for message in messages)
        check_budget(payloads, uplink, task)
        total = time.perf_counter() - start
    reply, first = finder.replies[0], messages[0]
    return ClientReply(
        TrainUpdate(
            server_round=task.server_round,
            client=task.client,
            code_stamp=code_stamp(),
            num_examples=finder.num_examples,
            num_steps=sum(each.num_steps for each in finder.replies),
            train_loss=float(reply.loss),
            train_seconds=finder.seconds,
            encode_seconds=total - finder.seconds,
            expected_bits=sum(message.expected_bits for message in messages),
            levels=list(first.levels),
            probabilities=list(first.probabilities),
            labels=[],
            compressor=first.chosen or ("" if uplink is config.compression.uplink else repr(uplink)),
            curvature=float(reply.curvature.nan_to_num(torch.inf)),
        ),
        payloads,
        finder.held.num_values,
    )


def _part(problem: BilevelProblem, task: TrainTask, config: RunConfig) -> schemes.Part:
    spec = problem.state_spec
    own = plan(spec, config.cohort.width_rule, task.width, task.server_round, task.client, config.seed)
    return schemes.Part(spec.size, own.indices)


class _Finder:
    """What a client finds at a point: the change that a local step makes of what is shared, as one vector.

    Its own part is as it was after the round that the server counts on.
    """

    def __init__(self, task: TrainTask, config: RunConfig, data: LocalData) -> None:
        self._task, self._config = task, config
        self.device = device_named(config.engine.device)
        features, labels = (torch.from_numpy(part).to(self.device) for part in data.client(task.client))
        problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
        shard = Shard(
            task.client, features, labels, config.seed, config.training.outer_share, config.training.batch_size
        )
        self._data = data_of(problem, shard)
        self.num_examples = self._data.num_examples
        self.held: Held = held_of(config, problem, self._data, task.width, task.server_round, task.client)
        self._method: Method = method_of(config, self.num_examples, task.server_round)
        self._names = [name for name, sent in zip("xyv", self.held.problem.travels, strict=True) if not sent]
        self._memory = ClientMemory(Path(task.state) / PERSONAL, task.client)
        self._own = self._load()
        self.replies: list[Reply] = []
        self.seconds = 0.0

    def __call__(self, point: Tensor, sample: int = 0) -> Tensor:
        """Equal numbers see the same minibatches; DivergedError where the steps lead to infinity."""
        start = time.perf_counter()
        which = [sample] if sample else []
        rng = stream(self._config.seed, "batches", self._task.server_round, self._task.client, *which)
        at = self.held.unpack(point, self.held.gather(self._own))
        reply = self._method.client(self.held, at, self._data, rng)
        if not all(bool(part.isfinite().all()) for part in (*reply.update, reply.loss)):
            raise DivergedError(float(reply.curvature))
        self.replies.append(reply)
        self.seconds += time.perf_counter() - start
        return self.held.pack(reply.update)

    def keep(self) -> None:
        """Step the client's own part, and have it on disk before the reply is sent."""
        if self._names:
            reply, task = self.replies[0], self._task
            change = self.held.scatter(reply.update)
            after = advance(self._method, self.held.problem, self._own, change, reply.num_steps)
            state = {name: getattr(after, name) for name in self._names}
            self._memory.save(task.server_round, state, keep=(task.memory_round, task.checkpoint_round))

    def _load(self) -> Point:
        first = first_point(self._config, self.held.problem, self._config.seed)
        first = Point(*(part.to(self.device) for part in first))
        if not self._names or not self._task.memory_round:
            return first
        return first._replace(**self._memory.load(self._task.memory_round, first.y if "y" in self._names else first.x))
