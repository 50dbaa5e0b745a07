"""The ray engine on a cluster of several machines, here raylets of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray.cluster_utils import Cluster

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config
from fl_mlmc.simulations.app.places import OnCluster, place_of
from fl_mlmc.simulations.data.datasets import prepare
from fl_mlmc.simulations.engines.ray.grid import RayGrid
from fl_mlmc.simulations.engines.ray.session import loopback_only, ray_session

NUM_NODES = 60


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with loopback_only():
        quickly = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 2,
        }
        head = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "_system_config": quickly}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def client_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        import time

        time.sleep(0.05)
        seen = ConfigRecord({"machine": ray.get_runtime_context().get_node_id()})
        return Message(RecordDict({"seen": seen}), reply_to=message)

    return app


def messages() -> Iterator[Message]:
    data = bytes(100_000)
    for node in range(1, NUM_NODES + 1):
        model = ArrayRecord({"flat": Array("float32", (25_000,), "raw", data)})
        yield Message(RecordDict({"model": model}), dst_node_id=node, message_type="train")


def machines(replies: list[Message]) -> set[str]:
    assert sorted(reply.metadata.src_node_id for reply in replies) == list(range(1, NUM_NODES + 1))
    assert all(reply.has_content() for reply in replies)
    return {str(reply.content["seen"]["machine"]) for reply in replies}


@pytest.mark.slow
def test_machines_may_join_and_leave(cluster: Cluster) -> None:
    with ray_session(cluster.address), RayGrid(client_app(), NUM_NODES, {}) as grid:
        assert len(machines(list(grid.send_and_receive(messages())))) == 1
        joined = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        while len(machines(list(grid.send_and_receive(messages())))) == 1:
            pass  # its worker starts beside the others' work
        replies = grid.send_and_receive(messages())
        first = next(replies)
        cluster.remove_node(joined, allow_graceful=False)
        machines([first, *replies])
        assert len(machines(list(grid.send_and_receive(messages())))) == 1


@pytest.mark.slow
def test_a_run_joins_a_cluster_and_brings_its_code(cluster: Cluster, small: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "ladder.py").write_text("from fl_mlmc import TopK\n\n\nclass Mine(TopK):\n    pass\n")
    small = small.changed(compressor=f"MLMC({tmp_path}/ladder.py:Mine(fraction=0.1))")  # a worker has its copy alone
    local = execute(load_config(None, small.to_flower()))
    there = load_config(None, small.changed(engine="ray", run_name="there").to_flower())
    result = execute(there, place=OnCluster(cluster.address))
    assert all((result.arrays[name] == local.arrays[name]).all() for name in local.arrays)


def data_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        path = str(context.node_config.get("data-path", ""))
        labels = FederatedData.open(path).client(1)[1].tolist() if path else []
        return Message(RecordDict({"seen": ConfigRecord({"path": path, "labels": labels or [-1]})}), reply_to=message)

    return app


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_data_gets_a_copy(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("FL_MLMC_CACHE", str(there))  # of the machines that join
    data = prepare("digits", None, "iid", 2, seed=0, cache=here)
    labels = FederatedData.open(data).client(1)[1].tolist()
    seeing = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    with ray_session(cluster.address), RayGrid(data_app(), NUM_NODES, {}, data=data) as grid:
        assert all(reply.content["seen"]["path"] == "" for reply in grid.send_and_receive(messages()))
        cluster.remove_node(seeing, allow_graceful=False)
        here.rename(tmp_path / "unseen")
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        copies: list[ConfigRecord] = []
        while not copies:
            seen = [reply.content["seen"] for reply in grid.send_and_receive(messages())]
            copies = [record for record in seen if record["path"]]
    assert Path(str(copies[0]["path"])).is_relative_to(there)
    assert copies[0]["labels"] == labels


def test_an_address_is_for_the_ray_engine(small: RunConfig) -> None:
    with pytest.raises(ConfigError, match="a Ray address is for engine 'ray', the run config has engine 'local'"):
        place_of(load_config(None, small.to_flower()), ray_address="127.0.0.1:6379")
