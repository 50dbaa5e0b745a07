"""The ray engine answers as the local one does, through every fault."""

import math
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.aggregation import Groups
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.simulations.engines.ray.crew import Batch, Member
from fl_mlmc.simulations.engines.ray.grid import RayGrid
from fl_mlmc.simulations.engines.ray.session import ray_session
from fl_mlmc.simulations.engines.ray.worker import Progress
from fl_mlmc.simulations.engines.simulated import SimulatedGrid
from fl_mlmc.strategies.summing import Exchange, Sum

pytestmark = pytest.mark.xdist_group("ray")

NUM_NODES = 40


def client_app() -> ClientApp:
    """A client that echoes what it was sent and where it sits; its orders are in the message."""
    app = ClientApp()  # made in a function, it travels to the workers by value

    class Mute(BaseException):
        def __str__(self) -> str:
            raise RuntimeError("no word of it")

    @app.train()
    def train(message: Message, context: Context) -> Message:
        orders = message.content["orders"]
        if orders["do"] == "raise":
            raise ValueError("on purpose")
        if orders["do"] == "interrupt":
            raise KeyboardInterrupt
        if orders["do"] == "raise without a word":
            raise Mute
        if orders["do"] == "leave":
            raise SystemExit(3)
        if orders["do"] == "give what cannot be sent":
            message.content["orders"].secret = lambda: 0  # type: ignore[attr-defined]
            return Message(message.content, reply_to=message)
        if orders["do"] == "give nothing":
            return None  # type: ignore[return-value]
        if orders["do"] == "hang":
            time.sleep(600)
        if orders["do"] == "freeze once":
            with open(orders["mark"], "a") as mark:
                mark.write("x")
            if os.path.getsize(orders["mark"]) == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
        if orders["do"] == "exhaust memory":
            return Message(RecordDict({"much": MetricRecord({"size": len(bytearray(2**62))})}), reply_to=message)
        if orders["do"].startswith("die"):
            with open(orders["mark"], "a") as mark:
                mark.write("x")
            if orders["do"] == "die always" or os.path.getsize(orders["mark"]) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        visits = context.state.config_records.get("visits", ConfigRecord({"count": 0}))
        if orders["do"] == "count visits":
            context.state["visits"] = ConfigRecord({"count": visits["count"] + 1})
        seen = {
            "partition": context.node_config["partition-id"],
            "partitions": context.node_config["num-partitions"],
            "node": context.node_id,
            "run": context.run_id,
            "colour": context.run_config["colour"],
            "visits": visits["count"],
        }
        content = RecordDict({"seen": ConfigRecord(seen), "model": message.content["model"]})
        return Message(content, reply_to=message)

    return app


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture(scope="module")
def grid(ray: None) -> Iterator[RayGrid]:
    with RayGrid(client_app(), NUM_NODES, {"colour": "red"}, client_timeout=5.0) as grid:
        list(grid.send_and_receive(messages()))
        yield grid


def messages(orders: dict[int, dict[str, str]] | None = None, num_nodes: int = NUM_NODES) -> Iterator[Message]:
    small, large = bytes(range(200)) * 4, bytes(range(250)) * 400
    for node in range(1, num_nodes + 1):
        model = Array("float32", (len(small if node % 2 else large) // 4,), "raw", small if node % 2 else large)
        order = ConfigRecord({"do": "", **(orders or {}).get(node, {})})
        content = RecordDict({"model": ArrayRecord({"flat": model}), "orders": order})
        yield Message(content, dst_node_id=node, message_type="train", group_id=f"1/{node}")


def facts(replies: Sequence[Message]) -> dict[int, object]:
    """All that a reply says, by node, but for its times."""
    told: dict[int, object] = {}
    for reply in replies:
        about = reply.metadata
        body = reply.error.reason if reply.has_error() else (reply.content["seen"], reply.content["model"])
        told[about.src_node_id] = (about.group_id, about.message_type, about.dst_node_id, about.run_id, body)
    return told


def exchange(grid: SimulatedGrid, orders: dict[int, dict[str, str]] | None = None, rounds: int = 1) -> list[object]:
    return [facts(list(grid.send_and_receive(messages(orders), timeout=240))) for _ in range(rounds)]


def test_clients_cannot_tell_the_engines_apart(grid: RayGrid) -> None:
    local = LocalGrid(client_app(), NUM_NODES, {"colour": "red"})
    orders = {7: {"do": "raise"}, **{node: {"do": "count visits"} for node in range(10, 20)}}
    assert exchange(grid, orders, rounds=2) == exchange(local, orders, rounds=2)


def test_what_is_shared_is_put_into_the_object_store_once(grid: RayGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    puts = []
    real = __import__("ray").put
    put = "fl_mlmc.simulations.engines.ray.grid.ray.put"
    monkeypatch.setattr(put, lambda data: puts.append(len(data)) or real(data))
    assert len(list(grid.send_and_receive(messages()))) == NUM_NODES
    assert puts == [100_000]


@pytest.mark.slow
def test_shared_memory_is_a_short_cut_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = exchange(LocalGrid(client_app(), NUM_NODES, {"colour": "red"}))
    for folder in (tmp_path, tmp_path / "none"):
        monkeypatch.setattr("fl_mlmc.simulations.engines.ray.spool.SHARED_MEMORY", folder)
        with RayGrid(client_app(), NUM_NODES, {"colour": "red"}) as other:
            assert exchange(other) == told
        assert not list(tmp_path.iterdir())


def test_replies_stream_and_messages_are_made_as_they_are_needed(grid: RayGrid) -> None:
    made = []

    def endless() -> Iterator[Message]:
        while True:
            for message in messages():
                made.append(message)
                yield message

    replies = grid.send_and_receive(endless())
    for _ in range(5):
        assert next(replies).has_content()
    replies.close()  # type: ignore[attr-defined]
    assert len(made) < 5000


@pytest.mark.slow
def test_work_begins_before_more_messages_are_made_than_idle_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sends = [], []
    send = Member.send
    with RayGrid(client_app(), NUM_NODES, {"colour": "red"}) as grid:
        while len(grid._crew.ready) < len(grid._crew.workers):
            list(grid.send_and_receive(messages()))
            time.sleep(0.1)
        monkeypatch.setattr(Member, "send", lambda self, *rest: sends.append(len(made)) or send(self, *rest))
        assert len(list(grid.send_and_receive(made.append(each) or each for each in messages()))) == NUM_NODES
        num_workers = len(grid._crew.workers)
    assert sends[:num_workers] == [num_workers] * num_workers
    assert sends[num_workers] > num_workers


def test_a_worker_killed_in_its_batch_changes_nothing(grid: RayGrid, tmp_path: Path) -> None:
    orders = {5: {"do": "die once", "mark": str(tmp_path / "mark")}}
    assert exchange(grid, orders) == exchange(grid)
    assert (tmp_path / "mark").read_text() == "xx"


def test_a_client_that_kills_its_worker_twice_is_given_up(grid: RayGrid, tmp_path: Path) -> None:
    orders = {5: {"do": "die always", "mark": str(tmp_path / "mark")}}
    replies = list(grid.send_and_receive(messages(orders)))
    (bad,) = [reply for reply in replies if reply.has_error()]
    assert (bad.metadata.src_node_id, bad.error.code, bad.metadata.group_id) == (5, 8, "1/5")
    assert "killed its worker 2 times" in bad.error.reason
    assert len({reply.metadata.src_node_id for reply in replies}) == len(replies) == NUM_NODES
    assert (tmp_path / "mark").read_text() == "xx"
    assert not any(reply.has_error() for reply in grid.send_and_receive(messages()))  # the next round is whole


def noting() -> Sum:
    """Notes whose replies it got, in which order."""

    def note(exchanges: Iterable[Exchange]) -> list[tuple[int, str | None]]:
        told = ((message.metadata.dst_node_id, reply) for message, reply in exchanges)
        return [(node, reply.error.reason if reply.has_error() else None) for node, reply in told]

    return note


def summed(
    grid: RayGrid, orders: dict[int, dict[str, str]] | None = None
) -> tuple[dict[int, list[tuple[int, str | None]]], dict[int, str | None]]:
    """What came as the sum of a group, by number, and what came client by client."""
    groups, single = Groups(NUM_NODES), {}
    sums: dict[int, list[tuple[int, str | None]]] = {}
    for found in grid.sum_and_receive(messages(orders), groups, noting(), timeout=240):
        if isinstance(found, Message):
            single[found.metadata.src_node_id] = found.error.reason if found.has_error() else None
        else:
            number = groups.of(found[0][0] - 1)
            assert number not in sums
            sums[number] = found
    return sums, single


def test_groups_are_summed_where_they_are_in_client_order_through_every_fault(grid: RayGrid, tmp_path: Path) -> None:
    exchange(grid)  # workers are there from the first round on
    groups, num_workers = Groups(NUM_NODES), len(grid._crew.workers)
    assert num_workers > 0
    whole = {number: [(rank + 1, None) for rank in groups.ranks(number)] for number in range(len(groups))}
    assert groups.size > 2
    fates: dict[str, tuple[dict[str, str], str | None]] = {
        "raise": ({"do": "raise"}, "ValueError: on purpose"),
        "die once": ({"do": "die once", "mark": str(tmp_path / "once")}, None),
        "die always": ({"do": "die always", "mark": str(tmp_path / "always")}, "killed its worker 2 times"),
    }
    for node, (order, reason) in zip((2, 6, groups.size + 1), fates.values(), strict=True):
        sums, single = summed(grid, {node: order})
        given_up = single.pop(node, None)
        expected = dict(whole)
        if order["do"] == "raise":
            expected[0] = [(rank, reason if rank == node else None) for rank, _ in expected[0]]
        if order["do"] == "die always":
            assert reason in str(given_up)
            number = groups.of(node - 1)
            expected[number] = [told for told in expected[number] if told[0] != node]
        assert sums == {number: expected[number] for number in range(len(groups) - num_workers)}
        # The last ones, one for each worker, are answered singly, so that all workers end together.
        last = [rank + 1 for number in range(len(groups) - num_workers, len(groups)) for rank in groups.ranks(number)]
        assert single == dict.fromkeys(last)
    assert {name: (tmp_path / name).read_text() for name in ("once", "always")} == {"once": "xx", "always": "xx"}


def test_a_client_that_hangs_is_given_up(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(messages({5: {"do": "hang"}})))
    (bad,) = [reply for reply in replies if reply.has_error()]
    assert bad.metadata.src_node_id == 5
    assert "longer than the client-timeout of 5 s" in bad.error.reason
    assert len(replies) == NUM_NODES


@pytest.mark.slow
def test_a_worker_that_is_frozen_costs_no_reply(tmp_path: Path) -> None:
    orders = {5: {"do": "freeze once", "mark": str(tmp_path / "mark")}}
    with RayGrid(client_app(), NUM_NODES, {"colour": "red"}, client_timeout=2.0) as grid:
        (wanted,) = exchange(grid)
        start = time.monotonic()
        assert exchange(grid, orders) == [wanted]
        assert time.monotonic() - start < 60.0  # of 240: 1.2 × 2 s and a second, on a machine that has time
        assert (tmp_path / "mark").read_text() == "xx"


@pytest.mark.slow
def test_workers_that_are_frozen_between_rounds_cost_no_reply() -> None:
    with RayGrid(client_app(), NUM_NODES, {"colour": "red"}, client_timeout=2.0) as grid:
        (wanted,) = exchange(grid)
        frozen = [worker.pid for worker in grid._crew.ready]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        assert exchange(grid) == [wanted]
        seconds = time.monotonic() - start
        assert not set(frozen) & {worker.pid for worker in grid._crew.workers}
    print(f"{len(frozen)} frozen workers cost {seconds:.1f} s")
    assert seconds < 60.0  # of 240: 10 s to begin, 1.2 × 2 s and a second, on a machine that has time


def test_who_is_silent_is_told_by_the_clock_of_what_it_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("ray.wait", lambda refs, timeout: (refs, []) if refs == ["answered"] else ([], refs))

    def seconds_until_silent(at: tuple[int, int, float], is_here: bool = True, ref: str = "open") -> float:
        worker = Member(None, "node", False, tmp_path / "progress", None, is_here=is_here, turned=1000.0)
        Progress(worker.progress).write(*at)
        if not is_here:
            worker.progress.unlink()
        worker.batches[7] = Batch([None, None, None], ref, 0)  # type: ignore[list-item, arg-type]
        for seconds in range(100):
            clock[0] = 1000.0 + seconds
            if worker.is_silent(10.0):
                return seconds
        return math.inf

    assert seconds_until_silent((7, 2, 1000.0)) == 14  # 1.2 × 10 s and 1 s of grace, at its third client
    assert seconds_until_silent((7, -1, 1000.0)) == 34  # at all three at once
    assert seconds_until_silent((6, 0, 900.0)) == 24  # at none of them yet: 10 s more
    assert seconds_until_silent((-1, -1, 0.0)) == 24
    assert seconds_until_silent((7, 2, 1000.0), is_here=False) == 44  # for all that is known, at any of them
    assert seconds_until_silent((6, 0, 900.0), ref="answered") == math.inf


def test_a_client_without_memory_is_an_error_reply(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(messages({5: {"do": "exhaust memory"}})))
    (bad,) = [reply for reply in replies if reply.has_error()]
    assert bad.error.reason.startswith("MemoryError")
    assert len(replies) == NUM_NODES


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("interrupt", "KeyboardInterrupt: "),
        ("raise without a word", "Mute: Mute, which does not say what it is"),
        ("leave", "SystemExit: 3"),
        ("give what cannot be sent", "PicklingError|AttributeError|TypeError"),
        ("give nothing", "TypeError: the ClientApp gave a NoneType"),
    ],
)
def test_whatever_a_client_raises_or_gives_costs_it_alone(grid: RayGrid, do: str, reason: str) -> None:
    replies = list(grid.send_and_receive(messages({5: {"do": do}})))
    (bad,) = [reply for reply in replies if reply.has_error()]
    assert bad.metadata.src_node_id == 5
    assert re.match(reason, bad.error.reason)
    assert len(replies) == NUM_NODES


def test_a_round_ends_at_its_timeout(grid: RayGrid) -> None:
    replies = list(grid.send_and_receive(messages({5: {"do": "hang"}}), timeout=0.5))
    assert 5 not in facts(replies)
    assert len(list(grid.send_and_receive(messages()))) == NUM_NODES


@pytest.mark.slow
def test_who_kills_a_worker_is_found_among_clients_that_ran_at_once(tmp_path: Path) -> None:
    app, sizes = client_app(), tmp_path / "sizes"

    def at_once(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        with sizes.open("a") as file:
            file.write(f"{len(messages)}\n")
        return [app(message, context) for message, context in zip(messages, contexts, strict=True)]

    orders = {7: {"do": "die always", "mark": str(tmp_path / "mark")}}
    with RayGrid(app, NUM_NODES, {"colour": "red"}, at_once=at_once) as grid:
        (replies,) = exchange(grid, orders)
    killer = replies.pop(7)  # type: ignore[attr-defined]
    assert "it killed its worker 2 times" in str(killer)
    (wanted,) = exchange(LocalGrid(app, NUM_NODES, {"colour": "red"}))
    wanted.pop(7)  # type: ignore[attr-defined]
    assert replies == wanted
    assert max(map(int, sizes.read_text().split())) > 1
