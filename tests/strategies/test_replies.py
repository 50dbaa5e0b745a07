"""Which task a reply answers."""

from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.submodels.tier import parse_tiers
from simulations.engines.simulated import identify_process
from strategies.replies import Sent, in_client_order
from strategies.roster import Seat

(TIER,) = parse_tiers("full:1.0:1.0")
NO_PLAN: Any = None


def reply(client: int, text: str) -> Message:
    identify_process()
    task = Message(RecordDict(), dst_node_id=10 + client, message_type="train", group_id=f"1/{client}")
    return Message(RecordDict({"config": ConfigRecord({"text": text})}), reply_to=task)


def said(sent: dict[int, Sent], *replies: Message) -> list[tuple[int, str | None]]:
    pairs = in_client_order(sent, replies)
    return [(client, found and found.content.config_records["config"]["text"]) for client, found in pairs]  # type: ignore[misc]


def test_replies_come_in_the_order_sent_and_the_first_of_a_client_counts() -> None:
    sent = {
        client: Sent(TrainTask(1, client, "full", 1.0, ""), Seat(10 + client, str(client), TIER), NO_PLAN, 0)
        for client in (4, 7, 9)
    }
    replies = reply(9, "nine"), reply(9, "nine again"), reply(7, "seven"), reply(4, "four"), reply(4, "four again")
    assert said(sent, *replies) == [(4, "four"), (7, "seven"), (9, "nine")]
    assert said(sent, reply(9, "nine"), reply(9, "nine again"), reply(4, "four")) == [
        (4, "four"),
        (7, None),
        (9, "nine"),
    ]
