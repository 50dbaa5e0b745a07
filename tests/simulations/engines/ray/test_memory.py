"""Ray's own out-of-memory killer takes workers away; only the client that is too large is given up."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray.cluster_utils import Cluster

from fl_mlmc.simulations.engines.ray.grid import RayGrid
from fl_mlmc.simulations.engines.ray.session import loopback_only, ray_session
from fl_mlmc.simulations.engines.simulated import identify_process

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

TOO_LARGE = 3
LEFT = 3e9  # bytes that the machine's other work may come to need while the test runs, and that the client exceeds


@pytest.fixture
def small_machine() -> Iterator[Cluster]:
    """A Ray that ends workers when the machine uses 3 GB more than now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    threshold = (memory["MemTotal"] - memory["MemAvailable"] + LEFT) / memory["MemTotal"]
    if threshold > 0.9:
        pytest.skip("the machine has not the memory for this test")
    limits = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 50}
    head = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "_system_config": limits}
    with loopback_only():
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def client_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        held = []
        while message.metadata.dst_node_id == TOO_LARGE:
            held.append(b"x" * (100 << 20))
            time.sleep(0.05)
        return Message(RecordDict({"done": ConfigRecord({"held": len(held)})}), reply_to=message)

    return app


def test_a_client_that_is_too_large_is_given_up_and_the_others_finish(small_machine: Cluster) -> None:
    identify_process()
    content = RecordDict({"asked": ConfigRecord({"round": 1})})
    with ray_session(small_machine.address), RayGrid(client_app(), 8, {}) as grid:
        messages = (Message(content, dst_node_id=node, message_type="train") for node in range(1, 9))
        replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=200)}
    assert [node for node, reply in sorted(replies.items()) if reply.has_error()] == [TOO_LARGE]
    assert len(replies) == 8
    reason = replies[TOO_LARGE].error.reason
    assert reason.startswith("it killed its worker 2 times (")
    assert "low on memory" in reason
    assert len(reason) < 400
