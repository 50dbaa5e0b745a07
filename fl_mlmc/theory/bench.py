"""One scheme on one problem, in this process: the plain loop that federated runs are held against."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from ..run.clock import Pace
from ..run.rng import stream
from ..schemes import Round, Scheme, State, Turn, Workload
from ..schemes.controlled import ControlledSteps
from ..schemes.shadowheart import Shadowheart
from .crowd import CrowdTurn, mean_of, moves_as_one, sender
from .problems import Problem
from .theorems import Setup

DIVERGED = 1e12
WINDOW = 20
"""Rounds over which f − f* is averaged, where gradients are noisy."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What a run measured, one entry a round; entry 0 is the start."""

    errors: np.ndarray
    """‖x − x*‖²."""
    suboptimality: np.ndarray
    """f(x) − f*."""
    bits: np.ndarray
    """Formula bits that an average client has sent so far; a seed counts for nothing, `Compressed.unseeded_bits`."""
    iterations: np.ndarray
    """Local iterations so far; one a round, but for the schemes with local steps."""
    seconds: np.ndarray
    """Simulated seconds so far; zero where clients have no pace."""

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

    def seconds_to(self, suboptimality: float) -> float | None:
        """Seconds until the mean of f(x) − f* over 20 rounds first fell to that; None if it never did."""
        means = np.convolve(self.suboptimality, np.ones(WINDOW) / WINDOW, "valid")
        below = np.flatnonzero(means <= suboptimality)
        return float(self.seconds[below[0] + WINDOW - 1]) if len(below) else None

    def bits_to(self, error: float) -> float | None:
        """Bits an average client had sent when the error first fell below `error`; None if it never did."""
        below = np.flatnonzero(self.errors <= error)
        return float(self.bits[below[0]]) if len(below) else None


def run(
    problem: Problem,
    setup: Setup,
    num_rounds: int,
    seed: int = 0,
    sigma: float = 0.0,
    enough: float = 1e-23,
    paces: Sequence[Pace] | None = None,
    target: float = 0.0,
) -> Trace:
    """Run `setup` for `num_rounds` rounds, until ‖x − x*‖² is below `enough` or f − f* was at `target` for a while.

    `sigma`: gradients carry fresh normal noise with E‖noise‖² = σ². `paces`, one a client, give the trace its seconds:
    a round lasts until its slowest client has sent. `run_at_once` is a faster way to some of the same.
    """
    size, everyone = problem.size, problem.num_clients
    scheme = setup.scheme.resolve(setup.compressor, size, everyone)
    cohort_size = setup.cohort or everyone
    scheme.check_cohort(cohort_size, everyone)
    model, server = problem.start.clone(), scheme.init_server(problem.start)
    memories: dict[int, State] = {}
    workloads = _workloads(scheme, setup.compressor, paces, problem)
    streams = [stream(seed, "client", client) for client in range(everyone)]
    best, sent, steps, seconds = problem.loss(problem.solution), 0.0, 0, 0.0
    rows = [(_error(model, problem), problem.loss(model) - best, 0.0, 0, 0.0)]
    for number in range(1, num_rounds + 1):
        round = Round(seed, number, everyone, cohort_size)
        points = scheme.points(model, server)
        oracle = _Oracle(problem, points, sigma, round)
        gathered = Gathered(size, scheme.num_messages)
        turns = {
            client: turn
            for client, turn in _turns(round, setup.compressor, workloads, streams)
            if turn.workload is None or turn.workload.messages
        }
        slowest = 0.0
        for client, turn in turns.items():
            memory = memories.get(client) or scheme.init_client(model)
            messages, memories[client] = scheme.encode(partial(oracle.find, client), points, memory, turn)
            load = turn.workload or Workload()
            gathered.add(messages, scheme.speaks_of(size, round, turn.rank), load.weight)
            bits = sum(message.unseeded_bits for message in messages)
            sent += bits / everyone
            if paces:
                num_gradients = load.gradients * num_iterations(scheme, round)
                slowest = max(slowest, paces[client].seconds(num_gradients, bits / 8))
        direction, server = scheme.estimate(gathered.means(), model, server, round, round.share)
        for client in turns:
            memories[client] = scheme.settle(memories[client], -setup.step * direction)
        model = model - setup.step * direction
        steps += num_iterations(scheme, round)
        seconds += slowest
        rows.append((_error(model, problem), problem.loss(model) - best, sent, steps, seconds))
        if rows[-1][0] < enough or not rows[-1][0] < DIVERGED:
            break
        if target and number >= WINDOW and sum(row[1] for row in rows[-WINDOW:]) <= WINDOW * target:
            break
    return Trace(*map(np.array, zip(*rows, strict=True)))


def run_at_once(
    problem: Problem,
    setup: Setup,
    num_rounds: int,
    seed: int = 0,
    sigma: float = 0.0,
    enough: float = 1e-23,
    with_loss: bool = True,
) -> Trace:
    """`run` with all clients in one matrix: equal to the last bit, but for the last digits of `bits`.

    Without loss the trace's suboptimality is NaN, which takes a tenth off the time.
    ValueError where that cannot be done: for a scheme whose clients do different things, a cohort of some, a compressor
    that `crowd.sender` does not know.
    """
    size, everyone = problem.size, problem.num_clients
    scheme = setup.scheme.resolve(setup.compressor, size, everyone)
    if not moves_as_one(scheme) or setup.cohort not in (None, everyone) or isinstance(scheme, Shadowheart):
        raise ValueError(f"clients of {scheme!r} with a cohort of {setup.cohort or 'all'} are not alike: use run()")
    send = sender(setup.compressor, size)
    model, server = problem.start.clone(), scheme.init_server(problem.start)
    memory = scheme.init_client(model.expand(everyone, -1))
    streams = [stream(seed, "client", client) for client in range(everyone)]
    best, sent = problem.loss(problem.solution), 0.0

    def gap() -> float:
        return problem.loss(model) - best if with_loss else math.nan

    rows = [(_error(model, problem), gap(), 0.0, 0, 0.0)]
    for number in range(1, num_rounds + 1):
        round = Round(seed, number, everyone, everyone)
        points = [point.expand(everyone, -1) for point in scheme.points(model, server)]
        turn = CrowdTurn(round, 0, setup.compressor, streams[0], sender=send, rngs=streams)
        messages, memory = scheme.encode(_Oracle(problem, points, sigma, round).find_all, points, memory, turn)
        sent += sum(message.unseeded_bits for message in messages) / everyone
        direction, server = scheme.estimate([mean_of(message) for message in messages], model, server, round)
        model = model - setup.step * direction
        rows.append((_error(model, problem), gap(), sent, number, 0.0))
        if rows[-1][0] < enough or not rows[-1][0] < DIVERGED:
            break
    return Trace(*map(np.array, zip(*rows, strict=True)))


class Gathered:
    """The weighted mean of each message over those that speak of a coordinate."""

    def __init__(self, size: int, num_messages: int) -> None:
        self._sums = torch.zeros(num_messages, size, dtype=torch.float64)
        self._weights = torch.zeros(size, dtype=torch.float64)

    def add(self, messages: Sequence[Compressed], spoken: Tensor | None, weight: float = 1.0) -> None:
        """One client's messages, about the coordinates `spoken` or all."""
        for sum_of, message in zip(self._sums, messages, strict=True):
            message.payload.add_to(sum_of, weight)
        self._weights[slice(None) if spoken is None else spoken] += weight

    def means(self) -> list[Tensor]:
        """(size,) float64 each; zero where nobody spoke."""
        return list(torch.where(self._weights > 0, self._sums / self._weights.clamp(min=1e-300), 0.0))


def num_iterations(scheme: Scheme, round: Round) -> int:
    """Local iterations of a round."""
    return scheme.num_gradients(round)


def rounds_for(setup: Setup, decades: float = 24) -> int:
    """Rounds in which the bound, met exactly, gains so many decades of ‖x − x*‖²; 4000 without a bound."""
    if not setup.bound:
        return 4000
    per_round = 1 / setup.scheme.probability if isinstance(setup.scheme, ControlledSteps) else 1
    return math.ceil(decades * math.log(10) / setup.bound / per_round)


def _workloads(
    scheme: Scheme, compressor: Compressor, paces: Sequence[Pace] | None, problem: Problem
) -> Sequence[Workload | None]:
    """Each client's part in a round, where the scheme sets it by their paces; else None for all."""
    if not isinstance(scheme, Shadowheart):
        return [None] * problem.num_clients
    if paces is None:
        raise ValueError("shadowheart shares work out by the clients' paces: give run() its `paces`")
    message = compressor.compress(torch.ones(problem.size), np.random.default_rng(0)).unseeded_bits
    return scheme.workloads([pace.seconds(1, 0) for pace in paces], [pace.seconds(0, message / 8) for pace in paces])


def _turns(
    round: Round, compressor: Compressor, workloads: Sequence[Workload | None], streams: Sequence[np.random.Generator]
) -> Iterator[tuple[int, Turn]]:
    picked = range(round.num_clients)
    if round.cohort_size < round.num_clients:
        chosen = round.shared("cohort").choice(round.num_clients, round.cohort_size, replace=False)
        picked = sorted(int(client) for client in chosen)  # type: ignore[assignment]
    for rank, client in enumerate(picked):
        yield client, Turn(round, rank, compressor, streams[client], workload=workloads[client])


class _Oracle:
    """What the clients find in a round; at the broadcast `points` all gradients are worked out at once."""

    def __init__(self, problem: Problem, points: Sequence[Tensor], sigma: float, round: Round) -> None:
        self._problem, self._points, self._round = problem, points, round
        self._scale = sigma / math.sqrt(problem.size)
        self._gradients: dict[int, Tensor] = {}
        self._noise: dict[int, Tensor] = {}

    def find(self, client: int, point: Tensor, sample: int = 0) -> Tensor:
        """(d,) ∇f_i at `point`, with the noise of a `sample`."""
        gradient = self._gradient(client, point)
        return gradient + self._noise_of(sample)[client] if self._scale else gradient

    def find_all(self, points: Tensor, sample: int = 0) -> Tensor:
        """(n, d) what each client finds at its row of `points`."""
        gradients = self._gradients_at(points)
        return gradients + self._noise_of(sample) if self._scale else gradients

    def _gradients_at(self, points: Tensor) -> Tensor:
        for number, broadcast in enumerate(self._points):
            if points is broadcast:
                if number not in self._gradients:
                    self._gradients[number] = self._problem.gradients(points[0])
                return self._gradients[number]
        return torch.stack([self._problem.gradient(client, point) for client, point in enumerate(points)])

    def _gradient(self, client: int, point: Tensor) -> Tensor:
        for number, broadcast in enumerate(self._points):
            if point is broadcast:
                if number not in self._gradients:
                    self._gradients[number] = self._problem.gradients(point)
                return self._gradients[number][client]
        return self._problem.gradient(client, point)

    def _noise_of(self, sample: int) -> Tensor:
        # One sample, one noise: differences of two points do not carry it.
        if sample not in self._noise:
            rng = stream(self._round.seed, "noise", self._round.number, sample)
            drawn = rng.standard_normal((self._problem.num_clients, self._problem.size))
            self._noise[sample] = torch.from_numpy(drawn * self._scale)
        return self._noise[sample]


def _error(model: Tensor, problem: Problem) -> float:
    return float((model - problem.solution).square().sum())
