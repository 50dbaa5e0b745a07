"""Local steps with control variates: what ProxSkip, CompressedScaffnew and TAMUNA have in common.

A round is the local steps between two communications, their number geometric with mean 1/p and the same for all: x_i
← x_i − γ (∇f_i(x_i) − h_i). Then each coordinate is averaged over the s of the cohort's c members that a shared
template gives it to, and h_i ← h_i + (pη/γ) q_i ⊙ (x̄ − x_i) with η = c(s−1) / (s(c−1)), where q_i marks the
coordinates of client i. The h_i sum to zero at all times. What travels is x_i − x̄ of the round before, which
vanishes at the optimum; x̄ comes back before the client's next round, on its coordinates q_i.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import Payload, SparseBlock
from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded
from .constants import need_identity
from .options import need_positive, need_share


class ControlledSteps(Scheme):
    """Memory: the control variate h_i. Subclasses say the step γ, the probability p and the overlap s."""

    moves_itself = True
    hears_back = True

    step: float
    probability: float

    def __post_init__(self) -> None:
        need_positive(self.name, step=self.step)
        need_share(self.name, probability=self.probability)

    @abstractmethod
    def owners(self, round: Round) -> int:
        """How many members of the cohort send each coordinate, s ≥ 2."""

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """The scheme itself; ValueError unless the compressor is Identity(): the template decides what travels."""
        need_identity(self.name, compressor)
        return self

    @property
    def deals_out(self) -> bool:
        """True: each member of the cohort sends the coordinates that the template gives it."""
        return True

    def num_gradients(self, round: Round) -> int:
        """Local steps of the round: geometric, by the coin that all share."""
        return int(round.shared("steps").geometric(self.probability))

    def init_client(self, like: Tensor) -> State:
        """The control variate h_i, (d,), at zero."""
        return {"control": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """The local steps from the point x̄; send x_i − x̄ on the client's own coordinates.

        The memory gains what `settle` needs: what was sent, and the weight pη/γ on the own coordinates, both (d,).
        """
        before = points[0]
        after = before
        for number in range(self.num_gradients(turn.round)):
            after = after - self.step * (find(after, number) - memory["control"])
        size = before.numel() if turn.part is None else turn.part.size
        own = self.speaks_of(size, turn.round, turn.rank)
        own = own if turn.part is None else turn.part.own(own)
        message = sparse(after - before, own)
        weight = torch.zeros_like(before)
        weight[own] = self.probability / self.step * self._eta(turn)
        return (message,), {"control": memory["control"], "sent": decoded(message, before), "weight": weight}

    def settle(self, memory: State, movement: Tensor) -> State:
        """h_i ← h_i + (pη/γ) q_i ⊙ (x̄⁺ − x_i); `movement`, (d,), is x̄⁺ − x̄ on the coordinates that the client sent."""
        return {"control": memory["control"] + memory["weight"] * (movement - memory["sent"])}

    def speaks_of(self, size: int, round: Round, rank: int) -> Tensor:
        """The ascending coordinates, int64, that the template gives to member `rank`."""
        return own_coordinates(size, self.owners(round), round, rank)

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is x̄ − x̄⁺: minus the mean of what was sent, coordinate by coordinate. No state."""
        return -means[0], state

    def _eta(self, turn: Turn) -> float:
        members, owners = turn.round.cohort_size, self.owners(turn.round)
        if members == 1 or owners == members:
            return 1.0
        # Where clients hold parts only, fewer than s may own a coordinate: ½ keeps to the bound of every s.
        return 0.5 if turn.part is not None else members * (owners - 1) / (owners * (members - 1))


def sparse(vector: Tensor, indices: Tensor) -> Compressed:
    """The `vector` at ascending `indices`, which follow from the seed: the formula counts values only."""
    block = SparseBlock(vector.numel(), indices, vector[indices].float())
    return Compressed(Payload(vector.numel(), (block,)), 32.0 * indices.numel())


def own_coordinates(size: int, owners: int, round: Round, rank: int) -> Tensor:
    """Ascending coordinates that the cohort's member `rank` sends, out of a template with `owners` for each.

    The template goes round the members, `owners` of them a coordinate; members and coordinates are then permuted.
    """
    members, rng = round.cohort_size, round.shared("template")
    if owners >= members:
        return torch.arange(size)
    place = int(rng.permutation(members)[rank])
    mine = np.flatnonzero((place - np.arange(size) * owners) % members < owners)
    return torch.from_numpy(np.sort(rng.permutation(size)[mine]))
