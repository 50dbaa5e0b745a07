"""Bilevel rounds in this process, in the precision of the start: for tests of the theory and for trying out tasks.

The same client and server steps as in a federated run, without messages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..compressors.base import Compressor
from ..rng import stream
from ..submodels import IndexPlan
from ..submodels.coverage import CoverageWatch
from .convexity import ConvexityWatch
from .problem import BilevelProblem, ClientData, Held, Point
from .rabo import Scheme, advance
from .rafbo import normalised


@dataclass(frozen=True)
class RoundRow:
    """One round: C_x* and C_y*, the clients that hold the least held coordinate of x and of y, and what was sent."""

    server_round: int
    coverage_outer_min: int
    coverage_inner_min: int
    uplink_values: int
    loss: float
    curvature: float


@dataclass
class Trace:
    """How a simulation ended, and how it went."""

    point: Point
    personal: dict[int, Point] = field(default_factory=dict)
    """The clients' own y and v where the lower problem is personal, full size."""
    rows: list[RoundRow] = field(default_factory=list)
    uncovered: dict[str, int] = field(default_factory=dict)
    """By tensor of x, how many coordinates no client held in any round."""


def simulate(
    problem: BilevelProblem,
    clients: Sequence[ClientData],
    scheme: Scheme | Sequence[Scheme],
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
    """Rounds of `scheme` (or one of each client) over a random cohort, or over all clients.

    `held_of(server_round, client)` says what a client holds. `compressor` goes over a client's whole upload, in
    float32. `observe` hears the round and the point after it.
    """
    schemes = list(scheme) if isinstance(scheme, Sequence) else [scheme] * len(clients)
    x, y = start or problem.start(seed, dtype)
    trace = Trace(Point(x, y, schemes[0].estimator.first_multiplier(y)))
    seen, convexity = CoverageWatch(problem.outer_spec), ConvexityWatch(problem)
    for server_round in range(1, num_rounds + 1):
        cohort: Sequence[int] = range(len(clients))
        if cohort_size:
            rng = stream(seed, "cohort", server_round)
            cohort = sorted(rng.choice(len(clients), cohort_size, replace=False).tolist())
        helds = [held_of(server_round, client) for client in cohort]
        replies = []
        for client, held in zip(cohort, helds, strict=True):
            before = trace.personal.get(client, trace.point)._replace(x=trace.point.x)
            rng = stream(seed, "batches", server_round, client)
            replies.append(schemes[client].client(held, held.gather(before), clients[client], rng))
        updates = normalised(replies)
        if problem.lower == "personal":
            for client, held, reply in zip(cohort, helds, replies, strict=True):
                before = trace.personal.get(client, trace.point)
                change = Point(torch.zeros_like(before.x), *(_full(held.inner, part) for part in reply.update[1:]))
                trace.personal[client] = advance(schemes[client], held, before, change)
        if compressor:
            updates = [
                _compressed(held, update, compressor, server_round, client, seed)
                for client, held, update in zip(cohort, helds, updates, strict=True)
            ]
        outer, outer_coverage = covered_mean([held.outer for held in helds], [update.x for update in updates])
        inners = [held.inner for held in helds]
        inner, coverage = covered_mean(inners, [update.y for update in updates])
        system, _ = covered_mean(inners, [update.v for update in updates])
        if problem.lower == "personal":
            inner, system = torch.zeros_like(inner), torch.zeros_like(system)
        trace.point = advance(schemes[cohort[0]], helds[0], trace.point, Point(outer, inner, system))
        seen.add(outer_coverage, server_round)
        row = RoundRow(
            server_round,
            int(outer_coverage.min()),
            int(coverage.min()),
            sum(held.num_values for held in helds),
            float(torch.stack([reply.loss for reply in replies]).mean()),
            float(torch.stack([reply.curvature for reply in replies]).nanmean()),
        )
        trace.rows.append(row)
        convexity.add(server_round, row.curvature, trace.point)
        if observe:
            observe(server_round, trace.point)
    trace.uncovered = seen.uncovered(num_rounds, num_rounds)
    return trace


def covered_mean(plans: Sequence[IndexPlan], updates: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The plain mean of every coordinate over the clients that hold it, zero where nobody does, and their number.

    What `CoverageMean` computes with equal weights, in the precision of the updates.
    """
    total = updates[0].new_zeros(plans[0].spec.size)
    count = torch.zeros_like(total)
    for plan, update in zip(plans, updates, strict=True):
        plan.scatter_add(total, update)
        plan.scatter_add(count, torch.ones_like(update))
    return total / count.clamp(min=1), count


def _full(plan: IndexPlan, part: Tensor) -> Tensor:
    full = part.new_zeros(plan.spec.size)
    plan.scatter_add(full, part)
    return full


def _compressed(held: Held, update: Point, compressor: Compressor, server_round: int, client: int, seed: int) -> Point:
    parts = update if held.problem.lower == "global" else update[:1]
    upload = torch.cat(tuple(parts))
    rng = stream(seed, "level", server_round, client)
    received = compressor.compress(upload.float(), rng).payload.dense().to(upload)
    return Point(*received.split([len(part) for part in parts]), *update[len(parts) :])
