"""The server's half of the run's scheme, over tiers: what it keeps, and whose replies it counts on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fl_mlmc.aggregation import Fold, Folding, Ledger, Mean, NotFiniteError
from fl_mlmc.aggregation.fold import is_finite
from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.run.config import RunConfig
from fl_mlmc.schemes import Part, Round, State, Workload
from fl_mlmc.schemes.controlled import sparse
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.submodels import IndexPlan, Tier

ROUNDS, MOVEMENT = "memory-rounds", "movement/"


class SchemeServer:
    """Turns the means of a round's messages into the model's update.

    `plan_of` gives a client's plan. A coordinate's share is that of its holders in the cohort among all its holders;
    clients with memory weigh the same, as in the theorems. `remembers`: clients keep something from round to round.
    Where clients must hear what their round came to, its movement is kept until they have all been in a later one.
    """

    def __init__(
        self,
        config: RunConfig,
        size: int,
        plan_of: Callable[[int], IndexPlan],
        remembers: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self.scheme = config.resolved_scheme(size)
        self.remembers = remembers or self.scheme.has_memory
        self._config, self._size, self._plan_of = config, size, plan_of
        self._state: State | None = None
        self._turns = torch.zeros(
            config.cohort.num_clients, 3, dtype=torch.int64
        )  # of each memory: round, rank, cohort
        self._saved = torch.zeros(config.cohort.num_clients, dtype=torch.int64)
        self._movements: dict[int, Tensor] = {}
        self._holders = torch.ones(size, dtype=torch.float64)
        self._round = Round(config.seed, 0, config.cohort.num_clients, config.cohort.clients_per_round)
        self._ranks: dict[int, int] = {}
        private = config.privacy.of(config.cohort)
        self._folding = Folding(config.aggregation.parsed_rule, size, private, ledger, LARGEST_UPDATE)
        self._means: list[Fold] = []
        self._workloads: dict[int, Workload] = {}

    def meet(self, clients: Iterable[int], tier_of: Callable[[int], Tier]) -> None:
        """Count how many of all `clients` hold each coordinate, and what each has time for; before the first round."""
        clients = list(clients)
        self._folding.meet(map(self._plan_of, clients))
        if isinstance(self.scheme, Shadowheart):
            self._workloads = self._shared_out(self.scheme, clients, tier_of)
        if self.scheme.has_memory:
            holders = torch.zeros_like(self._holders)
            for client in clients:
                own = self._plan_of(client)
                own.scatter_add(holders, 1)
            self._holders = holders.clamp(min=1)  # where nobody is, nothing comes either

    def _shared_out(
        self, scheme: Shadowheart, clients: Sequence[int], tier_of: Callable[[int], Tier]
    ) -> dict[int, Workload]:
        sizes = [self._plan_of(client).size for client in clients]
        rng = np.random.default_rng(0)
        bits = {size: self._config.compression.uplink.compress(torch.ones(size), rng).expected_bits for size in sizes}
        paces = [(tier_of(client).pace(size), bits[size] / 8) for client, size in zip(clients, sizes, strict=True)]
        compute = [pace.seconds(1, 0) for pace, _ in paces]
        message = [pace.seconds(0, size) for pace, size in paces]
        return dict(zip(clients, scheme.workloads(compute, message), strict=True))

    def active(self, cohort: Iterable[int]) -> list[int]:
        """Those of a cohort that have time to do anything in a round."""
        return [client for client in cohort if client not in self._workloads or self._workloads[client].messages]

    def start(self, server_round: int, cohort: Sequence[int], vector: Tensor) -> list[Tensor]:
        """A new round of `cohort` from the model `vector`; the points to broadcast, float32."""
        self._round = replace(self._round, number=server_round, cohort_size=len(cohort))
        self._ranks = {client: rank for rank, client in enumerate(cohort)}
        self._means = [self._folding.start(server_round) for _ in range(self.scheme.num_messages)]
        if self._state is None:
            self._state = self.scheme.init_server(vector.double())
        model = vector.double() if self._state else vector
        return [point.float() for point in self.scheme.points(model, self._state)]

    def turn(self, client: int) -> dict[str, int]:
        """What a client's task says of its place in the round and of its memory."""
        return {
            "memory_round": self.turn_of(client)[0],
            "checkpoint_round": int(self._saved[client]),
            "rank": self._ranks[client],
            "cohort_size": self._round.cohort_size,
            "gradients": self._workload(client).gradients,
            "messages": self._workload(client).messages,
        }

    def turn_of(self, client: int) -> tuple[int, int, int]:
        """The last round in which the client's message was taken, its rank and the size of the cohort; 0: none."""
        number, rank, cohort_size = self._turns[client].tolist()
        return number, rank, cohort_size

    def movement(self, client: int) -> bytes | None:
        """What the round of the client's memory came to, on the coordinates that it sent; None: nothing to hear."""
        number, rank, cohort_size = self.turn_of(client)
        if not (self.scheme.hears_back and number):
            return None
        own = self._plan_of(client)
        only = self._only(own, replace(self._round, number=number, cohort_size=cohort_size), rank)
        moved = own.gather(self._movements[number])
        return encode_payload(sparse(moved, torch.arange(own.size) if only is None else only).payload)

    def add(
        self, client: int, own: IndexPlan, payloads: Sequence[Payload], weight: float, labels: list[int] | None
    ) -> None:
        """Take a client's messages into the means; ValueError if one of them cannot be taken, and then none was."""
        only = self._only(own, self._round, self._ranks[client])
        if self.scheme.has_memory or client in self._workloads:
            weight = self._workload(client).weight
        messages = list(zip(self._means, payloads, strict=True))
        ready = [(mean, mean.checked(own, payload, weight, labels, only)) for mean, payload in messages]
        for mean, payload in ready:
            mean.add(own, payload, weight, labels, only)
        if self.remembers:
            self._turns[client] = torch.tensor([self._round.number, self._ranks[client], self._round.cohort_size])

    def estimate(self, vector: Tensor) -> Mean:
        """The model's update that the round comes to, and how many clients spoke of each coordinate.

        NotFiniteError if it, or what the scheme would keep, is not finite; then the scheme keeps what it had.
        """
        means = [mean.result() for mean in self._means]
        share = means[0].coverage / self._holders if self._state else 1.0
        # What a scheme without state gives back is the mean itself: digits more would be lost again.
        updates = [mean.update.double() if self._state else mean.update for mean in means]
        model = vector.double() if self._state else vector
        direction, state = self.scheme.estimate(updates, model, self._state or {}, self._round, share)
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
            self._movements[self._round.number] = update
            awaited = set(self._turns[:, 0].tolist())
            self._movements = {number: moved for number, moved in self._movements.items() if number in awaited}
        return replace(means[0], update=update)

    def state(self) -> dict[str, Tensor]:
        """What must outlive the process; nothing where no client remembers."""
        if not self.remembers:
            return {}
        movements = {f"{MOVEMENT}{number}": moved for number, moved in self._movements.items()}
        return {**(self._state or {}), **movements, ROUNDS: self._turns.clone()}

    def saved(self) -> None:
        """The `state` is safe: clients keep the memories that it counts on."""
        self._saved = self._turns[:, 0].clone()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold others' vectors too."""
        if self.remembers:
            names = self.scheme.init_server(torch.zeros(1, dtype=torch.float64))
            self._state = {name: state[name] for name in names}
            self._turns = state[ROUNDS].clone()
            moved = {name.removeprefix(MOVEMENT): state[name] for name in state if name.startswith(MOVEMENT)}
            self._movements = {int(number): vector for number, vector in moved.items()}
            self.saved()

    def _workload(self, client: int) -> Workload:
        return self._workloads.get(client, Workload())

    def _only(self, own: IndexPlan, round: Round, rank: int) -> Tensor | None:
        only = self.scheme.speaks_of(self._size, round, rank)
        if only is None or own.size == self._size:
            return only
        return Part(self._size, own.indices).own(only)
