from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import client_app
from fl_mlmc.protocol import CONFIG, RosterEntry
from fl_mlmc.submodels.tier import parse_tiers
from simulations.local_grid import LocalGrid
from strategies.roster import Roster, RosterError

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
        (lambda entry: {"code-stamp": "old"} if entry.first == 1 else {}, "it runs code old, the server runs"),
        (lambda entry: {"first": -4} if entry.first == 1 else {}, "it hosts client -4"),
        (lambda entry: {"first": "one"} if entry.first == 1 else {}, "first = 'one'"),
    ],
)
def test_a_node_that_does_not_fit_is_refused_by_name(
    change: Callable[[RosterEntry], dict[str, object]], reason: str
) -> None:
    with pytest.raises(RosterError, match=f"2 of 3 clients have a node.*node 2 was refused: .*{reason}"):
        Roster(TIERS, 3, seed=0).wait(grid(3, change), seconds=0)
