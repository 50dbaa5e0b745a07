"""What a scheme is: the two sides' rule for turning what clients find into a step of the model.

A scheme is two pairs of pure functions, state in and state out. A client has (`init_client`, `encode`), and `settle`
where it must learn what its round came to; the server has (`init_server`, `estimate`), and `points`, what it
broadcasts. In between there is only the mean of the clients' messages, so it can be summed as they come in.

The harness steps model ← model − step · direction. A scheme that `moves_itself` has the step inside: there step = 1,
and what a client finds is a gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import DenseBlock, Payload
from ..compression.compressors.base import Compressed, Compressor
from ..own import name_of
from ..run.rng import stream

State = Mapping[str, Tensor]
"""Named vectors: what a client or the server keeps from round to round."""


class Find(Protocol):
    """What a client finds at a point: its gradient, or the update of local training.

    Equal numbers stand for one `sample` of a round, so that differences of two points are not noise.
    """

    def __call__(self, point: Tensor, sample: int = 0, /) -> Tensor: ...


Share = float | Tensor
"""The cohort's part of all clients, by weight; a tensor where it differs from coordinate to coordinate."""


@dataclass(frozen=True)
class Round:
    """What the server and every client know of a round alike."""

    seed: int
    number: int
    """From 1."""
    num_clients: int
    cohort_size: int

    def shared(self, purpose: str) -> np.random.Generator:
        """A generator that both sides have, so nothing drawn from it must be sent."""
        return stream(self.seed, "scheme", purpose, self.number)

    @property
    def share(self) -> float:
        """The cohort's part of all clients."""
        return self.cohort_size / self.num_clients


@dataclass(frozen=True, eq=False)
class Part:
    """A client's part of a model of `size` coordinates: the ascending `places` of its own ones, int64."""

    size: int
    places: Tensor

    def own(self, chosen: Tensor) -> Tensor:
        """The client's own numbers, ascending, of those among the ascending coordinates `chosen` that it holds."""
        return torch.from_numpy(np.flatnonzero(np.isin(self.places.numpy(), chosen.numpy(), assume_unique=True)))


@dataclass(frozen=True)
class Workload:
    """What a client does in a round where the scheme sets it by the client's pace."""

    gradients: int = 1
    """Gradients at one point, averaged; 0: the client is idle."""
    messages: int = 1
    """Independent compressions of that mean; 0: the client is idle."""
    weight: float = 1.0
    """Of its reply in the mean over clients."""


@dataclass(frozen=True, eq=False)
class Turn:
    """One client's part in a round: its place in the cohort, from 0, its compressor and its own randomness."""

    round: Round
    rank: int
    compressor: Compressor
    rng: np.random.Generator
    part: Part | None = None
    """Where the client holds a part of the model only; None: it holds all."""
    workload: Workload | None = None
    """Where the scheme sets it by the client's pace; None: one gradient, one message."""

    def send(self, vector: Tensor) -> Compressed:
        """One outcome of the compressor; whoever sends everything keeps every digit."""
        if self.compressor.is_exact:
            return exact(vector)
        return self.compressor.compress(vector.float(), self.rng)


class Scheme(ABC):
    """A rule with two sides. Subclasses are frozen dataclasses with `repr=False`, their fields the text's options.

    Vectors are tensors of shape (d,): d is the model's size on the server, that of the client's part on the client, in
    float64 in the theory bench and float32 in messages of a run. They are in the units of what clients find: gradients,
    or updates of the model.
    """

    name: ClassVar[str]
    """What the text of a run calls it."""
    allows_partial: ClassVar[bool] = True
    """Whether a round may do without some of the clients."""
    moves_itself: ClassVar[bool] = False
    """Whether the step is inside: `estimate` gives a movement of the model, and clients find gradients."""
    has_memory: ClassVar[bool] = True
    """Whether a client keeps anything between rounds."""
    num_messages: ClassVar[int] = 1
    """Messages that a client sends in a round."""
    takes_minibatches: ClassVar[bool] = False
    """Whether what a client finds is a step along one minibatch's gradient, whatever the run's local steps are."""
    hears_back: ClassVar[bool] = False
    """Whether a client must learn what its round came to, by `settle`, before its next one."""
    sets_workloads: ClassVar[bool] = False
    """Whether each client does in a round what `workloads` says, by its pace."""
    points_are_models: ClassVar[bool] = True
    """Whether all that is broadcast are models; else some of it is a gradient, far from any model."""
    takes_any_compressor: ClassVar[bool] = False
    """Whether a client may use another compressor than the run's: no step, weight or memory follows from it."""

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """The scheme with every open option set by its theorem; ValueError if it cannot work with `compressor`.

        `size` is the number of coordinates of the whole model, `num_clients` that of all clients, not of a cohort.
        """
        return self

    def check_cohort(self, cohort_size: int, num_clients: int) -> None:
        """ValueError if the method does not allow that so few of the clients take part in a round."""
        if cohort_size < num_clients and not self.allows_partial:
            raise ValueError(
                f"scheme {self.name} needs every client in every round, {cohort_size} of {num_clients} are sampled: "
                "sample all, or take a scheme for any cohort, such as diana, ef21 or tamuna"
            )

    def workloads(self, compute: Sequence[float], message: Sequence[float]) -> list[Workload]:
        """What each client does in a round, from its seconds for a gradient and for a message.

        Only where the scheme `sets_workloads`.
        """
        raise NotImplementedError(f"scheme {self.name} has the same workload for all clients")

    def num_gradients(self, round: Round) -> int:
        """Gradients that a client takes one after another in a round, where it takes them itself."""
        return 1

    def init_client(self, like: Tensor) -> State:
        """The memory of a client that never took part; vectors are shaped as `like`."""
        return {}

    @abstractmethod
    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """The client's `num_messages` messages and its new memory; `points` is what the server broadcast."""

    def settle(self, memory: State, movement: Tensor) -> State:
        """The memory once the client has learnt how far its round moved the model: `movement`, (d,), after − before."""
        return memory

    def speaks_of(self, size: int, round: Round, rank: int) -> Tensor | None:
        """The ascending coordinates, of `size`, that member `rank` of the cohort sends; None: all.

        The mean over the cohort is taken, coordinate by coordinate, over the members that send it.
        """
        return None

    def init_server(self, model: Tensor) -> State:
        """The server's state before the first round, from the model, (d,)."""
        return {}

    def points(self, model: Tensor, state: State) -> tuple[Tensor, ...]:
        """What the server broadcasts: the points, (d,) each, at which clients evaluate."""
        return (model,)

    @property
    def deals_out(self) -> bool:
        """Whether members of a cohort send different coordinates, so that each must know its places in the model."""
        return False

    @abstractmethod
    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction to subtract, (d,), and the server's new state, from the mean of each message over the cohort.

        `share` is the cohort's part of all clients: a mean over all moves by so much of the cohort's mean. `state` is
        also what outlives the process.
        """

    def __repr__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)  # type: ignore[arg-type]
            if getattr(self, field.name) != field.default
        ]
        return f"{name_of(type(self), self.name)}({', '.join(changed)})"


def exact(vector: Tensor) -> Compressed:
    """The vector with all its digits: float64 travels as two float32 parts, high and low."""
    high = vector.float()
    parts = [high] if vector.dtype == torch.float32 else [high, (vector - high.double()).float()]
    payload = Payload(vector.numel(), tuple(DenseBlock(part) for part in parts))
    return Compressed(payload, 32.0 * vector.numel() * len(parts))


def decoded(message: Compressed, like: Tensor) -> Tensor:
    """What the receiver makes of a message, in the precision of `like`."""
    out = torch.zeros_like(like)
    message.payload.add_to(out)
    return out


def given(option: float | None) -> float:
    """An option that `resolve` sets; ValueError if it is still open."""
    if option is None:
        raise ValueError("this scheme has open options: call resolve(compressor, size, num_clients) first")
    return option
