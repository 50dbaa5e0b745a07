"""The Flower ClientApp: records in, records out."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.config import RunConfig, Scalar
from fl_mlmc.models import build_model
from fl_mlmc.protocol import (
    ARRAYS,
    CONFIG,
    PAYLOAD,
    PAYLOAD_STYPE,
    ROSTER_ACTION,
    RosterEntry,
    TrainFailure,
    TrainTask,
    code_stamp,
)
from fl_mlmc.submodels.measure import widest_tier

from .bilevel_client import run_bilevel_task
from .data import ClientData, FederatedData
from .device_data import DeviceData
from .sgd_client import run_task
from .trainer import TrainingError, device_of, one_thread

app = ClientApp()


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
    config = _config(tuple(sorted(context.run_config.items())))
    asked = message.content.config_records[CONFIG]
    data = _data(str(context.node_config.get("data-path", asked["data"])), str(asked.get("data-meta", "")))
    model = build_model(config.model, data.spec.input_shape, data.spec.num_classes)
    inputs, labels = (torch.from_numpy(part[: config.batch_size]).to(device_of(config)) for part in data.client(client))
    with one_thread():
        return widest_tier(model, config.tier_list, inputs, labels, config.width_rule).name


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client's submodel and reply with its update, or with the reason why there is none."""
    config = _config(tuple(sorted(context.run_config.items())))
    task = TrainTask.from_config(message.content.config_records[CONFIG])
    try:
        data = _data(str(context.node_config.get("data-path", task.data)), task.data_meta)
        payload = message.content.array_records[ARRAYS][PAYLOAD].data
        task = _on_this_node(task, context, config)
        run = run_bilevel_task if config.task == "bilevel" else run_task
        reply = run(task, payload, config, data)
    except (TrainingError, OSError, ValueError) as error:
        failure = TrainFailure(task.server_round, task.client, str(error))
        return Message(RecordDict({CONFIG: ConfigRecord(failure.to_config())}), reply_to=message)
    array = Array("float32", (reply.size,), PAYLOAD_STYPE, reply.payload)
    content = RecordDict({ARRAYS: ArrayRecord({PAYLOAD: array}), CONFIG: ConfigRecord(reply.update.to_config())})
    return Message(content, reply_to=message)


@lru_cache(maxsize=4)
def _config(items: tuple[tuple[str, Scalar], ...]) -> RunConfig:
    return RunConfig.from_flower(dict(items))


def _on_this_node(task: TrainTask, context: Context, config: RunConfig) -> TrainTask:
    """The task with what the node's own config says of it."""
    own = context.node_config
    # A device takes part in many runs; their memories are not to be mixed up.
    state = str(Path(str(own["state-path"])) / (config.run_name or "run")) if "state-path" in own else task.state
    return replace(task, state=state, uplink_budget=int(own.get("uplink-budget", task.uplink_budget)))


@lru_cache(maxsize=4)
def _data(path: str, meta: str) -> ClientData:
    """A partition directory that the server's disk shares, or examples of the device's own."""
    if (Path(path) / "partition.json").is_file() or not meta:
        return FederatedData.open(path)
    return DeviceData.open(Path(path), meta)
