"""Bilevel rounds in this process, in the precision of the start: for tests of the theory and for trying out tasks.

The same client and server steps as in a federated run, without messages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..compression.compressors.base import Compressor
from ..run.rng import stream
from ..submodels import IndexPlan
from ..submodels.coverage import CoverageWatch
from .base import Method
from .convexity import ConvexityWatch
from .problem import BilevelProblem, ClientData, Held, Point
from .server_step import advance


@dataclass(frozen=True)
class RoundRow:
    """One round: C_x* and C_y*, the clients that hold the least held coordinate of x and of y, and what was sent."""

    server_round: int
    coverage_outer_min: int | None
    """None where x is personal, as the next where y is."""
    coverage_inner_min: int | None
    uplink_values: int
    """Numbers that all clients sent together, uncompressed."""
    loss: float
    """f on minibatches, the plain mean over clients."""
    curvature: float
    """vᵀHv / ‖v‖², likewise, over the clients that saw one; NaN if none did."""


@dataclass
class Trace:
    """How a simulation ended, and how it went."""

    point: Point
    """x (m,), y (n,) and v (n,) after the last round, in the simulation's dtype."""
    personal: dict[int, Point] = field(default_factory=dict)
    """The clients' own points, full size, where a part of them is personal."""
    rows: list[RoundRow] = field(default_factory=list)
    uncovered: dict[str, int] = field(default_factory=dict)
    """By tensor of x, how many coordinates no client held in any round."""


def simulate(
    problem: BilevelProblem,
    clients: Sequence[ClientData],
    method: Method | Sequence[Method],
    num_rounds: int,
    held_of: Callable[[int, int], Held],
    *,
    cohort_size: int | None = None,
    compressor: Compressor | None = None,
    observe: Callable[[int, Point], object] | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Trace:
    """Rounds of `method` (or one of each client) over a random cohort, or over all clients.

    `clients` are the clients' data, `held_of(server_round, client)` says what one holds, rounds from 1 and clients from
    0. `cohort_size`: so many are drawn in each round; None: all. `compressor` goes over a client's whole upload, in
    float32. `observe` hears the round and the point after it. `start`: x (m,) and y (n,), instead of the problem's own
    from `seed` in `dtype`. DivergenceError or NotStronglyConvexError as in `ConvexityWatch`.
    """
    methods = list(method) if isinstance(method, Sequence) else [method] * len(clients)
    x, y = start or problem.start(seed, dtype)
    trace = Trace(Point(x, y, methods[0].estimator.first_multiplier(y)))
    seen, convexity = CoverageWatch(problem.outer_spec), ConvexityWatch(problem, len(clients))
    for server_round in range(1, num_rounds + 1):
        cohort: Sequence[int] = range(len(clients))
        if cohort_size:
            rng = stream(seed, "cohort", server_round)
            cohort = sorted(rng.choice(len(clients), cohort_size, replace=False).tolist())
        helds = [held_of(server_round, client) for client in cohort]
        replies, updates = [], []
        for client, held in zip(cohort, helds, strict=True):
            before = _own(trace, client, held, dtype, seed)
            rng = stream(seed, "batches", server_round, client)
            reply = methods[client].client(held, held.gather(before), clients[client], rng)
            if not all(problem.travels):
                change = held.scatter(reply.update)
                trace.personal[client] = advance(methods[client], held.problem, before, change, reply.num_steps)
            replies.append(reply)
            updates.append(_compressed(held, reply.update, compressor, server_round, client, seed))
        means = [torch.zeros_like(part) for part in trace.point]
        coverage: list[Tensor | None] = [None] * len(means)
        for part, sent in enumerate(problem.travels):
            if sent:
                plans = [held.plans[part] for held in helds]
                means[part], coverage[part] = covered_mean(plans, [update[part] for update in updates])
        num_steps = sum(reply.num_steps for reply in replies) / len(replies)
        trace.point = advance(methods[cohort[0]], problem, trace.point, Point(*means), num_steps)
        if (outer_coverage := coverage[0]) is not None:
            seen.add(outer_coverage, server_round)
        row = RoundRow(
            server_round,
            _least(outer_coverage),
            _least(coverage[1]),
            sum(held.num_values for held in helds),
            float(torch.stack([reply.loss for reply in replies]).mean()),
            float(torch.stack([reply.curvature for reply in replies]).nanmean()),
        )
        trace.rows.append(row)
        seen_by = {client: float(reply.curvature) for client, reply in zip(cohort, replies, strict=True)}
        convexity.add(server_round, seen_by, trace.point)
        if observe:
            observe(server_round, trace.point)
    trace.uncovered = seen.uncovered(num_rounds, num_rounds)
    return trace


def covered_mean(plans: Sequence[IndexPlan], updates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The plain mean of every coordinate over the clients that hold it, zero where nobody does, and their number.

    What `CoverageMean` computes with equal weights, in the precision of the updates: the slow version. `updates` are of
    the sizes of `plans`, one at least; both results have the full size.
    """
    total = updates[0].new_zeros(plans[0].spec.size)
    count = torch.zeros_like(total)
    for plan, update in zip(plans, updates, strict=True):
        plan.scatter_add(total, update)
        plan.scatter_add(count, torch.ones_like(update))
    return total / count.clamp(min=1), count


def _least(coverage: Tensor | None) -> int | None:
    return None if coverage is None else int(coverage.min())


def _own(trace: Trace, client: int, held: Held, dtype: torch.dtype, seed: int) -> Point:
    """The full point that a client stands at: what is shared, and its own parts."""
    if all(held.problem.travels):
        return trace.point
    own = trace.personal.get(client)
    if own is None:
        own = (
            trace.point
            if held.problem.outer == "global"
            else trace.point._replace(x=held.problem.start(seed, dtype)[0])
        )
    parts = zip(trace.point, own, held.problem.travels, strict=True)
    return Point(*(shared if sent else mine for shared, mine, sent in parts))


def _compressed(
    held: Held, update: Point, compressor: Compressor | None, server_round: int, client: int, seed: int
) -> Point:
    if compressor is None:
        return update
    upload = held.pack(update)
    rng = stream(seed, "level", server_round, client)
    received = compressor.compress(upload.float(), rng).payload.dense().to(upload)
    return held.unpack(received, update)
