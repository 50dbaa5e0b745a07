"""The server's half of the run's scheme, over tiers: what it keeps, and whose replies it counts on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fl_mlmc.aggregate import Mean
from fl_mlmc.config import RunConfig
from fl_mlmc.schemes import Round
from fl_mlmc.submodels import IndexPlan

ROUNDS = "memory-rounds"


class SchemeServer:
    """Turns the mean of a round's messages into the model's update.

    `plan_of` gives a client's plan. A coordinate's share is that of its holders in the cohort among all its holders;
    clients with memory weigh the same, as in the theorems.
    """

    def __init__(self, config: RunConfig, size: int, plan_of: Callable[[int], IndexPlan]) -> None:
        self.scheme = config.resolved_scheme(size)
        self._config = config
        self._plan_of = plan_of
        self._state: Mapping[str, Tensor] = self.scheme.init_server(torch.zeros(size, dtype=torch.float64))
        self._rounds = torch.zeros(config.num_clients, dtype=torch.int64)
        self._holders = torch.ones(size, dtype=torch.float64)

    def meet(self, clients: Iterable[int]) -> None:
        """Count how many of all `clients` hold each coordinate; call it before the first round."""
        if self.scheme.has_memory:
            holders = torch.zeros_like(self._holders)
            for client in clients:
                own = self._plan_of(client)
                own.scatter_add(holders, 1)
            self._holders = holders.clamp(min=1)  # where nobody is, nothing comes either

    def memory_round(self, client: int) -> int:
        """The last round in which the client's message was taken, whose memory it must have; 0: none."""
        return int(self._rounds[client])

    def accept(self, client: int, server_round: int) -> None:
        """The client's message of the round is in the mean."""
        if self.scheme.has_memory:
            self._rounds[client] = server_round

    def estimate(self, mean: Mean, vector: Tensor, server_round: int) -> Mean:
        """The mean with the scheme's update in place of the messages'."""
        config = self._config
        round = Round(config.seed, server_round, config.num_clients, config.clients_per_round)
        share = mean.coverage / self._holders if self._state else 1.0
        update, self._state = self.scheme.estimate([mean.update.double()], vector, self._state, round, share)
        return replace(mean, update=update.float())

    def state(self) -> dict[str, Tensor]:
        """What must outlive the process; nothing for a scheme without memory."""
        return {**self._state, ROUNDS: self._rounds.clone()} if self.scheme.has_memory else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        if self.scheme.has_memory:
            self._state = {name: vector for name, vector in state.items() if name != ROUNDS}
            self._rounds = state[ROUNDS].clone()
