"""What a run is about to do, and roughly what it will take: bytes by trying the compressor, minutes by trying a step.

An update is taken for a vector of independent Gaussian numbers, which most compressors find harder than a real one. A
step is timed on the machine that asks.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.filesize import decimal

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.compression import Compressor
from fl_mlmc.models import Model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.strategies.rows import counted
from fl_mlmc.submodels.plan import plan
from fl_mlmc.submodels.tier import Tier
from fl_mlmc.training.local import device_named, least_batch
from fl_mlmc.training.threads import threads

from .app.prepare import prepare_run
from .engines.processors import processors
from .lab.tables import duration

LONGEST_TRIAL = 1 << 20
"""Coordinates that are tried; longer updates are taken in proportion."""
RAY_SECONDS = 8.0
"""What Ray takes to start, about."""
TRIES = 3


@dataclass(frozen=True)
class Forecast:
    """Of a whole run."""

    what: str
    """The run in one line."""
    num_parameters: int
    uplink_bytes: float
    downlink_bytes: float
    plain_bytes: float
    """Of the same messages as float32, both ways."""
    seconds: float | None
    """None where other machines compute."""

    def lines(self, width: int | None = None) -> Iterator[str]:
        """What a person is told before the run begins."""
        yield self.what
        sent = self.uplink_bytes + self.downlink_bytes
        yield (
            f"about {decimal(round(self.uplink_bytes))} up and {decimal(round(self.downlink_bytes))} down, "
            f"{self.plain_bytes / max(sent, 1):.1f} × less than float32 both ways"
        )
        if self.seconds is not None:
            yield f"about {duration(self.seconds)} on this machine"


def forecast(config: RunConfig) -> Forecast:
    """Prepare `config` and say what its run will take; ConfigError as of `prepare_run`."""
    ready = prepare_run(config)
    cohort, model = config.cohort, ready.model
    asked = config.num_rounds * cohort.num_asked
    sizes = {tier: plan(model.spec, cohort.width_rule, tier.width, seed=config.seed).size for tier in cohort.tier_list}
    up = asked * sum(tier.share * _update_bytes(config, tier, size) for tier, size in sizes.items())
    down = asked * sum(tier.share * _bytes(config.compression.downlink, size) for tier, size in sizes.items())
    plain = 2 * asked * sum(tier.share * 4 * size for tier, size in sizes.items())
    what = (
        f"{counted(config.num_rounds, 'round')} of {cohort.clients_per_round} among "
        f"{counted(cohort.num_clients, 'client')}, {config.training.model} on {config.data.dataset}, "
        f"{model.spec.size:,} parameters, "
        f"{config.compression.compressor} by {config.compression.scheme}, engine {config.engine.name}"
    )
    is_tried = config.engine.name != "flower" and not config.training.is_bilevel
    seconds = _seconds(config, model, ready.data) if is_tried else None
    return Forecast(what, model.spec.size, up, down, plain, seconds)


def _update_bytes(config: RunConfig, tier: Tier, size: int) -> float:
    """Of all payloads of one update."""
    compressor = config.compression.uplink
    if tier.uplink_budget:
        compressor = compressor.shortened(size, tier.uplink_budget)
    return config.compression.message_scheme.num_messages * _bytes(compressor, size)


def _bytes(compressor: Compressor, size: int) -> float:
    tried = min(size, LONGEST_TRIAL)
    vector = torch.randn(tried, generator=torch.Generator().manual_seed(0))
    rng = stream(0, "forecast")
    return size / tried * sum(len(compressor.encode(vector, rng)) for _ in range(TRIES)) / TRIES


def _seconds(config: RunConfig, model: Model, data: FederatedData) -> float:
    """Of training, on as many processors as clients get, and of evaluation; the server's own work is left out."""
    cohort, training, engine = config.cohort, config.training, config.engine
    device = device_named(engine.device)
    examples = math.ceil(data.num_train / cohort.num_clients)
    steps = training.local_steps or training.local_epochs * math.ceil(examples / training.batch_size)
    each = 0.0
    for tier in cohort.tier_list:
        units = plan(model.spec, cohort.width_rule, tier.width, seed=config.seed).units
        each += tier.share * steps * _step_seconds(config, model, units, data, device)
    at_once = max(1, int(processors() / engine.client_cpus)) if engine.name == "ray" else 1
    batch = max(1, min(256, data.num_test))
    test = _pass_seconds(config, model, data, batch, device) * data.num_test / batch
    evaluations = math.ceil(config.num_rounds / config.output.evaluate_every)
    start = RAY_SECONDS if engine.name == "ray" else 0.0
    return start + config.num_rounds * cohort.clients_per_round * each / at_once + evaluations * test


def _step_seconds(config: RunConfig, model: Model, units: object, data: FederatedData, device: torch.device) -> float:
    """Of one local step: the quickest of a few, the first of which is slow."""
    with torch.random.fork_rng(devices=[]):
        module = model.build(units).to(device)  # type: ignore[arg-type]
    rows = torch.arange(max(least_batch(module), min(config.training.batch_size, data.num_train))) % data.num_train
    features, labels = (torch.from_numpy(part[: len(rows)]).to(device) for part in data.train())
    criterion = config.training.parsed_objective.criterion
    took = []
    module.train()
    with threads(max(1, int(config.engine.client_cpus))):  # more of them than a client has would wait for each other
        for _ in range(1 + TRIES):
            start = time.perf_counter()
            criterion(module(features), labels).backward()
            took.append(time.perf_counter() - start)
    return min(took)


def _pass_seconds(config: RunConfig, model: Model, data: FederatedData, batch: int, device: torch.device) -> float:
    with torch.random.fork_rng(devices=[]):
        module = model.build(model.spec.units).to(device).eval()
    features = torch.from_numpy(data.test()[0][:batch]).to(device)
    with torch.inference_mode():
        start = time.perf_counter()
        module(features)
    return time.perf_counter() - start
