"""The deadline of real devices, against a SuperLink that is slow, silent or full of nonsense."""

import threading
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common import Metadata
from flwr.server.superlink.linkstate.utils import (
    create_message_error_unavailable_ins_message,
    create_message_error_unavailable_res_message,
)
from flwr.serverapp import Grid

from fl_mlmc.simulations.engines.simulated import identify_process
from fl_mlmc.strategies import device_grid
from fl_mlmc.strategies.device_grid import DeviceGrid

Answer = Callable[[Message], Message | None]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    identify_process()
    monkeypatch.setattr(device_grid, "POLL_SECONDS", 0.01)


def reply(message: Message) -> Message:
    return Message(RecordDict({"config": ConfigRecord({"node": message.metadata.dst_node_id})}), reply_to=message)


def unknown_task(sent: Metadata, kind: str) -> Message:
    return create_message_error_unavailable_ins_message(sent.message_id, 1)


class FakeLink(Grid):
    """Answers by node; `answers` may block, raise, or give None for "not yet"."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self.answers, self.sent = answers, {}  # type: ignore[var-annotated]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        assert isinstance(messages, list), "Flower's HTTP grid goes through them twice"
        for message in messages:
            name = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = name
            self.sent[name] = message
        return [name for name, message in self.sent.items() if message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self.answers[self.sent[name].metadata.dst_node_id](self.sent[name]) for name in message_ids]
        return [message for message in found if message is not None]

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=1, name="client-0"), SimpleNamespace(node_id=2, name="")]

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError


def ask(*nodes: int, ttl: float = 60.0) -> list[Message]:
    return [
        Message(RecordDict(), dst_node_id=node, message_type="train", group_id=f"1/{node}", ttl=ttl) for node in nodes
    ]


def nodes(replies: Iterable[Message]) -> list[int]:
    return sorted(message.metadata.src_node_id for message in replies if message.has_content())


def test_all_replies_come() -> None:
    assert nodes(DeviceGrid(FakeLink({1: reply, 2: reply})).collect(iter(ask(1, 2)), 5.0)) == [1, 2]
    assert list(DeviceGrid(FakeLink({})).collect([], 5.0)) == []


def test_a_stalled_upload_holds_nobody_up_and_is_counted_when_it_ends() -> None:
    done = threading.Event()

    def stalled(message: Message) -> Message:
        done.wait(20.0)
        return reply(message)

    grid = DeviceGrid(FakeLink({1: stalled, 2: reply}))
    start = time.monotonic()
    assert nodes(grid.collect(ask(1, 2), 1.0)) == [2]
    assert time.monotonic() - start < 15.0
    assert grid.take_late() == 0
    done.set()
    deadline = time.monotonic() + 60.0
    while (late := grid.take_late()) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert late == 1
    assert grid.take_late() == 0
    assert nodes(grid.collect(ask(2), 5.0)) == [2]


def test_what_is_made_of_replies_counts_against_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(device_grid, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))
    grid = DeviceGrid(FakeLink(dict.fromkeys(range(1, 6), reply)))
    replies = grid.collect(ask(*range(1, 6)), 30.0)
    assert next(replies).has_content()
    clock[0] = 30.5  # a payload that took long to decode
    assert nodes(replies) == []
    late, until = 0, time.monotonic() + 60.0
    while (late := late + grid.take_late()) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert late == 4


def test_a_round_ends_when_enough_good_replies_are_there() -> None:
    def failing(message: Message) -> Message:
        return Message(Error(2, "no"), reply_to=message)

    grid = DeviceGrid(FakeLink({1: failing, 2: reply, 3: lambda message: None, 4: reply}))
    start = time.monotonic()
    assert nodes(grid.collect(ask(1, 2, 3, 4), 30.0, wanted=2)) == [2, 4]
    assert time.monotonic() - start < 25.0


def test_what_came_after_enough_was_there_is_late_but_an_error_is_no_reply() -> None:
    enough = threading.Event()

    def after(message: Message) -> Message | None:
        return reply(message) if enough.is_set() else None

    def failing_after(message: Message) -> Message | None:
        return Message(Error(2, "no"), reply_to=message) if enough.is_set() else None

    grid = DeviceGrid(FakeLink({1: reply, 2: reply, 3: after, 4: failing_after}))
    replies = grid.collect(ask(1, 2, 3, 4), 30.0, wanted=2)
    assert next(replies).has_content()
    enough.set()
    time.sleep(0.5)  # replies 3 and 4 are fetched while the round still takes the first two
    assert len(list(replies)) == 1
    deadline = time.monotonic() + 60.0
    late = grid.take_late()
    while late == 0 and time.monotonic() < deadline:
        late += grid.take_late()
    assert late == 1


def test_a_reply_that_cannot_be_read_is_an_error_of_its_sender() -> None:
    def nonsense(message: Message) -> Message:
        raise ValueError("no such\x1b[31m record")

    (found,) = DeviceGrid(FakeLink({1: nonsense})).collect(ask(1), 5.0)
    assert found.has_error()
    assert (found.metadata.src_node_id, found.metadata.group_id) == (1, "1/1")
    assert found.error.reason is not None
    assert "its reply cannot be read: ValueError: no such" in found.error.reason


def test_a_reply_in_anothers_name_is_an_error_of_the_node_that_was_asked() -> None:
    def as_node_2(message: Message) -> Message:
        forged = reply(message)
        forged.metadata.__dict__["_src_node_id"] = 2
        return forged

    def for_task_of_2(message: Message) -> Message:
        forged = reply(message)
        forged.metadata.__dict__["_group_id"] = "1/2"
        return forged

    for forge in (as_node_2, for_task_of_2):
        grid = DeviceGrid(FakeLink({1: forge, 2: reply}))
        found = {message.metadata.src_node_id: message for message in grid.collect(ask(1, 2), 5.0)}
        assert found[2].has_content()
        assert found[1].has_error()
        assert "its reply calls itself one of node" in str(found[1].error.reason)
        assert found[1].metadata.group_id == "1/1"


def test_a_silent_device_costs_one_thread_however_many_rounds_pass_it_by() -> None:
    before = threading.active_count()
    grid = DeviceGrid(FakeLink({1: lambda message: None, 2: reply}))
    for _ in range(30):
        assert nodes(grid.collect(ask(1, 2), 30.0, wanted=1)) == [2]
    assert threading.active_count() - before <= 2


def test_what_a_silent_device_owed_is_counted_when_it_speaks_again() -> None:
    is_back = threading.Event()
    grid = DeviceGrid(FakeLink({1: lambda message: reply(message) if is_back.is_set() else None, 2: reply}))
    for _ in range(5):
        assert nodes(grid.collect(ask(1, 2), 30.0, wanted=1)) == [2]
    is_back.set()
    late, deadline = 0, time.monotonic() + 60.0
    while late < 5 and time.monotonic() < deadline:
        late += grid.take_late()
        time.sleep(0.01)
    assert late == 5


def test_the_superlink_failing_is_nobodys_fault_and_raised() -> None:
    def broken(message: Message) -> Message:
        raise httpx.ConnectError("refused")

    with pytest.raises(httpx.ConnectError):
        list(DeviceGrid(FakeLink({1: broken})).collect(ask(1), 5.0))


@pytest.mark.parametrize("error_of", [create_message_error_unavailable_res_message, unknown_task])
def test_an_error_that_the_superlink_tells_of_a_node_is_attributed_to_it(error_of: Callable[..., Message]) -> None:
    (found,) = DeviceGrid(FakeLink({7: lambda message: error_of(message.metadata, "node_unavail")})).collect(
        ask(7), 5.0
    )
    assert found.has_error()
    assert (found.metadata.src_node_id, found.metadata.group_id) == (7, "1/7")


def test_an_expired_task_is_no_reply() -> None:
    (found,) = DeviceGrid(FakeLink({1: lambda message: None})).collect(ask(1, ttl=0.2), 5.0)
    assert found.error.reason == "no reply in time"


def test_names_are_those_of_registration() -> None:
    assert DeviceGrid(FakeLink({1: reply, 2: reply})).names() == {1: "client-0"}
