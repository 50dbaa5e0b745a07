"""The Flower ClientApp: records in, records out."""

from functools import lru_cache

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.config import RunConfig, Scalar
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

from .auto_tier import measured_tier
from .data import FederatedData
from .sgd_client import run_task
from .trainer import TrainingError

app = ClientApp()


@app.query(ROSTER_ACTION)
def who(message: Message, context: Context) -> Message:
    """Say which clients this node hosts, and the tier that it declares."""
    node = context.node_config
    first, stride = int(node.get("partition-id", 0)), int(node.get("num-partitions", 0))
    entry = RosterEntry(
        first=first,
        stride=stride,
        tier=_tier(context, first),
        # Flower draws a simulated node's id anew in every run; the number of its partition repeats.
        node=f"partition-{first}" if stride else str(context.node_id),
        code_stamp=code_stamp(),
    )
    return Message(RecordDict({CONFIG: ConfigRecord(entry.to_config())}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client's submodel and reply with its update, or with the reason why there is none."""
    config = _config(tuple(sorted(context.run_config.items())))
    task = TrainTask.from_config(message.content.config_records[CONFIG])
    try:
        data = _data(str(context.node_config.get("data-path", task.data)))
        payload = message.content.array_records[ARRAYS][PAYLOAD].data
        reply = run_task(task, payload, config, data)
    except (TrainingError, OSError, ValueError) as error:
        failure = TrainFailure(task.server_round, task.client, str(error))
        return Message(RecordDict({CONFIG: ConfigRecord(failure.to_config())}), reply_to=message)
    array = Array("float32", (reply.size,), PAYLOAD_STYPE, reply.payload)
    content = RecordDict({ARRAYS: ArrayRecord({PAYLOAD: array}), CONFIG: ConfigRecord(reply.update.to_config())})
    return Message(content, reply_to=message)


def _tier(context: Context, client: int) -> str:
    """The tier in the node's config, measured if that says "auto"; empty where the run's shares decide."""
    tier, path = str(context.node_config.get("tier", "")), context.node_config.get("data-path")
    if tier != "auto":
        return tier
    if path is None:
        return 'auto, but a client measures on its own examples: give it a data-path beside tier="auto"'
    return _measured(tuple(sorted(context.run_config.items())), str(path), client)


@lru_cache(maxsize=4)
def _measured(items: tuple[tuple[str, Scalar], ...], path: str, client: int) -> str:
    # What cannot be measured is told as the tier's name: the server refuses it and says why.
    try:
        return measured_tier(_config(items), _data(path), client).name
    except (OSError, ValueError, IndexError) as error:
        return f"auto, but {error}"


@lru_cache(maxsize=4)
def _config(items: tuple[tuple[str, Scalar], ...]) -> RunConfig:
    return RunConfig.from_flower(dict(items))


@lru_cache(maxsize=4)
def _data(directory: str) -> FederatedData:
    return FederatedData.open(directory)
