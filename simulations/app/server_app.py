"""The Flower ServerApp: puts data, model, strategy and engine together. The composition root."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fl_mlmc.aggregation import Ledger
from fl_mlmc.aggregation.ledger import RELEASES
from fl_mlmc.bilevel.run import metrics, problem_of
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.held_out import Division
from fl_mlmc.models import Model
from fl_mlmc.models.norms import fill_statistics, has_static_statistics, pieces
from fl_mlmc.own import blamed
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.rhythm import Buffered
from fl_mlmc.strategies.bilevel import FedBilevel
from fl_mlmc.strategies.buffered import BufferedStrategy
from fl_mlmc.strategies.checkpoint import resumable_state
from fl_mlmc.strategies.tiered import TieredStrategy, to_arrays
from fl_mlmc.submodels.flat import load_vector
from fl_mlmc.training.local import device_named

from ..engines.by_name import open_engine
from ..engines.heap import keep_heap
from .prepare import prepare_run
from .provenance import check_resume, provenance
from .run_lock import writing

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, on the engine that the run config names."""
    config = RunConfig.from_flower(context.run_config)
    serve(config, grid)


def serve(
    config: RunConfig, grid: Grid | None = None, on_round: Callable[[Mapping[str, Any]], None] | None = None
) -> Path:
    """Run `config` to its end and give its run directory; `grid` is what Flower handed over, if it did.

    `on_round` hears every row of rounds.jsonl. Whatever ends the run early is recorded in run.json and raised. The
    process keeps the memory that it frees from then on (`keep_heap`).
    """
    keep_heap()
    directory = run_directory(config)
    ready = prepare_run(config)
    data, federated, model = ready.place, ready.data, ready.model
    patience = 30.0 if config.output.resume else 0.0  # what goes on may wait for the end of its last writer
    durable = config.output.durable
    with writing(directory, patience):
        saved = resumable_state(directory, config.privacy.is_on) if config.output.resume else None
        if config.output.resume:
            check_resume(directory, config, federated, saved.server_round if saved else 0)
            round_log = RoundLog.resume(directory, saved.log if saved else {}, on_round, durable)
        else:
            if config.privacy.is_on:
                Ledger(directory / RELEASES)  # first: a private run that has a log must have its ledger
            round_log = RoundLog.create(directory, _header(config, model, federated), on_round, durable)
        try:
            strategy = _strategy(config, model, round_log, str(data), federated)
            if saved:
                strategy.restore(saved)
            with open_engine(config, data, grid) as engine:
                strategy.start(
                    engine,
                    to_arrays(saved.vector if saved else model.initial(config.seed)),
                    config.num_rounds,
                    timeout=config.cohort.round_timeout,
                    evaluate_fn=strategy.evaluate,
                )
        except BaseException as error:
            with suppress(OSError):  # of a full disk: what went wrong is the first one
                round_log.finish(f"failed: {blamed(error)}")
            raise
        round_log.finish("completed")
    return directory


def _strategy(config: RunConfig, model: Model, round_log: RoundLog, where: str, data: FederatedData) -> TieredStrategy:
    meta = data.meta if config.engine.name == "flower" else ""  # elsewhere clients share the server's disk
    if config.training.task != "bilevel":
        judge, sizes = _evaluator(config, model, data), _sizes(config, data)
        if isinstance(config.time.parsed_pace, Buffered):
            return BufferedStrategy(config, model, round_log, where, judge, meta)
        return TieredStrategy(config, model, round_log, where, judge, meta, num_examples=sizes)
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    features, labels = (torch.from_numpy(part) for part in data.test())

    def evaluate(state: Tensor) -> Mapping[str, float]:
        return metrics(config, problem, state, features, labels)

    return FedBilevel(config, problem, model, round_log, where, evaluate, meta)


def _sizes(config: RunConfig, data: FederatedData) -> Sequence[int]:
    """The examples that each client trains on, where sampling asks for them; a device's own are not known."""
    sampling = config.cohort.parsed_sampling
    if not (sampling.asks_sizes or sampling.asks_seconds):
        return ()
    share = config.data.evaluate_clients
    counts = (len(data.client_labels(client)) for client in range(config.cohort.num_clients))
    return [len(Division.draw(count, share, config.seed, client).training) for client, count in enumerate(counts)]


def run_directory(config: RunConfig) -> Path:
    """Where the run's log goes: runs-dir/run-name, the name by default the time in UTC."""
    name = config.output.run_name or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(config.output.runs_dir).expanduser().absolute() / name


def _header(config: RunConfig, model: Model, data: FederatedData) -> Mapping[str, Any]:
    return {
        "config": config.to_flower(),
        "seed": config.seed,
        "tiers": [
            {
                "name": tier.name,
                "width": tier.width,
                "share": tier.share,
            }
            for tier in config.cohort.tier_list
        ],
        "num_parameters": model.spec.size,
        **provenance(config, data),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _evaluator(config: RunConfig, model: Model, data: FederatedData) -> Callable[[Tensor], Mapping[str, float]]:
    device, training = device_named(config.engine.device), config.training
    module = model.build(model.spec.units).to(device)
    features, labels = (torch.from_numpy(part) for part in data.test())

    def evaluate(vector: Tensor) -> Mapping[str, float]:
        load_vector(module, vector)
        module.eval()
        if has_static_statistics(module):
            seen = torch.from_numpy(data.train()[0])
            fill_statistics(module, (part.to(device) for part in pieces(seen, 1024)))
        with torch.inference_mode():
            batches = (
                (module(part.to(device)), wanted.to(device))
                for part, wanted in zip(features.split(1024), labels.split(1024), strict=True)
            )
            return training.parsed_objective.score(batches, training.metric_names[1:])

    return evaluate
