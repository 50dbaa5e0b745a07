"""Who speaks is who signs: what nodes push and fetch is held to the key that signed the request.

Flower checks that the node number which a request names belongs to the key, and nothing in a pushed message. That
names its sender and the task that it answers twice: in the push, by which the SuperLink files it, and in the object
that the ServerApp reads. Without these checks a node answers in another's name, or sends another node a task.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.inflatable.inflatable_object import get_object_body, get_object_type_from_object_content
from google.protobuf.message import DecodeError

MOST_TASKS = 64
"""Tasks that a node may have fetched and not answered; it works on one at a time."""


class Forged(Exception):
    """A request that its signer may not make; the text is for logs."""


class Mail:
    """The tasks that went out to each node, and what each may therefore say and fetch."""

    def __init__(self) -> None:
        self._tasks: dict[str, OrderedDict[str, set[str]]] = {}  # by node: a task's name, and its parts not yet fetched

    def check(self, call: str, node: str, body: bytes) -> None:
        """Forged if `node` may not make this call; the SuperLink checks that the number in it is the node's own."""
        try:
            if call == "push-messages":
                self._check_push(node, PushMessagesRequest.FromString(body))
            elif call == "push-object":
                self._check_object(node, PushObjectRequest.FromString(body))
            elif call == "pull-object":
                self._check_own(node, PullObjectRequest.FromString(body).object_id)
            elif call == "confirm-message-received":
                self._check_task(node, ConfirmMessageReceivedRequest.FromString(body).message_object_id)
        except DecodeError:
            raise Forged(f"its {call} is no message of Flower's") from None

    def note(self, call: str, node: str, body: bytes, reply: bytes) -> None:
        """Remember what a call that the SuperLink granted gave to `node`, or what the node is done with."""
        own = self._tasks.setdefault(node, OrderedDict())
        if call == "pull-messages":
            for tree in PullMessagesResponse.FromString(reply).message_object_trees:
                own[tree.object_id] = set(_names([tree]))
            while len(own) > MOST_TASKS:
                own.popitem(last=False)
        elif call == "confirm-message-received":
            task = ConfirmMessageReceivedRequest.FromString(body).message_object_id
            if task in own:
                own[task] = set()  # the SuperLink keeps its parts no longer

    def _check_push(self, node: str, push: PushMessagesRequest) -> None:
        if (len(push.messages_list), len(push.message_object_trees)) != (1, 1):
            raise Forged(
                f"it pushes {len(push.messages_list)} messages and {len(push.message_object_trees)} objects at once"
            )
        message, tree = push.messages_list[0].metadata, push.message_object_trees[0]
        self._check_sender(node, push.node.node_id, message)
        if message.message_id != tree.object_id:
            raise Forged("the message that it pushes is not the object that it announces")

    def _check_object(self, node: str, push: PushObjectRequest) -> None:
        try:
            if get_object_type_from_object_content(push.object_content) != Message.__qualname__:
                return
            body = get_object_body(push.object_content, Message)
        except ValueError:
            return  # Flower reads it no better
        self._check_sender(node, push.node.node_id, MessageProto.FromString(body).metadata)

    def _check_sender(self, node: str, number: int, message: Metadata) -> None:
        if message.src_node_id != number:
            raise Forged(f"it speaks as node {message.src_node_id}, and is {number}")
        if message.dst_node_id != SUPERLINK_NODE_ID:
            raise Forged(f"it writes to node {message.dst_node_id}; nodes write to the server alone")
        self._check_task(node, message.reply_to_message_id)

    def _check_task(self, node: str, task: str) -> None:
        if task not in self._tasks.get(node, ()):
            raise Forged(f"it speaks of task {task[:16]!r}, which it was not given")

    def _check_own(self, node: str, name: str) -> None:
        if not any(name in parts for parts in self._tasks.get(node, OrderedDict()).values()):
            raise Forged(f"it asks for {name[:16]!r}, which is no part of its tasks")


def _names(trees: Iterable[ObjectTree]) -> Iterator[str]:
    for tree in trees:
        yield tree.object_id
        yield from _names(tree.children)
