"""MARINA: compress the change of the gradient, and now and then send all of it.

With one shared coin of probability p all clients send v_i and g = mean v_i; otherwise they send C(v_i − v_i of the
round before) and g ← g + mean of it. Gorbunov, Burlachenko, Li, Richtárik, ICML 2021, arXiv 2102.07845.
Unbiased compressors. Every client in every round: the change that one left out would be missing from g until the
next full round. p = 1 / (1+ω), γ = 1 / (L̃ (1 + √((1−p)ω / (pn)))). For full gradients: with minibatches g gathers
their noise between full rounds.

Perm-K (Szlendak, Tyurin, Richtárik, ICLR 2022, arXiv 2110.03300) deals the coordinates out to
the clients, so equal messages average exactly: A = B = 1, p ≈ 1/n, γ = 1 / (L + L± √((1−p)/p)).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, exact, given
from .constants import known_omega, need_identity, need_unbiased
from .controlled import sparse
from .options import chosen, need_share


@dataclass(frozen=True, repr=False)
class MARINA(Scheme):
    """Memory: what the client found last. `probability` is p; `permuted` takes Perm-K instead of a compressor."""

    name = "marina"
    allows_partial = False

    probability: float | None = None
    permuted: bool = False

    def __post_init__(self) -> None:
        need_share(self.name, **chosen(probability=self.probability))
        if not isinstance(self.permuted, bool):
            raise ValueError(f"marina's permuted is True or False, got {self.permuted!r}")

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With p = 1 / (1+ω), or 1/n for Perm-K; ValueError for a biased compressor, for any beside Perm-K."""
        if self.permuted:
            need_identity("marina(permuted=True)", compressor)
        else:
            need_unbiased(self.name, compressor)
        if self.probability is not None:
            return self
        if self.permuted:
            return replace(self, probability=1 / min(num_clients, size))
        return replace(self, probability=1 / (1 + known_omega(self.name, "probability", compressor, size)))

    @property
    def deals_out(self) -> bool:
        """Whether it is Perm-K, which gives each member coordinates of its own."""
        return self.permuted

    def is_full(self, round: Round) -> bool:
        """Whether all clients send everything; they do in the first round."""
        return round.number == 1 or round.shared("coin").random() < given(self.probability)

    def init_client(self, like: Tensor) -> State:
        """What the client found last, (d,); zero before its first round."""
        return {"found": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send v_i in a full round, else C(v_i − v_i of the round before); remember v_i."""
        found = find(points[0])
        if self.is_full(turn.round):
            message = exact(found)
        elif self.permuted:
            message = permuted_part(found - memory["found"], turn)
        else:
            message = turn.send(found - memory["found"])
        return (message,), {"found": found}

    def init_server(self, model: Tensor) -> State:
        """g, (d,), at zero; the first round is full."""
        return {"estimate": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g ← the mean in a full round, else g + the mean; the direction is g."""
        estimate = means[0] if self.is_full(round) else state["estimate"] + share * means[0]
        return estimate, {"estimate": estimate}


def permuted_part(vector: Tensor, turn: Turn) -> Compressed:
    """Perm-K: the coordinates that a shared permutation deals to a member of the cohort, scaled to be unbiased.

    With fewer coordinates than members each is dealt to several, who share its weight. What is dealt to a client that
    does not hold it is sent by nobody, and in the mean over its holders the others' parts make up for it.
    """
    size = vector.numel() if turn.part is None else turn.part.size
    members, rank, rng = turn.round.cohort_size, turn.rank, turn.round.shared("deal")
    if size >= members:
        dealt, factor = np.sort(rng.permutation(size)[rank::members]), float(members)
    else:
        place = int(np.flatnonzero(rng.permutation(members) == rank)[0]) % size
        dealt, factor = np.array([place]), members / len(range(place, members, size))
    indices = torch.from_numpy(dealt)
    return sparse(vector * factor, indices if turn.part is None else turn.part.own(indices))
