"""Coverage: how many clients hold each coordinate, in a round and over rounds, and cohorts that guarantee it.

A coordinate of a tensor is held by the clients that keep every unit it lies on, so the coverage of a whole model
follows from the kept units alone: for a matrix it is the product of two 0/1 matrices of clients × units.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .plan import IndexPlan
from .width_spec import WidthSpec

_Signature = tuple[tuple[str, ...], tuple[str, int] | None]
"""What decides who holds a tensor's coordinates: the dimensions it follows, and what it needs."""


@dataclass(frozen=True)
class Coverage:
    """Clients that hold a coordinate of a tensor: the fewest, and the mean over coordinates."""

    least: int
    mean: float


def coverage_by_tensor(spec: WidthSpec, coverage: Tensor) -> dict[str, Coverage]:
    """Each tensor's coverage, from how many clients held each coordinate: int32 (spec.size,), `Mean.coverage`."""
    parts = coverage.split([math.prod(shape) for shape in spec.shapes.values()])
    return {
        name: Coverage(int(part.min()), float(part.double().mean()))
        for name, part in zip(spec.shapes, parts, strict=True)
    }


def planned_coverage(plans: Iterable[IndexPlan]) -> dict[str, Coverage]:
    """Each tensor's coverage if all clients with these plans (one or more, of one model) answer."""
    held = list(plans)
    tally = _Tally(held[0].spec)
    for plan, count in Counter(held).items():
        tally.add(plan, count)
    by_signature = {
        signature: Coverage(int(counts.min()), float(counts.mean())) for signature, counts in tally.counts.items()
    }
    return {name: by_signature[_signature(tally.spec, name)] for name in tally.spec.shapes}


def guarded_cohort(
    order: Sequence[int], size: int, plan_of: Callable[[int], IndexPlan], least: int, candidates: int = 16
) -> list[int]:
    """The first `size` clients of `order`, with as few as needed exchanged so that `least` hold every coordinate.

    `order` is a random permutation of the clients at hand: without exchanges the cohort is a uniform sample. An
    exchange takes the next client that adds most (among the next `candidates` different plans) for the last that is
    missed least. ValueError if no exchange helps any more.
    """
    cohort, later = list(order[:size]), list(order[size:])
    if not cohort:
        raise ValueError("there is no client to sample")
    tally = _Tally(plan_of(cohort[0]).spec)
    for client in cohort:
        tally.add(plan_of(client))
    added: set[int] = set()
    while (short := tally.missing(least)) > 0:
        comers = _first_of_each_plan(later, plan_of, candidates)
        gains = {client: tally.gain(plan_of(client), least) for client in comers}
        comer = max(gains, key=gains.__getitem__, default=None)
        if comer is not None:
            tally.add(plan_of(comer))
        losses = {client: tally.loss(plan_of(client), least) for client in reversed(cohort) if client not in added}
        leaver = min(losses, key=losses.__getitem__, default=None)
        if comer is None or leaver is None or gains[comer] <= losses[leaver]:
            raise ValueError(
                f"no cohort of {size} clients was found in which {least} hold every coordinate: {short} places of "
                "units or pairs of units stay short. Sample more clients a round, raise the share of wide tiers, or "
                "guarantee less coverage"
            )
        tally.add(plan_of(leaver), -1)
        cohort[cohort.index(leaver)] = comer
        later.remove(comer)
        added.add(comer)
    return sorted(cohort)


def _first_of_each_plan(clients: Iterable[int], plan_of: Callable[[int], IndexPlan], limit: int) -> list[int]:
    first: dict[IndexPlan, int] = {}
    # A few tiers share a few plans: do not look for more among a million clients.
    for client in islice(clients, 256 * limit):
        first.setdefault(plan_of(client), client)
        if len(first) == limit:
            break
    return list(first.values())


class CoverageWatch:
    """Remembers when each coordinate was last held, to tell those that nobody trains."""

    def __init__(self, spec: WidthSpec) -> None:
        self._spec = spec
        self._last_held = torch.zeros(spec.size, dtype=torch.int32)
        self._first_round: int | None = None

    def add(self, coverage: Tensor, server_round: int) -> None:
        """Take in a round's coverage, (spec.size,); after a resume, the first one told need not be the run's first."""
        if self._first_round is None:
            self._first_round = server_round
        self._last_held[coverage > 0] = server_round

    def uncovered(self, server_round: int, num_rounds: int) -> dict[str, int]:
        """By tensor, how many coordinates nobody held in the last `num_rounds` rounds; tensors with none are left out.

        Empty until so many rounds have been told.
        """
        if self._first_round is None or server_round - self._first_round + 1 < num_rounds:
            return {}
        stale = self._last_held <= server_round - num_rounds
        parts = stale.split([math.prod(shape) for shape in self._spec.shapes.values()])
        counts = {name: int(part.sum()) for name, part in zip(self._spec.shapes, parts, strict=True)}
        return {name: count for name, count in counts.items() if count}


class _Tally:
    """Clients a coordinate, kept once for all tensors that are cut alike."""

    def __init__(self, spec: WidthSpec) -> None:
        self.spec = spec
        self.counts: dict[_Signature, np.ndarray] = {
            signature: np.zeros([spec.units[name] for name in signature[0]], np.int64)
            for signature in dict.fromkeys(_signature(spec, name) for name in spec.shapes)
        }

    def add(self, plan: IndexPlan, count: int = 1) -> None:
        for signature, box in self._boxes(plan):
            self.counts[signature][box] += count

    def missing(self, least: int) -> int:
        return int(sum(np.maximum(0, least - counts).sum() for counts in self.counts.values()))

    def gain(self, plan: IndexPlan, least: int) -> int:
        return int(sum((self.counts[signature][box] < least).sum() for signature, box in self._boxes(plan)))

    def loss(self, plan: IndexPlan, least: int) -> int:
        return int(sum((self.counts[signature][box] <= least).sum() for signature, box in self._boxes(plan)))

    def _boxes(self, plan: IndexPlan) -> Iterator[tuple[_Signature, tuple[np.ndarray, ...]]]:
        for signature in self.counts:
            names, need = signature
            if need is None or plan.units[need[0]] >= need[1]:
                yield signature, np.ix_(*(plan.kept[name] for name in names))


def _signature(spec: WidthSpec, name: str) -> _Signature:
    return tuple(axis.units for axis in spec.axes[name] if axis is not None), spec.needs.get(name)
