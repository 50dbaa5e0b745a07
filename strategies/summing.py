"""A group's replies summed where they arise: one sum travels to the server, and what came of each client.

The groups and the order within them are those of every engine (`Groups`), the code is that of the server (`Taking`,
`Fold`): where a group is summed changes no byte of a run.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl_mlmc.aggregation import Fold, Folding, Groups, GroupSum
from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import CONFIG, TrainTask, code_stamp
from fl_mlmc.schemes import Round, Scheme
from fl_mlmc.submodels import IndexPlan, WidthSpec, plan

from .round import Asked, Taken
from .scheme_server import add_all, part_of
from .taking import Taking

Exchange = tuple[Message, Message]
"""A message and its reply."""
Sum = Callable[[Iterable[Exchange]], Any]
"""Makes one value of a group's exchanges, which come in client order as they are asked for; it can be pickled."""


class SummingGrid(Grid):
    """A Grid whose nodes can sum a group's replies themselves."""

    @abstractmethod
    def sum_and_receive(
        self, messages: Iterable[Message], groups: Groups, summing: Sum, *, timeout: float | None = None
    ) -> Iterator[Any]:
        """As `send_and_receive` of a cohort's messages in client order, with sums of groups in place of their replies.

        A group may be answered client by client all the same. Beside a group's sum there may be error replies of
        clients that are not in it.
        """


@dataclass(frozen=True)
class Summed:
    """A group that was summed where its clients are."""

    taken: list[tuple[int, Taken]]
    """What came of each client, in client order."""
    sums: list[GroupSum]
    """One for each message of the scheme."""


class Summing:
    """The `Sum` of a run. It can be pickled: whoever gets it makes everything else out of the run config.

    `spec` is the model's; `server_stamp` is that of the server's code, which clients must run. Not for schemes whose
    weights only the server knows (`sets_workloads`), nor for aggregations that are no sums.
    """

    def __init__(self, config: RunConfig, spec: WidthSpec, server_stamp: str = "") -> None:
        self._config, self._spec = config, spec
        self._server_stamp = server_stamp or code_stamp()

    def __reduce__(self) -> tuple[Any, ...]:
        # A model may say by a function how wide its submodels are; the run has but a few widths.
        widths = {tier.width for tier in self._config.cohort.tier_list}
        counts = {width: self._spec.kept(width) for width in widths}.__getitem__ if self._spec.counts else None
        return _again, (self._config.to_flower(), replace(self._spec, counts=counts), self._server_stamp)

    def __call__(self, exchanges: Iterable[Exchange]) -> Summed:
        """Take each reply in its turn; one that breaks a rule is dropped here as it would be there."""
        taken = []
        for message, reply in exchanges:
            task = TrainTask.from_config(message.content.config_records[CONFIG])
            # A reply calls itself what it likes; one that is to another task is none to this one.
            is_its_own = (reply.metadata.group_id, reply.metadata.src_node_id) == (
                message.metadata.group_id,
                message.metadata.dst_node_id,
            )
            taken.append((task.client, self._take(task, reply if is_its_own else None)))
        return Summed(taken, [fold.group_sum() for fold in self._folds])

    def _take(self, task: TrainTask, reply: Message | None) -> Taken:
        config = self._config

        def add(own: IndexPlan, payloads: Any, weight: float, labels: list[int] | None) -> None:
            round = Round(config.seed, task.server_round, config.cohort.num_clients, task.cohort_size)
            only = part_of(self._scheme, self._spec.size, own, round, task.rank)
            add_all(self._folds, own, payloads, 1.0 if self._scheme.has_memory else weight, labels, only)

        rule = config.cohort.width_rule
        own = plan(self._spec, rule, task.width, task.server_round, task.client, config.seed)
        return self._taking.take(Asked(task, own), reply, add)

    @cached_property
    def _scheme(self) -> Scheme:
        return self._config.compression.resolved_scheme(self._spec.size, self._config.cohort.num_clients)

    @cached_property
    def _taking(self) -> Taking:
        return Taking(self._config, self._scheme.num_messages, self._server_stamp)

    @cached_property
    def _folds(self) -> list[Fold]:
        folding = Folding(self._config.aggregation.parsed_rule, self._spec.size, largest=LARGEST_UPDATE)
        return [folding.start(0) for _ in range(self._scheme.num_messages)]


def _again(config: dict[str, Any], spec: WidthSpec, server_stamp: str) -> Summing:
    return Summing(RunConfig.from_flower(config), spec, server_stamp)
