"""The ClientApp through Flower's own records, and on a device that has no more than its short list."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_mlmc.clients.client_app import app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import ARRAYS, CONFIG, PAYLOAD, PAYLOAD_STYPE, RosterEntry, TrainTask, TrainUpdate
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.simulated import identify_process
from fl_mlmc.submodels import plan

ROOT = Path(__file__).parents[2]


def ask(
    config: RunConfig, data: str, width: float = 0.5, values: torch.Tensor | None = None, meta: str = ""
) -> Message:
    identify_process()
    model = build_model(config.training.model, (1, 8, 8), 10)
    own = plan(model.spec, "nested", width)
    if values is None:
        values = own.gather(model.initial(0))
    payload = encode_payload(Payload(len(values), (DenseBlock(values),)))
    task = TrainTask(1, 2, "small", width, data, data_meta=meta)
    array = Array("float32", (len(values),), PAYLOAD_STYPE, payload)
    content = RecordDict({ARRAYS: ArrayRecord({PAYLOAD: array}), CONFIG: ConfigRecord(task.to_config())})
    return Message(content, dst_node_id=3, message_type="train", group_id="1/2")


def context(config: RunConfig, **node_config: object) -> Context:
    return Context(1, 3, node_config, RecordDict(), config.to_flower())  # type: ignore[arg-type]


def test_an_update_is_after_minus_before_on_the_submodel(small: RunConfig) -> None:
    config = small.changed(compressor="Identity()")
    data = str(prepare_data(config))
    message = ask(config, data)
    reply = app(message, context(config))
    update = TrainUpdate.from_config(reply.content.config_records[CONFIG])
    array = reply.content.array_records[ARRAYS][PAYLOAD]
    assert (update.server_round, update.client, array.stype) == (1, 2, PAYLOAD_STYPE)
    assert decode_payload(array.data, array.shape[0]).dense().norm() > 0
    assert update.num_examples > 0
    assert reply.metadata.group_id == "1/2"


def test_the_reply_is_a_function_of_the_message(small: RunConfig) -> None:
    data = str(prepare_data(small))
    payloads = [app(ask(small, data), context(small)).content.array_records[ARRAYS][PAYLOAD].data for _ in range(2)]
    assert payloads[0] == payloads[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"learning_rate": 1e30}, "not finite|training loss is nan"),
        ({"batch_size": 7, "data": "/does/not/exist"}, "/does/not/exist"),
    ],
)
def test_a_client_that_cannot_train_says_why(small: RunConfig, change: dict, reason: str) -> None:
    data = change.pop("data", None) or str(prepare_data(small))
    config = small.changed(**change, local_steps=20)
    failure = app(ask(config, data), context(config)).content.config_records[CONFIG]["failure"]
    assert np.any([part in str(failure) for part in reason.split("|")]), failure


def test_a_broken_payload_is_answered_not_raised(small: RunConfig) -> None:
    message = ask(small, str(prepare_data(small)), values=torch.zeros(3))
    failure = app(message, context(small)).content.config_records[CONFIG]["failure"]
    assert "describes 3 coordinates" in str(failure)


def test_a_node_says_who_it_hosts(small: RunConfig) -> None:
    identify_process()
    query = Message(RecordDict({CONFIG: ConfigRecord({"ask": 1})}), dst_node_id=3, message_type="query.roster")
    entries = [
        RosterEntry.from_config(app(query, context(small, **node)).content.config_records[CONFIG])
        for node in ({"partition-id": 4, "num-partitions": 9}, {"partition-id": 1, "tier": "small"})
    ]
    assert (entries[0].first, entries[0].stride, entries[0].tier, entries[0].node) == (4, 9, "", "partition-4")
    assert (entries[1].first, entries[1].stride, entries[1].tier, entries[1].node) == (1, 0, "small", "3")


def test_a_node_may_measure_its_tier(small: RunConfig) -> None:
    identify_process()
    data = str(prepare_data(small))
    content = RecordDict({CONFIG: ConfigRecord({"data": data})})
    query = Message(content, dst_node_id=3, message_type="query.roster")
    tiers = {
        "small:0.5:0.5,full:1.0:0.5": "full",
        "small:0.5:0.5,full:1.0:0.5:seconds=1e-9": "small",
        "small:0.5:0.5,full:1.0:0.5:memory=10": "small",
    }
    for text, expected in tiers.items():
        reply = app(query, context(small.changed(tiers=text), tier="auto"))
        assert RosterEntry.from_config(reply.content.config_records[CONFIG]).tier == expected


def test_a_tier_is_measured_on_the_devices_own_file(small: RunConfig, tmp_path: Path) -> None:
    meta = FederatedData.open(prepare_data(small)).meta
    own = tmp_path / "own.csv"
    own.write_text("label," + ",".join(map(str, range(64))) + "\n" + f"1,{','.join(['7'] * 64)}\n" * 3)
    content = RecordDict({CONFIG: ConfigRecord({"data": str(tmp_path / "on the server"), "data-meta": meta})})
    query = Message(content, dst_node_id=3, message_type="query.roster")
    reply = app(query, context(small, **{"tier": "auto", "data-path": str(own)}))
    assert RosterEntry.from_config(reply.content.config_records[CONFIG]).tier in small.cohort.tiers


def test_a_device_trains_on_its_own_file_or_says_what_is_wrong_with_it(small: RunConfig, tmp_path: Path) -> None:
    directory = prepare_data(small)
    meta = FederatedData.open(directory).meta
    own = tmp_path / "own.csv"
    own.write_text(
        "label," + ",".join(map(str, range(64))) + "\n" + "".join(f"{n},{','.join(['7'] * 64)}\n" for n in "123")
    )
    reply = app(ask(small, str(directory), meta=meta), context(small, **{"data-path": str(own)}))
    assert reply.content.config_records[CONFIG]["num-examples"] == 3
    for path, reason in ((tmp_path / "gone.csv", "does not exist on this device"), (tmp_path, "has no folders")):
        reply = app(ask(small, str(directory), meta=meta), context(small, **{"data-path": str(path)}))
        assert reason in str(reply.content.config_records[CONFIG]["failure"])
    # With no path of its own it reads what the server prepared, if they share a disk.
    reply = app(ask(small, str(directory), meta=meta), context(small))
    assert reply.content.config_records[CONFIG]["num-examples"] > 3


def test_a_device_keeps_its_uplink_budget_and_says_how(small: RunConfig) -> None:
    data = str(prepare_data(small))
    for budget in (100, 200):
        reply = app(ask(small, data), context(small, **{"uplink-budget": budget}))
        update = TrainUpdate.from_config(reply.content.config_records[CONFIG])
        payload = reply.content.array_records[ARRAYS][PAYLOAD].data
        assert 0.5 * budget < len(payload) <= budget
        assert update.compressor.startswith(("RandK(", "Systematic(", "MLMC(TopK(", "Dither("))
        assert update.compressor != small.compression.compressor
    free = TrainUpdate.from_config(app(ask(small, data), context(small)).content.config_records[CONFIG])
    assert free.compressor == ""
    failure = app(
        ask(dense := small.changed(compressor="Natural()"), data), context(dense, **{"uplink-budget": 100})
    ).content.config_records[CONFIG]["failure"]
    assert "is over the uplink-budget of 100, and Natural() has no fraction to choose" in str(failure)


def test_a_budget_tells_the_log_what_it_chose(small: RunConfig) -> None:
    config = small.changed(compressor="Budget(bytes=150)")
    reply = app(ask(config, str(prepare_data(config))), context(config))
    update = TrainUpdate.from_config(reply.content.config_records[CONFIG])
    assert len(reply.content.array_records[ARRAYS][PAYLOAD].data) <= 150
    assert update.compressor.startswith(("Dither(", "RandK(", "MLMC(", "Systematic("))


def test_a_tiers_bytes_are_kept_and_the_smaller_budget_counts(small: RunConfig) -> None:
    tiers = small.changed(tiers="small:0.5:0.5:bytes=150,full:1.0:0.5:bytes=400", compressor="Identity()")
    data = str(prepare_data(tiers))
    for own, most in ((0, 150), (90, 90), (1000, 150)):
        asked = ask(tiers, data)
        record = asked.content.config_records[CONFIG]
        record["uplink-budget"] = 150
        reply = app(asked, context(tiers, **({"uplink-budget": own} if own else {})))
        assert 0.5 * most < len(reply.content.array_records[ARRAYS][PAYLOAD].data) <= most


def test_a_scheme_with_memory_does_not_change_its_compressor(small: RunConfig, tmp_path: Path) -> None:
    config = small.changed(scheme="ef21", compressor="TopK(fraction=0.5)")
    node = {"uplink-budget": 200, "state-path": str(tmp_path)}
    failure = app(ask(config, str(prepare_data(config))), context(config, **node)).content.config_records[CONFIG][
        "failure"
    ]
    assert "has its steps from TopK(fraction=0.5)" in str(failure)


def test_memories_of_two_runs_on_one_device_lie_apart(small: RunConfig, tmp_path: Path) -> None:
    for name in ("one", "two"):
        config = small.changed(scheme="ef21", compressor="TopK(fraction=0.5)", run_name=name)
        app(ask(config, str(prepare_data(config))), context(config, **{"state-path": str(tmp_path)}))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.npz")} == {"one/2/1.npz", "two/2/1.npz"}


def test_a_device_needs_no_more_than_flwr_torch_and_numpy() -> None:
    missing = ["ray", "pandas", "datasets", "flwr_datasets", "matplotlib", "sklearn", "pyarrow", "safetensors"]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import fl_mlmc.clients.client_app"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
