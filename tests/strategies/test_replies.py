"""Which task a reply answers."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.simulations.engines.simulated import identify_process
from fl_mlmc.strategies.order import in_client_order
from fl_mlmc.strategies.roster import Seat
from fl_mlmc.strategies.round import OpenRound, Sent
from fl_mlmc.submodels.tier import parse_tiers

(TIER,) = parse_tiers("full:1.0:1.0")
UNUSED: Any = None


def reply(client: int, text: str) -> Message:
    identify_process()
    task = Message(RecordDict(), dst_node_id=10 + client, message_type="train", group_id=f"1/{client}")
    return Message(RecordDict({"config": ConfigRecord({"text": text})}), reply_to=task)


def opened(*cohort: int) -> OpenRound:
    sent = {
        client: Sent(TrainTask(1, client, "full", 1.0, ""), Seat(10 + client, str(client), TIER), UNUSED)
        for client in cohort
    }
    return OpenRound(1, 0.0, UNUSED, cohort, UNUSED, UNUSED, 1, sent)


def said(under_way: OpenRound, *replies: Message) -> list[tuple[int, str | None]]:
    pairs = in_client_order(under_way, replies)
    return [(client, found and found.content.config_records["config"]["text"]) for client, found in pairs]  # type: ignore[misc]


def test_replies_come_in_the_order_of_the_cohort_and_the_first_of_a_client_counts() -> None:
    replies = reply(9, "nine"), reply(9, "nine again"), reply(7, "seven"), reply(4, "four"), reply(4, "four again")
    assert said(opened(4, 7, 9), *replies) == [(4, "four"), (7, "seven"), (9, "nine")]
    assert said(opened(4, 7, 9), reply(9, "nine"), reply(9, "nine again"), reply(4, "four")) == [
        (4, "four"),
        (7, None),
        (9, "nine"),
    ]


def test_a_client_that_was_never_asked_is_of_the_cohort_and_cannot_answer() -> None:
    under_way = opened(4, 7)
    del under_way.sent[7]
    assert said(under_way, reply(7, "seven"), reply(4, "four")) == [(4, "four"), (7, None)]


@pytest.mark.parametrize("group", ["", "1", "2/4", "1/5", "1/4/", "1/ 4", "1/٤", "1/" + "9" * 5000, "x" * 10**6])
def test_a_reply_that_calls_itself_something_else_answers_nothing(group: str) -> None:
    stray = reply(4, "four")
    stray.metadata.__dict__["_group_id"] = group
    assert said(opened(4), stray) == [(4, None)]
    assert said(opened(4), stray, reply(4, "four")) == [(4, "four")]
