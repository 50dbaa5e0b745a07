"""What a run's evaluations decide: whether it has seen enough, and whether its model is the best so far.

All is read from the rows of the log, so a run that goes on after a checkpoint decides as it would have.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fl_mlmc.run.log import ROUNDS
from fl_mlmc.run.stopping import Stop, is_new_best

BEST = "best"
"""The checkpoint of a run's directory with the best model, if the run keeps it."""


class Judge:
    """Keeps the values of the metrics that `stop` and `keep_best` look at; `is_better_high` says which way is good."""

    def __init__(self, stop: Stop | None, keep_best: str, is_better_high: Callable[[str], bool]) -> None:
        self._stop, self._keep_best, self._is_better_high = stop, keep_best, is_better_high
        self._values: dict[str, list[float]] = {name: [] for name in (stop.metric if stop else "", keep_best) if name}

    def add(self, row: Mapping[str, Any]) -> bool:
        """Take a round's row into account; whether its model is the best so far, where the best is kept."""
        told = {name: row.get(name) for name in self._values}
        known = {name: float(value) for name, value in told.items() if value is not None and math.isfinite(value)}
        for name, value in known.items():
            self._values[name].append(value)
        best = self._keep_best
        return best in known and is_new_best(self._values[best], self._is_better_high(best))

    def restore(self, directory: Path, server_round: int) -> None:
        """Have the rows of the run in `directory` up to `server_round`."""
        if not self._values:
            return
        for line in (directory / ROUNDS).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["round"] <= server_round:
                self.add(row)

    @property
    def reason(self) -> str:
        """Why the run is to stop; "" if it is to go on."""
        if self._stop is None:
            return ""
        return self._stop.reason(self._values[self._stop.metric], self._is_better_high(self._stop.metric))
