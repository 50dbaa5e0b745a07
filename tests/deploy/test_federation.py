"""A whole federation on loopback: TLS, node authentication, three tiers, a stranger and a liar."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fl_mlmc.clients import client_app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.deploy.federation import add_node
from fl_mlmc.deploy.registrar import read_registered
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.app.launch import load_config
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies.checkpoint import load_state
from fl_mlmc.strategies.tiered import TieredStrategy, from_arrays, to_arrays

if TYPE_CHECKING:
    from .conftest import Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("lies"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc"),
    pytest.mark.timeout(1500),  # a minute on two idle cores; nodes start a Python with torch for every message
]

LIES = """
from flwr.clientapp import ClientApp

honest = ClientApp.__call__


def lying(self, message, context):
    reply = honest(self, message, context)
    if message.metadata.message_type != "train":
        return reply
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
    config, array = reply.content["config"], reply.content["arrays"]["payload"]
    kind = KINDS[str(context.run_config["run-name"])][int(config["server-round"]) - 1]
    if kind == "another's name":  # in the object that the ServerApp reads; the envelope is made honest below
        reply.metadata.__dict__["_src_node_id"] = VICTIM
        reply.metadata.__dict__["_group_id"] = reply.metadata.group_id.partition("/")[0] + "/0"
        return reply
    data, shape, stype, dtype = array.data, array.shape, array.stype, array.dtype
    if kind == "noise":
        data = b"MLMC" + bytes(range(256)) * 4
    elif kind in ("norm", "nan"):
        import struct, zlib
        import numpy as np, torch
        from fl_mlmc.compression.blocks import DenseBlock, Payload
        from fl_mlmc.compression.wire import encode_payload
        values = torch.from_numpy(np.random.default_rng(0).normal(1e6, 1e5, shape)).float()
        data = encode_payload(Payload(shape[0], (DenseBlock(values),)))
        if kind == "nan":
            body = data[14:-4] + struct.pack("<f", float("nan"))
            data = data[:10] + struct.pack("<I", zlib.crc32(body, zlib.crc32(data[:10] + bytes(4)))) + body
    elif kind == "examples":
        config["num-examples"] = 10**6
    elif kind == "stype":
        stype = "numpy.ndarray"
    elif kind == "dtype":
        dtype = "float64"
    elif kind == "shape":
        shape = (10**12,)
    elif kind == "other client":
        config["client"] = 0
    elif kind == "other code":
        config["code-stamp"] = "mine"
    elif kind == "code no log holds":
        config["code-stamp"] = "\\x1b[2Jmine"
    elif kind == "types":
        config["train-loss"] = "low"
    elif kind == "no records":
        return Message(RecordDict({"config": ArrayRecord({})}), reply_to=message)
    elif kind == "exception":
        raise RuntimeError("on purpose")
    else:
        raise AssertionError(kind)
    arrays = ArrayRecord({"payload": Array(dtype, shape, stype, data)})
    return Message(RecordDict({"arrays": arrays, "config": ConfigRecord(dict(config))}), reply_to=message)


ClientApp.__call__ = lying

import flwr.supernode.fleet_http_connection as connection

to_proto = connection.message_to_proto


def honest_envelope(message):
    envelope = to_proto(message)
    if envelope.metadata.src_node_id == VICTIM:
        envelope.metadata.src_node_id = OWN
    return envelope


connection.message_to_proto = honest_envelope
"""

REASONS = {
    "noise": "format version|checksum",
    "norm": "its update has norm .*, max-update-norm is 100",
    "nan": "not finite|NaN",
    "examples": "it declares 1000000 examples, 1 to 5000 are allowed",
    "stype": "stype 'numpy.ndarray'",
    "dtype": "has dtype 'float64'",
    "shape": "and shape .1000000000000",
    "other client": "it answers round .* for client 0",
    "other code": "it runs code 'mine', the server runs",
    "code no log holds": r"TrainUpdate has code-stamp = '\\x1b\[2Jmine', expected str of at most",
    "types": "train-loss = 'low'",
    "no records": "it has no config record",
    "exception": "error 2: .*on purpose",
    "another's name": "no reply in time",
}


def without(config: RunConfig, client: int | None, tmp_path: Path) -> torch.Tensor:
    """The model that `config` trains in this process when the replies of `client` never come."""
    app = ClientApp()
    app.query("roster")(client_app.who)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.content.config_records[CONFIG]["client"] == client:
            return Message(Error(0, "gone"), reply_to=message)
        return client_app.train(message, context)

    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    strategy = TieredStrategy(config, model, RoundLog.create(tmp_path / "reference", {}), str(data))
    grid = LocalGrid(app, config.cohort.num_clients, config.to_flower())
    return from_arrays(strategy.start(grid, to_arrays(model.initial(config.seed)), config.num_rounds).arrays)


def final(deployment: "Deployment", name: str) -> torch.Tensor:
    state = load_state(deployment.runs / name / "checkpoint")
    assert state is not None
    return state.vector


TIERS = {0: "sensor", 1: "phone", 2: "gateway", 3: "phone"}
ASSIGNMENT = "tier-assignment=" + ",".join(f"{client}:{tier}" for client, tier in TIERS.items())
GUARDS = ("max-update-norm=100.0", "max-examples=5000")


KINDS = {
    "lies": ["norm", "nan", "examples", "other code", "exception"],
    "more-lies": ["noise", "stype", "dtype", "shape", "other client", "types", "no records", "code no log holds"],
    "forged": ["another's name"] * 2,
}


@pytest.fixture(scope="module", autouse=True)
def nodes(deployment: "Deployment") -> None:
    """Three honest tiers, and a liar with another lie in each round of a run."""
    deployment.add(*TIERS)
    for client in range(3):
        deployment.start_node(client, TIERS[client])
    ids = {name: node.node_id for name, node in read_registered(deployment.directory).items()}
    numbers = f"KINDS = {KINDS!r}\nVICTIM, OWN = {ids['client-0']}, {ids['client-3']}\n"
    deployment.start_patched_node(3, TIERS[3], numbers + LIES)


def run_with_lies(deployment: "Deployment", name: str, tmp_path: Path, *others: str) -> None:
    """A run in which every lie is dropped for what it is, and whose model is that of a run without the liar."""
    kinds = KINDS[name]
    settings = ("num-clients=4", "clients-per-round=4", f"num-rounds={len(kinds)}", ASSIGNMENT, *GUARDS)
    done = deployment.run(name, *settings, *others)
    assert done.returncode == 0, done.stderr + deployment.logs()
    for client in range(3):
        assert deployment.statuses(name, client) == ["ok"] * len(kinds), deployment.logs()
    for kind, status in zip(kinds, deployment.statuses(name, 3), strict=True):
        assert re.match(f"dropped: .*({REASONS[kind]})", status), (kind, status)
    config = load_config(deployment.directory.parent / "scenario.toml", {}).changed(
        engine="local",
        num_clients=4,
        clients_per_round=4,
        num_rounds=len(kinds),
        tier_assignment=ASSIGNMENT.partition("=")[2],
    )
    assert torch.equal(final(deployment, name), without(config, 3, tmp_path))


def test_three_tiers_learn_while_one_node_lies_and_a_stranger_is_refused(
    deployment: "Deployment", tmp_path: Path
) -> None:
    stranger = add_node(deployment.directory, 9, "phone")
    (deployment.directory / "nodes" / "client-9.pub").unlink()
    deployment.start_node(9, "phone")
    run_with_lies(deployment, "lies", tmp_path)
    rounds = deployment.rows("lies", "rounds.jsonl")
    assert [row["num_ok"] for row in rounds] == [3] * 5
    assert rounds[-1]["accuracy"] > max(0.5, rounds[0]["accuracy"])
    assert {row["tier"] for row in deployment.rows("lies")} == {"sensor", "phone", "gateway"}
    assert re.search(
        "No SuperNode found with the given public key|2004", deployment.log("server") + deployment.log("node-9")
    )
    assert not (stranger / "state" / "memory").exists()
    deployment.kill("node-9")


def test_no_other_lie_is_taken_either(deployment: "Deployment", tmp_path: Path) -> None:
    run_with_lies(deployment, "more-lies", tmp_path)


@pytest.mark.slow
def test_no_node_answers_in_the_name_of_another(deployment: "Deployment", tmp_path: Path) -> None:
    # The round is over when the three that are honest have answered; a forged reply is none.
    run_with_lies(deployment, "forged", tmp_path, "clients-per-round=3", "over-sampling=0.5")
    assert "gate: refused a push-object of client-3: it speaks as node" in deployment.log("server")
