"""The `local` engine: clients run one after another in this process. For tests, debugging and notebooks."""

import logging
import traceback
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_mlmc.config import Scalar

CLIENT_APP_RAISED = 2  # flwr's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class LocalGrid(Grid):
    """A Grid of `num_nodes` simulated nodes that calls the ClientApp directly.

    Replies come as they are asked for, one at a time. Nothing is serialised.
    """

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Scalar]) -> None:
        identify_process()
        self._client_app = client_app
        self._num_nodes = num_nodes
        self._run_config = dict(run_config)
        self._states: dict[int, RecordDict] = {}
        self._replies: dict[str, Message] = {}
        self._num_messages = 0

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._num_nodes + 1)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        return map(self._answer, messages)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        replies = list(map(self._answer, messages))
        self._replies |= {reply.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.metadata.reply_to_message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def set_run(self, run: object) -> None:
        raise NotImplementedError("a LocalGrid stands for one run of its own")

    @property
    def run(self) -> object:  # type: ignore[override]
        raise NotImplementedError("a LocalGrid stands for one run of its own")

    def _answer(self, message: Message) -> Message:
        self._num_messages += 1
        message.metadata.__dict__["_message_id"] = str(self._num_messages)
        node = message.metadata.dst_node_id
        context = Context(
            run_id=message.metadata.run_id,
            node_id=node,
            node_config={"partition-id": node - 1, "num-partitions": self._num_nodes},
            state=self._states.setdefault(node, RecordDict()),
            run_config=self._run_config,
        )
        try:
            return self._client_app(message, context)
        except Exception as error:
            logging.getLogger(__name__).error("the ClientApp raised\n%s", traceback.format_exc())
            return Message(Error(CLIENT_APP_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


def identify_process() -> None:
    """Give this process the task identity that Flower needs before it can make a message."""
    # Flower sets it in the processes that it starts; a script or a notebook is none of them.
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:  # before 1.41 a message knows its run without
        return
    for name in ("run_id", "node_id", "task_id"):
        if getattr(TaskIdentity, f"_{name}") is None:
            setattr(TaskIdentity, name, 1)
