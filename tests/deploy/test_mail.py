"""Who speaks is who signs: forged pushes are refused, honest ones pass, in Flower's own messages."""

import random
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute

from fl_mlmc.deploy.mail import MOST_TASKS, Forged, Mail
from fl_mlmc.simulations.engines.simulated import identify_process

ANNE, BOB = 101, 102  # Flower's numbers of the nodes of client-0 and client-1


@pytest.fixture(autouse=True)
def as_a_server() -> None:
    identify_process()


def task(number: int) -> Message:
    message = Message(RecordDict(), dst_node_id=number, message_type="train", group_id="1/0")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def give(mail: Mail, name: str, number: int) -> Message:
    """A task that the SuperLink hands to a node."""
    message = task(number)
    reply = PullMessagesResponse(message_object_trees=[get_object_tree(message)]).SerializeToString()
    mail.note("pull-messages", name, b"", reply)
    return message


def answer(message: Message, **forged: Any) -> Message:
    """A reply, with some of its metadata changed."""
    reply = Message(RecordDict({"config": ConfigRecord({"x": 1})}), reply_to=message)
    for name, value in forged.items():
        reply.metadata.__dict__[f"_{name}"] = value
    return reply


def push(reply: Message, number: int, **changes: Any) -> bytes:
    """The call by which a node announces a reply."""
    with no_object_id_recompute():
        reply.metadata.__dict__["_message_id"] = reply.object_id
        envelope, tree = message_to_proto(remove_content_from_message(reply)), get_object_tree(reply)
    for name, value in changes.items():
        setattr(envelope.metadata, name, value)
    return PushMessagesRequest(
        node=Node(node_id=number), messages_list=[envelope], message_object_trees=[tree]
    ).SerializeToString()


def parts(reply: Message, number: int) -> list[bytes]:
    """The calls by which it then sends the reply's objects."""
    return [
        PushObjectRequest(node=Node(node_id=number), object_content=each.deflate()).SerializeToString()
        for each in get_all_nested_objects(reply).values()
    ]


def test_an_honest_reply_passes_with_all_its_parts_and_again_if_it_was_not_heard() -> None:
    mail = Mail()
    reply = answer(give(mail, "client-0", ANNE))
    for _ in range(2):
        mail.check("push-messages", "client-0", push(reply, ANNE))
        for part in parts(reply, ANNE):
            mail.check("push-object", "client-0", part)
    assert len(parts(reply, ANNE)) == 3


def test_a_node_does_not_answer_in_anothers_name() -> None:
    mail = Mail()
    own, others = give(mail, "client-0", ANNE), give(mail, "client-1", BOB)
    with pytest.raises(Forged, match=f"it speaks as node {BOB}, and is {ANNE}"):
        mail.check("push-messages", "client-0", push(answer(own, src_node_id=BOB), ANNE))
    with pytest.raises(Forged, match="which it was not given"):
        mail.check("push-messages", "client-0", push(answer(others, src_node_id=ANNE), ANNE))
    forged = answer(own, src_node_id=BOB, group_id="1/1")
    mail.check("push-messages", "client-0", push(forged, ANNE, src_node_id=ANNE))  # an honest envelope, but then:
    refused = []
    for part in parts(forged, ANNE):
        try:
            mail.check("push-object", "client-0", part)
        except Forged as error:
            refused.append(str(error))
    assert refused == [f"it speaks as node {BOB}, and is {ANNE}"]


def test_a_node_does_not_give_tasks_to_another() -> None:
    mail = Mail()
    give(mail, "client-0", ANNE)
    with pytest.raises(Forged, match="it speaks as node 1, and is"):
        mail.check("push-messages", "client-0", push(task(BOB), ANNE))
    with pytest.raises(Forged, match=f"it writes to node {BOB}"):
        mail.check("push-messages", "client-0", push(answer(task(ANNE), dst_node_id=BOB), ANNE))
    with pytest.raises(Forged, match="of task '', which it was not given"):
        mail.check("push-messages", "client-0", push(answer(task(ANNE), reply_to_message_id=""), ANNE))


def test_an_announcement_is_of_one_message_and_of_its_own_object() -> None:
    mail = Mail()
    own = give(mail, "client-0", ANNE)
    call = PushMessagesRequest.FromString(push(answer(own), ANNE))
    call.message_object_trees[0].object_id = "0" * 64
    with pytest.raises(Forged, match="not the object that it announces"):
        mail.check("push-messages", "client-0", call.SerializeToString())
    call.message_object_trees.append(ObjectTree())
    with pytest.raises(Forged, match="it pushes 1 messages and 2 objects at once"):
        mail.check("push-messages", "client-0", call.SerializeToString())
    for garbage in ("push-messages", "push-object", "pull-object", "confirm-message-received"):
        with pytest.raises(Forged, match=f"its {garbage} is no message of Flower's"):
            mail.check(garbage, "client-0", b"\xff\xff")


def test_a_node_fetches_and_confirms_what_it_was_given() -> None:
    mail = Mail()
    own, others = give(mail, "client-0", ANNE), give(mail, "client-1", BOB)
    pulled = [PullObjectRequest(object_id=each.object_id).SerializeToString() for each in (own, others)]
    done = [
        ConfirmMessageReceivedRequest(message_object_id=each.object_id).SerializeToString() for each in (own, others)
    ]
    mail.check("pull-object", "client-0", pulled[0])
    mail.check("confirm-message-received", "client-0", done[0])
    with pytest.raises(Forged, match="no part of its tasks"):
        mail.check("pull-object", "client-0", pulled[1])
    with pytest.raises(Forged, match="which it was not given"):
        mail.check("confirm-message-received", "client-0", done[1])
    mail.note("confirm-message-received", "client-0", done[0], b"")
    mail.check("confirm-message-received", "client-0", done[0])
    mail.check("push-messages", "client-0", push(answer(own), ANNE))
    with pytest.raises(Forged, match="no part of its tasks"):
        mail.check("pull-object", "client-0", pulled[0])


def test_what_is_remembered_of_a_node_is_bounded() -> None:
    mail = Mail()
    first = give(mail, "client-0", ANNE)
    for _ in range(MOST_TASKS):
        give(mail, "client-0", ANNE)
    with pytest.raises(Forged, match="which it was not given"):
        mail.check("push-messages", "client-0", push(answer(first), ANNE))


def test_damaged_calls_are_refused_or_pass_and_nothing_else_happens() -> None:
    mail, rng = Mail(), random.Random(0)
    reply = answer(give(mail, "client-0", ANNE))
    calls = [("push-messages", push(reply, ANNE)), *(("push-object", part) for part in parts(reply, ANNE))]
    refused = 0
    for _ in range(3000):
        call, body = rng.choice(calls)
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        damaged = damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])]
        try:
            mail.check(call, "client-0", bytes(damaged))
        except Forged:
            refused += 1
    assert 1000 < refused < 3000
