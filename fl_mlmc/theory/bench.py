"""One scheme on one problem, in this process: the plain loop that federated runs are held against."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..compressors.base import Compressed, Compressor
from ..rng import stream
from ..schemes import Round, Scheme, State, Turn
from ..schemes.base import Find
from ..schemes.controlled import ControlledSteps
from .problems import Problem
from .steps import Method

DIVERGED = 1e12


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run measured, one entry a round; entry 0 is the start."""

    errors: np.ndarray
    """‖x − x*‖²."""
    suboptimality: np.ndarray
    """f(x) − f*."""
    bits: np.ndarray
    """Expected bits that an average client has sent so far."""
    iterations: np.ndarray
    """Local iterations so far; one a round, but for the schemes with local steps."""

    @property
    def rate(self) -> float | None:
        """1 − the factor by which ‖x − x*‖² shrinks per iteration, fitted to its linear stretch; None without one."""
        top, bottom = self.errors[0] * 1e-3, max(1e-21, self.errors.min() * 10)
        inside = np.flatnonzero((self.errors < top) & (self.errors > bottom))
        if len(inside) < 8 or self.errors.min() > self.errors[0] * 1e-6:
            return None
        slope = np.polyfit(self.iterations[inside], np.log(self.errors[inside]), 1)[0]
        return float(-np.expm1(slope))

    @property
    def floor(self) -> float:
        """The median error of the last tenth."""
        return float(np.median(self.errors[-max(1, len(self.errors) // 10) :]))

    def bits_to(self, error: float) -> float | None:
        """Bits an average client had sent when the error first fell below `error`; None if it never did."""
        below = np.flatnonzero(self.errors <= error)
        return float(self.bits[below[0]]) if len(below) else None


def run(
    problem: Problem,
    method: Method,
    num_rounds: int,
    seed: int = 0,
    sigma: float = 0.0,
    enough: float = 1e-23,
) -> Trace:
    """Run `method` for `num_rounds` rounds or until ‖x − x*‖² is below `enough`.

    `sigma`: gradients carry fresh normal noise with E‖noise‖² = σ².
    """
    size, everyone = problem.size, problem.num_clients
    scheme = method.scheme.resolve(method.compressor, size, everyone)
    cohort_size = method.cohort or everyone
    scheme.check_cohort(cohort_size, everyone)
    model, server = problem.start.clone(), scheme.init_server(problem.start)
    memories: dict[int, State] = {}
    best, sent, steps = problem.loss(problem.solution), 0.0, 0
    rows = [(_error(model, problem), problem.loss(model) - best, 0.0, 0)]
    for number in range(1, num_rounds + 1):
        round = Round(seed, number, everyone, cohort_size)
        points = scheme.points(model, server)
        gathered = Gathered(size, scheme.num_messages)
        turns = dict(_turns(round, method.compressor))
        for client, turn in turns.items():
            memory = memories.get(client) or scheme.init_client(model)
            find = _oracle(problem, client, sigma, round)
            messages, memories[client] = scheme.encode(find, points, memory, turn)
            gathered.add(messages, scheme.speaks_of(size, round, turn.rank))
            sent += sum(message.expected_bits for message in messages) / everyone
        direction, server = scheme.estimate(gathered.means(), model, server, round, round.share)
        for client in turns:
            memories[client] = scheme.settle(memories[client], -method.step * direction)
        model = model - method.step * direction
        steps += num_iterations(scheme, round)
        rows.append((_error(model, problem), problem.loss(model) - best, sent, steps))
        if rows[-1][0] < enough or not rows[-1][0] < DIVERGED:
            break
    return Trace(*map(np.array, zip(*rows, strict=True)))


class Gathered:
    """The mean of each message over those that speak of a coordinate."""

    def __init__(self, size: int, num_messages: int) -> None:
        self._sums = torch.zeros(num_messages, size, dtype=torch.float64)
        self._counts = torch.zeros(size, dtype=torch.float64)

    def add(self, messages: Sequence[Compressed], spoken: Tensor | None) -> None:
        """One client's messages, about the coordinates `spoken` or all."""
        for sum_of, message in zip(self._sums, messages, strict=True):
            message.payload.add_to(sum_of)
        self._counts[slice(None) if spoken is None else spoken] += 1

    def means(self) -> list[Tensor]:
        """(size,) float64 each; zero where nobody spoke."""
        return list(self._sums / self._counts.clamp(min=1))


def num_iterations(scheme: Scheme, round: Round) -> int:
    """Local iterations of a round."""
    return scheme.num_steps(round) if isinstance(scheme, ControlledSteps) else 1


def rounds_for(method: Method, decades: float = 24) -> int:
    """Rounds in which the bound, met exactly, gains so many decades of ‖x − x*‖²; 4000 without a bound."""
    if not method.bound:
        return 4000
    per_round = 1 / method.scheme.probability if isinstance(method.scheme, ControlledSteps) else 1
    return math.ceil(decades * math.log(10) / method.bound / per_round)


def _turns(round: Round, compressor: Compressor) -> Iterator[tuple[int, Turn]]:
    picked = range(round.num_clients)
    if round.cohort_size < round.num_clients:
        chosen = round.shared("cohort").choice(round.num_clients, round.cohort_size, replace=False)
        picked = sorted(int(client) for client in chosen)  # type: ignore[assignment]
    for rank, client in enumerate(picked):
        yield client, Turn(round, rank, compressor, stream(round.seed, "client", round.number, client))


def _oracle(problem: Problem, client: int, sigma: float, round: Round) -> Find:
    if not sigma:
        return lambda point, sample=0: problem.gradient(client, point)

    def find(point: Tensor, sample: int = 0) -> Tensor:
        # One sample, one noise: differences of two points do not carry it.
        rng = stream(round.seed, "noise", round.number, client, *([sample] if sample else []))
        noise = torch.from_numpy(rng.standard_normal(problem.size) * (sigma / math.sqrt(problem.size)))
        return problem.gradient(client, point) + noise

    return find


def _error(model: Tensor, problem: Problem) -> float:
    return float((model - problem.solution).square().sum())
