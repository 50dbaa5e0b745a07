"""The server's half of the run's scheme, over tiers: what it keeps, and whose replies it counts on."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fl_mlmc.aggregation import Fold, Folding, Groups, GroupSum, Mean, NotFiniteError
from fl_mlmc.aggregation.fold import is_finite
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.run.config.cohort import CohortConfig
from fl_mlmc.run.config.compression import CompressionConfig
from fl_mlmc.schemes import Part, Round, Scheme, State, Workload
from fl_mlmc.schemes.controlled import sparse
from fl_mlmc.submodels import IndexPlan, Tier

MEMORY_ROUNDS = "memory-rounds"
"""The name, in a `state`, of what is known of the clients' memories."""
MOVEMENT_PREFIX = "movement/"
"""What stands before a movement's round in the names of a `state`."""


class MemoryOrigin(NamedTuple):
    """Where a client's memory comes from: the last round in which its message was taken; 0: none was."""

    number: int
    rank: int
    """The client's place in that round's cohort, from 0."""
    cohort_size: int


@dataclass(frozen=True, eq=False)
class Gathering:
    """The messages of one round as they come in: the points they are about, who sends them, and their means so far."""

    round: Round
    points: Sequence[Tensor]
    """What is broadcast: each float32 of the model's size."""
    ranks: Mapping[int, int]
    """Each client's place in the cohort, from 0."""
    folds: Sequence[Fold]
    """One for each message of the scheme."""
    groups: Groups
    """Those in which the folds sum the cohort."""

    def group_of(self, client: int) -> int:
        """The number of a client's group."""
        return self.groups.of(self.ranks[client])


class SchemeServer:
    """Turns the means of a round's messages into the model's update.

    A coordinate's share is that of its holders in the cohort among all its holders; clients with memory weigh the same,
    as in the theorems. Where clients must hear what their round came to, its movement is kept until they have all been
    in a later one.

    Parameters
    ----------
    compression : CompressionConfig
        Names the scheme and the compressor of updates. ValueError if they do not go together.
    cohort : CohortConfig
        Says how many clients there are.
    seed : int
        Of the run; both sides draw what a scheme shares from it.
    folding : Folding
        Makes the means of each round, over all `folding.size` coordinates of the model.
    plan_of : Callable[[int], IndexPlan]
        A client's plan, of a round that does not matter: schemes with memory need plans that stay.
    remembers : bool (default: False)
        Whether clients keep something from round to round that the scheme does not ask for.
    """

    def __init__(
        self,
        compression: CompressionConfig,
        cohort: CohortConfig,
        seed: int,
        folding: Folding,
        plan_of: Callable[[int], IndexPlan],
        remembers: bool = False,
    ) -> None:
        size, num_clients = folding.size, cohort.num_clients
        self.scheme = compression.resolved_scheme(size, num_clients)
        self.remembers = remembers or self.scheme.has_memory
        self._uplink, self._folding, self._size, self._plan_of = compression.uplink, folding, size, plan_of
        self._seed, self._num_clients = seed, num_clients
        self._state: State | None = None
        self._origins = torch.zeros(num_clients, len(MemoryOrigin._fields), dtype=torch.int64)
        self._saved = torch.zeros(num_clients, dtype=torch.int64)
        self._movements: dict[int, Tensor] = {}
        self._holders = torch.ones(size, dtype=torch.float64)
        self._workloads: dict[int, Workload] = {}

    def meet(self, clients: Iterable[int], tier_of: Callable[[int], Tier]) -> None:
        """Count how many of all `clients` hold each coordinate, and what each has time for; before the first round."""
        clients = list(clients)
        self._folding.meet(map(self._plan_of, clients))
        if self.scheme.sets_workloads:
            self._workloads = self._shared_out(clients, tier_of)
        if self.scheme.has_memory:
            holders = torch.zeros_like(self._holders)
            for client in clients:
                own = self._plan_of(client)
                own.scatter_add(holders, 1)
            self._holders = holders.clamp(min=1)  # where nobody is, nothing comes either

    def _shared_out(self, clients: Sequence[int], tier_of: Callable[[int], Tier]) -> dict[int, Workload]:
        sizes = [self._plan_of(client).size for client in clients]
        rng = np.random.default_rng(0)
        bits = {size: self._uplink.compress(torch.ones(size), rng).expected_bits for size in sizes}
        paces = [(tier_of(client).pace(size), bits[size] / 8) for client, size in zip(clients, sizes, strict=True)]
        compute = [pace.seconds(1, 0) for pace, _ in paces]
        message = [pace.seconds(0, size) for pace, size in paces]
        return dict(zip(clients, self.scheme.workloads(compute, message), strict=True))

    def active(self, cohort: Iterable[int]) -> list[int]:
        """Those of a cohort that have time to do anything in a round."""
        return [client for client in cohort if client not in self._workloads or self._workloads[client].messages]

    def begin(self, server_round: int, cohort: Sequence[int], vector: Tensor) -> Gathering:
        """A new round of `cohort`, ascending, from the model `vector`, float32 of shape (size,)."""
        if self._state is None:
            self._state = self.scheme.init_server(vector.double())
        model = vector.double() if self._state else vector
        return Gathering(
            round=self._round(server_round, len(cohort)),
            points=[point.float() for point in self.scheme.points(model, self._state)],
            ranks={client: rank for rank, client in enumerate(cohort)},
            folds=[self._folding.start(server_round) for _ in range(self.scheme.num_messages)],
            groups=Groups(len(cohort)),
        )

    def task_fields(self, gathering: Gathering, client: int) -> dict[str, Any]:
        """What a client's task says of its place in the round, of its memory and of what it has time for."""
        load = self._workload(client)
        return {
            "memory_round": self.memory_of(client).number,
            "checkpoint_round": int(self._saved[client]),
            "rank": gathering.ranks[client],
            "cohort_size": gathering.round.cohort_size,
            "gradients": load.gradients,
            "messages": load.messages,
        }

    def memory_of(self, client: int) -> MemoryOrigin:
        """Where the memory comes from that the server counts on."""
        return MemoryOrigin(*self._origins[client].tolist())

    def movement(self, client: int) -> bytes | None:
        """What the round of the client's memory came to, on the coordinates that it sent; None: nothing to hear."""
        number, rank, cohort_size = self.memory_of(client)
        if not (self.scheme.hears_back and number):
            return None
        own = self._plan_of(client)
        only = self._only(own, self._round(number, cohort_size), rank)
        moved = own.gather(self._movements[number])
        return encode_payload(sparse(moved, torch.arange(own.size) if only is None else only).payload)

    def add(
        self,
        gathering: Gathering,
        client: int,
        own: IndexPlan,
        payloads: Sequence[Payload],
        weight: float,
        labels: list[int] | None,
    ) -> None:
        """Take a client's messages into the means; ValueError if one of them cannot be taken, and then none was.

        `weight` is that of a scheme without weights of its own; `labels` as in `Fold.add`.
        """
        weight, only = self._weight(client, weight), self._only(own, gathering.round, gathering.ranks[client])
        add_all(gathering.folds, own, payloads, weight, labels, only)
        self._note(gathering, client)

    def count(self, gathering: Gathering, client: int, own: IndexPlan, weight: float, labels: list[int] | None) -> None:
        """Count a client whose messages are in a sum that its group's end will bring; arguments as in `add`."""
        weight, only = self._weight(client, weight), self._only(own, gathering.round, gathering.ranks[client])
        for fold in gathering.folds:
            fold.count(own, weight, labels, only)
        self._note(gathering, client)

    def passed(self, gathering: Gathering, client: int, sums: MutableMapping[int, list[GroupSum]]) -> None:
        """Hear that a client's turn is over, whether its messages were taken or not: clients come in their order.

        `sums`: those of groups that were summed elsewhere, by number; they are taken out of it at their groups' ends.
        """
        if not gathering.groups.ends_at(gathering.ranks[client]):
            return
        elsewhere = sums.pop(gathering.group_of(client), None)
        for fold in gathering.folds if elsewhere is None else ():
            fold.end_group()
        for fold, group in zip(gathering.folds, elsewhere, strict=True) if elsewhere is not None else ():
            fold.merge(group)

    def sums_elsewhere(self, gathering: Gathering) -> bool:
        """Whether whoever knows the run config can sum a group: no weight and no update is needed here alone."""
        return not self.scheme.sets_workloads and all(fold.is_sum for fold in gathering.folds)

    def _weight(self, client: int, weight: float) -> float:
        return self._workload(client).weight if self.scheme.has_memory or client in self._workloads else weight

    def _note(self, gathering: Gathering, client: int) -> None:
        if self.remembers:
            round = gathering.round
            self._origins[client] = torch.tensor(MemoryOrigin(round.number, gathering.ranks[client], round.cohort_size))

    def estimate(self, gathering: Gathering, vector: Tensor) -> Mean:
        """The model's update that the round comes to, and how many clients spoke of each coordinate.

        NotFiniteError if it, or what the scheme would keep, is not finite; then the scheme keeps what it had.
        """
        means = [fold.result() for fold in gathering.folds]
        share = means[0].coverage / self._holders if self._state else 1.0
        # What a scheme without state gives back is the mean itself: digits more would be lost again.
        updates = [mean.update.double() if self._state else mean.update for mean in means]
        model = vector.double() if self._state else vector
        direction, state = self.scheme.estimate(updates, model, self._state or {}, gathering.round, share)
        # Clients send updates, which point down; a scheme that moves itself gives what is to be subtracted.
        update = (-direction if self.scheme.moves_itself else direction).float()
        kept = {"its direction": update, **{name: vector.float() for name, vector in state.items()}}
        if broken := [name for name, vector in kept.items() if not is_finite(vector)]:
            raise NotFiniteError(
                f"scheme {self.scheme.name} would make {' and '.join(broken)} not finite, by a mean whose largest "
                f"coordinate is {max(float(update.abs().max()) for update in updates):.3g}: set max-update-norm"
            )
        self._state = state
        if self.scheme.hears_back:
            self._movements[gathering.round.number] = update
            awaited = set(self._origins[:, 0].tolist())
            self._movements = {number: moved for number, moved in self._movements.items() if number in awaited}
        return replace(means[0], update=update)

    def state(self) -> dict[str, Tensor]:
        """What must outlive the process, by name; nothing where no client remembers."""
        if not self.remembers:
            return {}
        movements = {f"{MOVEMENT_PREFIX}{number}": moved for number, moved in self._movements.items()}
        return {**(self._state or {}), **movements, MEMORY_ROUNDS: self._origins.clone()}

    def saved(self) -> None:
        """The `state` is safe: clients keep the memories that it counts on."""
        self._saved = self._origins[:, 0].clone()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold others' vectors too."""
        if self.remembers:
            names = self.scheme.init_server(torch.zeros(1, dtype=torch.float64))
            self._state = {name: state[name] for name in names}
            self._origins = state[MEMORY_ROUNDS].clone()
            moved = [name for name in state if name.startswith(MOVEMENT_PREFIX)]
            self._movements = {int(name.removeprefix(MOVEMENT_PREFIX)): state[name] for name in moved}
            self.saved()

    def _round(self, number: int, cohort_size: int) -> Round:
        return Round(self._seed, number, self._num_clients, cohort_size)

    def _workload(self, client: int) -> Workload:
        return self._workloads.get(client, Workload())

    def _only(self, own: IndexPlan, round: Round, rank: int) -> Tensor | None:
        return part_of(self.scheme, self._size, own, round, rank)


def part_of(scheme: Scheme, size: int, own: IndexPlan, round: Round, rank: int) -> Tensor | None:
    """The client's own numbers of the coordinates that member `rank` speaks of, int64, ascending; None: all.

    `size` is that of the model.
    """
    only = scheme.speaks_of(size, round, rank)
    return only if only is None or own.size == size else Part(size, own.indices).own(only)


def add_all(
    folds: Sequence[Fold],
    own: IndexPlan,
    payloads: Sequence[Payload],
    weight: float,
    labels: list[int] | None,
    only: Tensor | None,
) -> None:
    """Add a client's messages, each to its fold; ValueError if one of them cannot be taken, and then none was."""
    messages = list(zip(folds, payloads, strict=True))
    ready = [(fold, fold.checked(own, payload, weight, labels, only)) for fold, payload in messages]
    for fold, payload in ready:
        fold.take(own, payload, weight, labels, only)
