"""Bytes that workers send to the server in a round: replies, or sums of groups. The table of docs/performance.md.

    python benchmarks/traffic.py [--clients 50 200]

Clients run in this process, one after another, on digits and a model of 15,010 parameters. What a worker of the ray
engine would send of them is packed as it packs it, and counted: it does not depend on the machine.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flwr.app import Message

from fl_mlmc.aggregation import Groups
from fl_mlmc.clients.client_app import app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.simulations.engines.ray.worker import Answer, Done, Return
from fl_mlmc.strategies.summing import Sum, SummingGrid
from fl_mlmc.strategies.tiered import TieredStrategy, to_arrays

WORKERS = (2, 4, 8)


class Counting(LocalGrid, SummingGrid):
    """A local grid that counts what so many workers would send; with None of them, what replies alone would take."""

    num_workers: int | None = None
    num_bytes = 0

    def sum_and_receive(
        self, messages: Iterable[Message], groups: Groups, summing: Sum, *, timeout: float | None = None
    ) -> Iterator[Any]:
        """As of the ray engine: sums but of the last groups, one for each worker."""
        num_summed = 0 if self.num_workers is None else len(groups) - self.num_workers
        replies = zip(sent := list(messages), self.send_and_receive(sent), strict=True)
        for number in range(len(groups)):
            exchanges = [next(replies) for _ in groups.ranks(number)]
            if number < num_summed:
                found = summing(exchanges)
                self._count(Done([Answer(None, None, 0.1)] * len(exchanges), [found]))
                yield found
            else:
                self._count(Done([Answer(reply, None, 0.1) for _, reply in exchanges]))
                yield from (reply for _, reply in exchanges)

    def _count(self, done: Done) -> None:
        self.num_bytes += Return.pack(done, None, 0).num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[50, 200])
    for num_clients in parser.parse_args().clients:
        for compressor in ("Identity()", "MLMC(TopK(fraction=0.05))"):
            single, *summed = (of_a_round(num_clients, compressor, workers) / 1e6 for workers in (None, *WORKERS))
            told = ", ".join(f"{mb:.2f} of {workers}" for mb, workers in zip(summed, WORKERS, strict=True))
            print(f"{num_clients} clients, {compressor}: replies {single:.2f} MB; sums {told} workers", flush=True)


def of_a_round(num_clients: int, compressor: str, num_workers: int | None) -> int:
    """Bytes that so many workers send."""
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as folder:
        config = RunConfig().changed(
            num_rounds=1, model="mlp", num_clients=num_clients, clients_per_round=num_clients, compressor=compressor,
            tiers="full:1:1", local_steps=1, engine="local", device="cpu",
        )  # fmt: skip
        data = prepare_data(config)
        spec = FederatedData.open(data).spec
        model = build_model(config.training.model, spec.input_shape, spec.num_classes)
        strategy = TieredStrategy(config, model, RoundLog.create(Path(folder), {}), str(data))
        grid = Counting(app, num_clients, config.to_flower())
        grid.num_workers = num_workers
        strategy.start(grid, to_arrays(model.initial(config.seed)), 1)
        return grid.num_bytes


if __name__ == "__main__":
    main()
