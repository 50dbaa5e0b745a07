"""The `local` engine: clients run one after another in this process. For tests, debugging and notebooks."""

from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.run.config import Scalar

from .simulated import SimulatedGrid, answer, context_of


class LocalGrid(SimulatedGrid):
    """Calls the ClientApp directly. Replies come as they are asked for, one at a time; nothing is serialised."""

    def __init__(self, client_app: ClientApp, num_nodes: int, run_config: Mapping[str, Scalar]) -> None:
        super().__init__(num_nodes)
        self._client_app = client_app
        self._run_config = dict(run_config)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """A message is answered when its reply is asked for; `timeout` is not looked at."""
        return map(self._answer, messages)

    def _answer(self, message: Message) -> Message:
        state = self._states.setdefault(message.metadata.dst_node_id, RecordDict())
        context = context_of(self.number(message), self.num_nodes, self._run_config, state)
        return answer(self._client_app, message, context)
