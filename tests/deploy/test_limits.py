"""Who gets a place, and how much: strangers make room, nodes have shares, and all of it is given back."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from fl_mlmc.deploy.door import Door, Porch, source
from fl_mlmc.deploy.federation import DeployError
from fl_mlmc.deploy.limits import RESERVED_FILES, Budget, Limits, Spent


@dataclass(eq=False)
class FakeDoor:
    """What the porch sees of a connection."""

    porch: Porch
    address: str = "a"
    age: float = 60.0
    node: str = ""
    is_busy: bool = False
    dropped: list[bool] = field(default_factory=list)

    def drop(self) -> None:
        self.dropped.append(True)
        self.porch.forget(cast(Door, self))

    def enter(self) -> bool:
        return self.porch.admit(cast(Door, self))

    def show(self, node: str) -> None:
        self.porch.recognise(cast(Door, self), node)


@pytest.fixture
def porch() -> Porch:
    return Porch(Limits(connections=4, strangers_per_address=2, connections_per_node=2), None)  # type: ignore[arg-type]


def test_an_address_has_so_many_strangers_and_old_ones_make_room(porch: Porch) -> None:
    old, new = FakeDoor(porch), FakeDoor(porch, age=0.0)
    assert old.enter()
    assert new.enter()
    assert FakeDoor(porch).enter()  # in the place of the old one
    assert (old.dropped, new.dropped) == ([True], [])
    assert not FakeDoor(porch).enter(), "the eldest has not had its time"
    assert FakeDoor(porch, "b").enter()
    assert len(porch) == 3


def test_a_full_porch_sends_strangers_away_and_never_nodes(porch: Porch) -> None:
    known = [FakeDoor(porch, f"{number}") for number in range(3)]
    for number, door in enumerate(known):
        assert door.enter()
        door.show(f"client-{number}")
    stranger = FakeDoor(porch, "x")
    assert stranger.enter()
    newer = FakeDoor(porch, "y")
    assert newer.enter()
    assert stranger.dropped == [True]
    newer.show("client-3")
    assert not FakeDoor(porch, "z").enter()
    assert not any(door.dropped for door in [*known, newer])


def test_a_node_has_so_many_connections_and_its_own_idle_ones_go(porch: Porch) -> None:
    busy, idle, third, fourth = FakeDoor(porch, is_busy=True), FakeDoor(porch), FakeDoor(porch), FakeDoor(porch)
    for door in (busy, idle, third):
        assert door.enter()
        door.show("client-0")
    assert (busy.dropped, idle.dropped) == ([], [True])
    third.is_busy = True
    assert fourth.enter()
    fourth.show("client-0")
    assert (busy.dropped, third.dropped, fourth.dropped) == ([True], [], [])
    for door in (third, fourth, fourth):
        porch.forget(cast(Door, door))
    assert len(porch) == 0


def test_what_one_peer_may_call_itself_counts_as_one_address() -> None:
    assert source("192.0.2.7") == source("::ffff:192.0.2.7") == "192.0.2.7"
    assert source("2001:db8:1:2:3:4:5:6") == source("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert source("fe80::1%eth0") == "fe80::/64"
    assert source("") == ""


def test_a_connection_that_went_before_its_request_was_looked_at_is_not_counted_for_ever(porch: Porch) -> None:
    loop = asyncio.new_event_loop()
    door = Door(
        porch, config=uvicorn.Config(lambda: None, ws="none"), server_state=ServerState(), app_state={}, _loop=loop
    )
    door.connection_lost(None)
    with door.serving("client-0"):
        assert len(porch) == 0
    assert not loop._scheduled, "no timer either"  # type: ignore[attr-defined]
    loop.close()


def test_bytes_are_shared_and_given_back() -> None:
    budget = Budget(Limits(bytes_in_flight=100, bytes_per_node=60, requests_per_node=2))
    with budget.hold("a", 60):
        with pytest.raises(Spent, match="a has 60 bytes under way already"), budget.hold("a", 1):
            pass
        with pytest.raises(Spent, match="60 bytes are under way already"), budget.hold("b", 41):
            pass
        with budget.hold("b", 40):
            pass
    with pytest.raises(ZeroDivisionError), budget.hold("a", 60):
        raise ZeroDivisionError
    with budget.hold("a", 60), budget.request("a"), budget.request("a"):
        with pytest.raises(Spent, match="a has 2 requests under way already"), budget.request("a"):
            pass
        with budget.request("b"):
            pass


def test_connections_are_no_more_than_descriptors_allow() -> None:
    limits = Limits(connections=1000, superlink_connections=64)
    assert limits.within(20_000) == limits
    assert limits.within(1024).connections == 1024 - 64 - RESERVED_FILES
    with pytest.raises(DeployError, match=r"this process may open 200 files, the gate needs 208: raise the limit"):
        limits.within(200)
