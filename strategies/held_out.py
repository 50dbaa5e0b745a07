"""What a round's clients say of the model on the examples that they hold out: a client's columns and the round's.

The model is the one that the round sent out, in the client's own width, before the client trained it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import ProtocolError, TrainUpdate
from fl_mlmc.training.objectives import Objective

from .round import Row

WORST_SHARE = 0.1
"""Of the clients of a round: the mean over these is its `_worst`."""


@dataclass(frozen=True)
class HeldOut:
    """The columns of a run whose clients hold examples out, by the `names` of its metrics."""

    objective: Objective
    names: tuple[str, ...]

    @classmethod
    def of(cls, config: RunConfig) -> "HeldOut | None":
        """None where clients hold nothing out."""
        if not config.data.evaluate_clients:
            return None
        return cls(config.training.parsed_objective, config.training.metric_names)

    def client_columns(self, update: TrainUpdate | None) -> Row:
        """`held_out_examples`, and `held_out_` with each metric; None of what a client did not say."""
        values = update.held_out_metrics if update and update.held_out_metrics else [None] * len(self.names)
        row: Row = {"held_out_examples": update.held_out_examples if update else None}
        return row | {f"held_out_{name}": value for name, value in zip(self.names, values, strict=True)}

    def round_columns(self, updates: Sequence[TrainUpdate]) -> Row:
        """Over the clients that said something: their number, and the mean, worst tenth and spread of each metric.

        All count alike. `clients_M_worst` is the mean over the worst tenth of them, one at least; `clients_M_spread`
        is the standard deviation. Values that are no numbers (an AUC of one class) are left out; NaN of none.
        """
        told = [update.held_out_metrics for update in updates if update.held_out_metrics]
        row: Row = {"clients_evaluated": len(told)}
        for place, name in enumerate(self.names):
            values = np.sort([values[place] for values in told if not math.isnan(values[place])])
            if self.objective.is_better_higher(name):
                worst = values[: math.ceil(WORST_SHARE * len(values))]
            else:
                worst = values[len(values) - math.ceil(WORST_SHARE * len(values)) :]
            row[f"clients_{name}"] = float(values.mean()) if len(values) else math.nan
            row[f"clients_{name}_worst"] = float(worst.mean()) if len(values) else math.nan
            row[f"clients_{name}_spread"] = float(values.std()) if len(values) else math.nan
        return row


def check_metrics(update: TrainUpdate, held_out: HeldOut | None) -> None:
    """ProtocolError where an update has other metrics than the run's, or none and says what they are of."""
    count = len(update.held_out_metrics)
    wanted = len(held_out.names) if held_out else 0
    if count not in (0, wanted) or (count > 0) != (update.held_out_examples > 0):
        raise ProtocolError(
            f"it has {count} metrics of {update.held_out_examples} examples held out, expected {wanted}"
        )
