import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.clients import client_app
from fl_mlmc.run.protocol import CONFIG, RosterEntry
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies import roster as roster_module
from fl_mlmc.strategies.device_grid import DeviceGrid
from fl_mlmc.strategies.roster import Roster, RosterError
from fl_mlmc.submodels.tier import parse_tiers

TIERS = parse_tiers("small:0.5:0.5,full:1.0:0.5")


def grid(num_nodes: int, change: Callable[[RosterEntry], dict[str, object]] = lambda entry: {}) -> LocalGrid:
    app = ClientApp()

    @app.query("roster")
    def who(message: Message, context: Context) -> Message:
        reply = client_app.who(message, context)
        record = reply.content.config_records[CONFIG]
        entry = RosterEntry.from_config(record)
        return Message(RecordDict({CONFIG: ConfigRecord({**record, **change(entry)})}), reply_to=message)

    return LocalGrid(app, num_nodes, {})


@pytest.mark.parametrize("num_nodes", [1, 2, 5, 6, 8])
def test_every_client_has_one_node_however_many_nodes_there_are(num_nodes: int) -> None:
    roster = Roster(TIERS, 6, seed=0)
    roster.wait(grid(num_nodes), seconds=0)
    assert list(roster.clients) == [0, 1, 2, 3, 4, 5]
    assert {roster.seat(client).node_id - 1 for client in roster.clients} == set(range(min(num_nodes, 6)))


def test_tiers_follow_the_shares_unless_the_node_declares_one() -> None:
    roster = Roster(TIERS, 6, seed=0)
    roster.wait(grid(6), seconds=0)
    assert sorted(roster.seat(client).tier.name for client in roster.clients) == ["full"] * 3 + ["small"] * 3
    roster.wait(declared := grid(6, lambda entry: {"tier": "full"}), seconds=0)
    roster = Roster(TIERS, 6, seed=0)
    roster.wait(declared, seconds=0)
    assert {roster.seat(client).tier.name for client in roster.clients} == {"full"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entry: {"tier": "huge"} if entry.first == 1 else {}, "unknown tier 'huge'; known: small, full"),
        (lambda entry: {"code-stamp": "old"} if entry.first == 1 else {}, "it runs code 'old', the server runs"),
        (lambda entry: {"first": -4} if entry.first == 1 else {}, "first = -4, expected int from 0 to 2147483648"),
        (lambda entry: {"stride": -1} if entry.first == 1 else {}, "stride = -1, expected int from 0"),
        (
            lambda entry: {"node": "x" * 101} if entry.first == 1 else {},
            "node = 'x{58}…, expected str of at most 100 printable characters",
        ),
        (lambda entry: {"node": "\x1b[2J"} if entry.first == 1 else {}, r"node = '\\x1b\[2J', expected str of at most"),
        (
            lambda entry: {"tier": "x" * 10**6} if entry.first == 1 else {},
            "tier = 'x{58}…, expected str of at most 100",
        ),
        (lambda entry: {"first": "one"} if entry.first == 1 else {}, "first = 'one'"),
    ],
)
def test_a_node_that_does_not_fit_is_refused_by_name(
    change: Callable[[RosterEntry], dict[str, object]], reason: str
) -> None:
    with pytest.raises(RosterError, match=f"2 of 3 clients have a node.*node 2 was refused: .*{reason}"):
        Roster(TIERS, 3, seed=0).wait(grid(3, change), seconds=0)


class Registered(DeviceGrid):
    """The same nodes behind a SuperLink that knows them by name."""

    def __init__(self, inner: LocalGrid, names: dict[int, str], silent: set[int]) -> None:
        self.inner, self.registered, self.silent, self.asked = inner, names, silent, []  # type: ignore[var-annotated]

    def names(self) -> dict[int, str]:
        return self.registered

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        heard = [message for message in messages if message.metadata.dst_node_id not in self.silent]
        self.asked.append(len(heard))
        return self.inner.send_and_receive(heard)


def keep_time(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    """Give the roster a clock of its own: were it the process's, whatever else sleeps in it would make it go."""
    sleep = lambda seconds: clock.__setitem__(0, clock[0] + seconds)  # noqa: E731
    monkeypatch.setattr(roster_module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))


def single(first: Callable[[RosterEntry], int]) -> Callable[[RosterEntry], dict[str, object]]:
    return lambda entry: {"first": first(entry), "stride": 0}


def test_a_node_is_held_to_the_client_that_it_was_registered_for() -> None:
    claims = grid(3, single(lambda entry: 0 if entry.first == 2 else entry.first))  # node 3 wants client 0
    names = {1: "client-0", 2: "client-1", 3: "client-2"}
    roster = Roster(TIERS, 3, seed=0)
    with pytest.raises(RosterError, match="node 3 was refused: it hosts client 0, and was registered as 'client-2'"):
        roster.wait(Registered(claims, names, set()), seconds=0)
    roster.wait(Registered(claims, names, set()), least=2, seconds=0)
    assert [roster.seat(client).node_id for client in roster.clients] == [1, 2]


def test_a_registered_node_hosts_one_client_only() -> None:
    roster = Roster(TIERS, 2, seed=0)
    with pytest.raises(RosterError, match="it hosts client 0, and was registered as 'client-0'"):
        roster.wait(Registered(grid(1), {1: "client-0"}, set()), seconds=0)


def test_nodes_that_come_one_by_one_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    keep_time(monkeypatch, clock)

    nodes = Registered(grid(4, single(lambda entry: entry.first)), {}, set())
    come = lambda: list(range(1, min(4, 1 + int(clock[0] / 50)) + 1))  # noqa: E731 - the next one after 50 s
    monkeypatch.setattr(nodes, "get_node_ids", come)
    Roster(TIERS, 4, seed=0).wait(nodes, seconds=60)
    assert 150 <= clock[0] < 151
    with pytest.raises(RosterError, match="4 of 5 clients have a node, and none came in 60 s"):
        Roster(TIERS, 5, seed=0).wait(nodes, seconds=60)
    assert 210 <= clock[0] < 212
    monkeypatch.setattr(nodes, "get_node_ids", lambda: [1, 2, 3][: 2 + int(clock[0] / 30) % 2])  # node 3 comes and goes
    with pytest.raises(RosterError, match="none came in 60 s"):
        Roster(TIERS, 4, seed=0).wait(nodes, seconds=60)
    assert clock[0] < 400


def test_a_seat_that_is_taken_stays_with_its_node() -> None:
    roster = Roster(TIERS, 3, seed=0)
    with pytest.raises(RosterError, match="node 3 was refused: client 0 has a node already"):
        roster.wait(grid(3, single(lambda entry: 0 if entry.first == 2 else entry.first)), seconds=0)
    assert [roster.seat(client).node_id for client in roster.clients] == [1, 2]


def test_nodes_without_a_seat_are_told_of_with_the_reason() -> None:
    told: list[tuple[str, str]] = []
    roster = Roster(TIERS, 3, seed=0, on_refused=lambda node, reason: told.append((node, reason)))
    roster.wait(grid(3, single(lambda entry: 0 if entry.first == 2 else entry.first)), least=2, seconds=0)
    assert told == [("3", "client 0 has a node already")]


def test_a_seat_is_free_again_when_its_node_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = grid(3, single(lambda entry: 0 if entry.first == 2 else entry.first))
    monkeypatch.setattr(nodes, "get_node_ids", lambda: [1, 2, 3])
    roster = Roster(TIERS, 2, seed=0)
    roster.wait(nodes, seconds=0)
    assert [roster.seat(client).node_id for client in roster.clients] == [1, 2]
    monkeypatch.setattr(nodes, "get_node_ids", lambda: [2, 3])
    roster.refresh(nodes)
    assert [roster.seat(client).node_id for client in roster.clients] == [3, 2]
    monkeypatch.setattr(nodes, "get_node_ids", lambda: [2])
    roster.refresh(nodes)
    assert list(roster.clients) == [1]


def test_a_device_beyond_the_runs_clients_takes_no_part() -> None:
    roster = Roster(TIERS, 3, seed=0)
    roster.wait(grid(3, single(lambda entry: 7 if entry.first == 2 else entry.first)), least=2, seconds=0)
    assert list(roster.clients) == [0, 1]


def test_a_silent_node_is_not_waited_for_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Registered(grid(3, single(lambda entry: entry.first)), {}, silent={2})
    roster = Roster(TIERS, 3, seed=0)
    roster.wait(nodes, least=2, seconds=0)
    for _ in range(5):
        roster.refresh(nodes)
    assert nodes.asked == [2]
    assert list(roster.clients) == [0, 2]
    asked_at, clock = [], [start := time.monotonic()]
    keep_time(monkeypatch, clock)
    for seconds in range(1, 115):
        clock[0] = start + seconds
        before = len(nodes.asked)
        roster.refresh(nodes)
        asked_at += [seconds] * (len(nodes.asked) - before)
    assert asked_at == pytest.approx([5, 25, 105], abs=1), "pauses of 5, 20 and 80 seconds"


def test_a_node_that_answered_is_not_taken_for_silent_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Registered(grid(2, single(lambda entry: entry.first)), {}, silent={2})
    clock, there = [0.0], [1, 2]
    keep_time(monkeypatch, clock)
    monkeypatch.setattr(nodes, "get_node_ids", lambda: list(there))
    roster = Roster(TIERS, 2, seed=0)

    def clients_at(seconds: float) -> list[int]:
        clock[0] = seconds
        roster.refresh(nodes)
        return list(roster.clients)

    assert [clients_at(seconds) for seconds in (0, 6)] == [[0], [0]]  # silent, asked again after 5 s, and after 20
    nodes.silent.clear()
    assert clients_at(27) == [0, 1]
    there.remove(2)
    assert clients_at(28) == [0]
    there.append(2)
    nodes.silent.add(2)
    assert clients_at(29) == [0]
    nodes.silent.clear()
    assert clients_at(35) == [0, 1], "5 s after the first silence"


def test_what_a_node_says_of_itself_is_fit_for_a_log() -> None:
    roster = Roster(TIERS, 1, seed=0)
    with pytest.raises(RosterError) as error:
        roster.wait(grid(1, lambda entry: {"code-stamp": "\x1b[2J" + "x" * 100_000}), seconds=0)
    assert len(str(error.value)) < 1000
    assert "\x1b" not in str(error.value)
