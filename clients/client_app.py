"""The Flower ClientApp: records in, records out."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.models import build_model, placed_model
from fl_mlmc.own import blamed, is_users
from fl_mlmc.run.config import RunConfig, Scalar
from fl_mlmc.run.protocol import (
    ARRAYS,
    CONFIG,
    PAYLOAD_STYPE,
    ROSTER_ACTION,
    RosterEntry,
    TrainFailure,
    TrainTask,
    code_stamp,
    payload_name,
    printable,
)
from fl_mlmc.submodels.measure import widest_tier
from fl_mlmc.training.local import TrainingError, device_named
from fl_mlmc.training.threads import threads

from .bilevel_client import DivergedError, run_bilevel_task
from .data import FederatedData, LocalData
from .device_data import DeviceData
from .sgd_client import ClientReply, OpenTask, finish, open_task, run_task
from .together import find_together

app = ClientApp()

FAILURES = (TrainingError, OSError, ValueError)
"""What costs a client its round; the server hears the reason."""


@app.query(ROSTER_ACTION)
def who(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, and the tier that it declares."""
    node = context.node_config
    first, stride = int(node.get("partition-id", 0)), int(node.get("num-partitions", 0))
    entry = RosterEntry(
        first=first,
        stride=stride,
        tier=_declared_tier(message, context, first),
        # Flower draws a simulated node's id anew in every run; the number of its partition repeats.
        node=f"partition-{first}" if stride else str(context.node_id),
        code_stamp=code_stamp(),
    )
    return Message(RecordDict({CONFIG: ConfigRecord(entry.to_config())}), reply_to=message)


def _declared_tier(message: Message, context: Context, client: int) -> str:
    """The tier in the node's config; "auto" stands for the widest whose budget a training step here keeps."""
    tier = str(context.node_config.get("tier", ""))
    if tier != "auto":
        return tier
    config = _config_here(context)
    asked = message.content.config_records[CONFIG]
    data = _data(str(context.node_config.get("data-path", asked["data"])), str(asked.get("data-meta", "")))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    inputs, labels = (
        torch.from_numpy(part[: config.training.batch_size]).to(device_named(config.engine.device))
        for part in data.client(client)
    )
    with threads():
        return widest_tier(model, config.cohort.tier_list, inputs, labels, config.cohort.width_rule).name


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client's submodel and reply with its update, or with the reason why there is none."""
    task, arrays, config, place = _asked(message, context)
    try:
        run = run_bilevel_task if config.training.task == "bilevel" else run_task
        return _reply(message, run(task, arrays, config, _data(place, task.data_meta)))
    except FAILURES as error:
        return _failure(message, task, error)


def train_together(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """What `train` would reply to each, but for rounding: clients of one width are trained at the same time."""
    replies: dict[int, Message] = {}
    tasks: dict[int, OpenTask] = {}
    for number, (message, context) in enumerate(zip(messages, contexts, strict=True)):
        task, arrays, config, place = _asked(message, context)
        try:
            tasks[number] = open_task(task, arrays, config, _data(place, task.data_meta))
        except FAILURES as error:
            replies[number] = _failure(message, task, error)
    with threads(max(config.threads_of(opened.task.tier) for opened in tasks.values())) if tasks else nullcontext():
        find_together(
            [opened.finder for opened in tasks.values()],
            [opened.points[0] for opened in tasks.values()],
            config.training,
        )
    for number, opened in tasks.items():
        try:
            replies[number] = _reply(messages[number], finish(opened, config))
        except FAILURES as error:
            replies[number] = _failure(messages[number], opened.task, error)
    return [replies[number] for number in range(len(messages))]


def _asked(message: Message, context: Context) -> tuple[TrainTask, dict[str, bytes], RunConfig, str]:
    """The task of a message, its payloads, the run's config and where the data lies."""
    task = TrainTask.from_config(message.content.config_records[CONFIG])
    arrays = {name: array.data for name, array in message.content.array_records[ARRAYS].items()}
    config = _config_here(context)
    return _on_this_node(task, context, config), arrays, config, str(context.node_config.get("data-path", task.data))


def _reply(message: Message, reply: ClientReply) -> Message:
    sent = {
        payload_name(number): Array("float32", (reply.size,), PAYLOAD_STYPE, payload)
        for number, payload in enumerate(reply.payloads)
    }
    content = RecordDict({ARRAYS: ArrayRecord(sent), CONFIG: ConfigRecord(reply.update.to_config())})
    return Message(content, reply_to=message)


def _failure(message: Message, task: TrainTask, error: Exception) -> Message:
    curvature = error.curvature if isinstance(error, DivergedError) else math.inf
    failure = TrainFailure(
        task.server_round, task.client, printable(blamed(error) if is_users(error) else error, 2000), curvature
    )
    return Message(RecordDict({CONFIG: ConfigRecord(failure.to_config())}), reply_to=message)


def _config_here(context: Context) -> RunConfig:
    """The run's config; the weights of its model lie where the node says, if it does."""
    return _config(tuple(sorted(context.run_config.items())), str(context.node_config.get("weights", "")))


@lru_cache(maxsize=4)
def _config(items: tuple[tuple[str, Scalar], ...], weights: str) -> RunConfig:
    said = dict(items)
    if weights and "model" in said:
        said["model"] = placed_model(str(said["model"]), weights)
    return RunConfig.from_flower(said)


def _on_this_node(task: TrainTask, context: Context, config: RunConfig) -> TrainTask:
    """The task with what the node's own config says of it."""
    own = context.node_config
    # A device takes part in many runs; their memories are not to be mixed up.
    state = str(Path(str(own["state-path"])) / (config.output.run_name or "run")) if "state-path" in own else task.state
    budgets = [budget for budget in (task.uplink_budget, int(own.get("uplink-budget", 0))) if budget]
    return replace(task, state=state, uplink_budget=min(budgets, default=0))


@lru_cache(maxsize=4)
def _data(path: str, meta: str) -> LocalData:
    """A partition directory that the server's disk shares, or examples of the device's own."""
    if (Path(path) / "partition.json").is_file() or not meta:
        return FederatedData.open(path)
    return DeviceData.open(Path(path), meta)
