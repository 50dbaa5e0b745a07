"""What our simulated grids share: numbered nodes, their contexts, and the call of the ClientApp."""

import itertools
import logging
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_mlmc.run.config import Scalar
from fl_mlmc.run.protocol import printable

CLIENT_APP_RAISED = 2  # flwr's ErrorCode.CLIENT_APP_RAISED_EXCEPTION


class SimulatedGrid(Grid):
    """A Grid of `num_nodes` simulated nodes; an engine says how messages are answered.

    Nodes are numbered from 1, node n is partition n − 1. A message is sent when its reply is asked for.
    """

    def __init__(self, num_nodes: int) -> None:
        identify_process()
        self.num_nodes = num_nodes
        self._states: dict[int, RecordDict] = {}
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def get_node_ids(self) -> Iterable[int]:
        """1 to `num_nodes`."""
        return list(range(1, self.num_nodes + 1))

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """The replies, each as soon as it is there."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answers them at once; the ids by which `pull_messages` gives the replies."""
        replies = {reply.metadata.reply_to_message_id: reply for reply in self.send_and_receive(messages)}
        self._replies |= replies
        return list(replies)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages of these ids, each given once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message as Flower makes one; what a strategy of Flower's own may call."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def set_run(self, run: object) -> None:
        """NotImplementedError: Flower's own processes call it, and there are none."""
        raise NotImplementedError("a simulated grid stands for one run of its own")

    @property
    def run(self) -> object:  # type: ignore[override]
        """NotImplementedError, likewise."""
        raise NotImplementedError("a simulated grid stands for one run of its own")

    def number(self, message: Message) -> Message:
        """Give a message that is about to be sent the id that Flower would give it."""
        message.metadata.__dict__["_message_id"] = str(next(self._numbers))
        return message


def context_of(
    message: Message, num_nodes: int, run_config: dict[str, Scalar], state: RecordDict, data_path: str = ""
) -> Context:
    """The Context of the node that `message` goes to; `data_path` where its machine has the data elsewhere."""
    node = message.metadata.dst_node_id
    elsewhere = {"data-path": data_path} if data_path else {}
    return Context(
        run_id=message.metadata.run_id,
        node_id=node,
        node_config={"partition-id": node - 1, "num-partitions": num_nodes, **elsewhere},
        state=state,
        run_config=run_config,
    )


def answer(client_app: ClientApp, message: Message, context: Context, is_apart: bool = False) -> Message:
    """The ClientApp's reply, or an error reply if it raises, whatever it raises, or gives something else.

    `is_apart`: in a process without a terminal, where a KeyboardInterrupt is the client's doing, not the user's.
    """
    try:
        reply = client_app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp gave a {type(reply).__name__}, expected a Message")
        return reply
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not is_apart:
            raise
        logging.getLogger(__name__).error("the ClientApp raised\n%s", traceback.format_exc())
        return raised(message, error)


def raised(message: Message, error: BaseException) -> Message:
    """The error reply of a client whose app raised `error`."""
    return Message(Error(CLIENT_APP_RAISED, f"{type(error).__name__}: {printable(error)}"), reply_to=message)


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
