"""Local steps with control variates: what ProxSkip, CompressedScaffnew and TAMUNA have in common.

A round is the local steps between two communications, their number geometric with mean 1/p and the same for all: x_i
← x_i − γ (∇f_i(x_i) − h_i). Then each coordinate is averaged over the s of the cohort's c members that a shared
template gives it to, and h_i ← h_i + (pη/γ) q_i ⊙ (x̄ − x_i) with η = c(s−1) / (s(c−1)), where q_i marks the
coordinates of client i. The h_i sum to zero at all times. What travels is x_i − x̄ of the round before, which
vanishes at the optimum.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, SparseBlock
from ..compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded
from .constants import need_identity


class ControlledSteps(Scheme):
    """Memory: the control variate h_i. Subclasses say the step γ, the probability p and the overlap s."""

    moves_itself = True
    beyond_runs = "clients correct every local step, and hear what their round came to"

    step: float
    probability: float

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"{self.name}'s step is above 0, got {self.step}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"{self.name}'s probability lies in (0, 1], got {self.probability}")

    @abstractmethod
    def owners(self, round: Round) -> int:
        """How many members of the cohort send each coordinate, s ≥ 2."""

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        need_identity(self.name, compressor)
        return self

    def num_steps(self, round: Round) -> int:
        """Local steps of the round."""
        return int(round.shared("steps").geometric(self.probability))

    def init_client(self, like: Tensor) -> State:
        return {"control": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        before = points[0]
        after = before
        for _ in range(self.num_steps(turn.round)):
            after = after - self.step * (find(after) - memory["control"])
        indices = self._own(turn.round, turn.rank, before.numel())
        values = (after - before)[indices].float()
        # Indices follow from the seed: the formula counts values only.
        message = Compressed(
            Payload(before.numel(), (SparseBlock(before.numel(), indices, values),)), 32.0 * values.numel()
        )
        return (message,), {**memory, "sent": decoded(message, before)}

    def settle(self, memory: State, movement: Tensor, turn: Turn) -> State:
        members, owners = turn.round.cohort_size, self.owners(turn.round)
        eta = members * (owners - 1) / (owners * (members - 1)) if members > 1 else 1.0
        indices = self._own(turn.round, turn.rank, movement.numel())
        control = memory["control"].clone()
        control[indices] += self.probability * eta / self.step * (movement - memory["sent"])[indices]
        return {"control": control}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        return means[0] * (-round.cohort_size / self.owners(round)), state

    def _own(self, round: Round, rank: int, size: int) -> Tensor:
        return own_coordinates(size, self.owners(round), round, rank)


def own_coordinates(size: int, owners: int, round: Round, rank: int) -> Tensor:
    """Ascending coordinates that the cohort's member `rank` sends, out of a template with `owners` for each.

    The template goes round the members, `owners` of them a coordinate; members and coordinates are then permuted.
    """
    members, rng = round.cohort_size, round.shared("template")
    place = int(rng.permutation(members)[rank])
    mine = np.flatnonzero((place - np.arange(size) * owners) % members < owners)
    return torch.from_numpy(np.sort(rng.permutation(size)[mine]))
