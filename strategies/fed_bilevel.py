"""RABO and RAFBO over Flower: the tiered strategy on the vector (x, y, v) of a bilevel problem.

Each client's part of the three is one submodel, |m^x| + 2|m^y| values each way, so sampling, compression and the
coverage-aware mean are those of every run.
"""

import math
from collections.abc import Iterable
from logging import WARNING

import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from torch import Tensor

from fl_mlmc.aggregate import Mean
from fl_mlmc.bilevel import BilevelProblem, ConvexityWatch, Held
from fl_mlmc.bilevel.run import scheme_of, split_state
from fl_mlmc.config import RunConfig
from fl_mlmc.models import Model
from fl_mlmc.protocol import TrainUpdate
from fl_mlmc.roundlog import RoundLog
from fl_mlmc.submodels.coverage import coverage_by_tensor

from .server_optimizer import ServerOptimizer
from .tiered import Evaluate, Row, TieredStrategy, from_arrays


class FedBilevel(TieredStrategy):
    """Averages what clients say of x, y and v, and steps them: by the step sizes (RABO) or by the mean (RAFBO).

    Logs C_x* and C_y* of each round, the fewest clients that held a coordinate of x and of y. NotStronglyConvexError
    ends a run whose inner problem has no solution to speak of.
    """

    def __init__(
        self,
        config: RunConfig,
        problem: BilevelProblem,
        model: Model,
        round_log: RoundLog,
        data: str = "",
        evaluate_model: Evaluate | None = None,
        data_meta: str = "",
    ) -> None:
        super().__init__(config, model, round_log, data, evaluate_model, data_meta)
        self._held = Held.of(problem, "nested", 1.0)
        self._optimizer = _BilevelStep(config, self._held)
        self._convexity = ConvexityWatch(problem)
        self._was_held = torch.zeros(problem.outer_spec.size, dtype=torch.bool)
        self._curvatures: list[float] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As every run, then a look at whether the inner problem can be solved."""
        self._curvatures = []
        stepped, metrics = super().aggregate_train(server_round, replies)
        if stepped is not None:
            self._convexity.add(server_round, self._mean_curvature(), split_state(self._held, from_arrays(stepped)))
        if server_round == self.config.num_rounds:
            self._report_uncovered()
        return stepped, metrics

    def _client_row(self, update: TrainUpdate) -> Row:
        if math.isfinite(update.curvature):
            self._curvatures.append(update.curvature)
        return {"curvature": update.curvature}

    def _round_row(self, result: Mean) -> Row:
        outer, inner, _ = split_state(self._held, result.coverage)
        self._was_held |= outer > 0
        return {
            "coverage_outer_min": int(outer.min()),
            "coverage_inner_min": int(inner.min()),
            "curvature": self._mean_curvature(),
        }

    def _mean_curvature(self) -> float:
        return sum(self._curvatures) / len(self._curvatures) if self._curvatures else math.nan

    def _report_uncovered(self) -> None:
        held = coverage_by_tensor(self._held.outer.spec, self._was_held.int())
        if missing := [name for name, coverage in held.items() if coverage.least == 0]:
            log(WARNING, "outer coordinates that no client held in the whole run, in %s", ", ".join(missing))


class _BilevelStep(ServerOptimizer):
    """The server optimizer on the mean times the gain of x, of y and of v; v is kept in its ball."""

    def __init__(self, config: RunConfig, held: Held) -> None:
        super().__init__(config.server_optimizer, config.server_learning_rate, held.problem.state_spec.size)
        self._held = held
        self._scheme = scheme_of(config)

    def step(self, vector: Tensor, mean: Mean) -> Tensor:
        update = split_state(self._held, mean.update)
        gained = torch.cat([gain * part for gain, part in zip(self._scheme.gain, update, strict=True)])
        x, y, v = split_state(self._held, super().step(vector, Mean(gained, mean.coverage)))
        return torch.cat((x, y, self._scheme.estimator.project(v, self._held.problem.multiplier_bound)))
