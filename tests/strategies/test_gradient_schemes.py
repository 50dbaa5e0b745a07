"""Schemes that step along gradients, in federated runs: the same numbers as their plain loop over whole gradients."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.frames import read_clients
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.schemes import Round, State, Turn, Workload
from fl_mlmc.schemes.shadowheart import Shadowheart
from fl_mlmc.simulations.app.launch import RunResult, execute, load_config
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.submodels.flat import gradient_vector, load_vector
from fl_mlmc.submodels.tier import parse_tiers
from fl_mlmc.theory.bench import Gathered
from fl_mlmc.training.threads import threads


def run(config: RunConfig) -> RunResult:
    return execute(load_config(None, config.to_flower()))


def vector_of(result: RunResult) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([array.ravel() for array in result.arrays.values()]))


def directory(config: RunConfig) -> Path:
    return Path(config.output.runs_dir) / config.output.run_name


def plain_loop(config: RunConfig, cohorts: list[list[int]], workloads: Mapping[int, Workload]) -> torch.Tensor:
    """The scheme as it is written, with every client in this process and its gradient over all of its examples."""
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    scheme, size = config.resolved_scheme(model.spec.size), model.spec.size
    module = model.build(model.spec.units)
    examples = [tuple(map(torch.from_numpy, data.client(client))) for client in range(config.cohort.num_clients)]

    def gradient(client: int, point: torch.Tensor) -> torch.Tensor:
        load_vector(module, point)
        module.zero_grad()
        torch.nn.functional.cross_entropy(module(examples[client][0]), examples[client][1]).backward()
        found = gradient_vector(module)
        return found if scheme.moves_itself else -config.training.learning_rate * found

    vector = model.initial(config.seed)
    server = scheme.init_server(vector.double())
    memories: dict[int, State] = {}
    for number, cohort in enumerate(cohorts, start=1):
        round = Round(config.seed, number, config.cohort.num_clients, len(cohort))
        points = [point.float() for point in scheme.points(vector.double(), server)]
        gathered = Gathered(size, scheme.num_messages)
        for rank, client in enumerate(cohort):
            load = workloads.get(client, Workload())
            turn = Turn(
                round, rank, config.compression.uplink, stream(config.seed, "level", number, client), workload=load
            )
            memory = memories.get(client) or scheme.init_client(points[0])
            messages, memories[client] = scheme.encode(
                lambda point, sample=0, client=client: gradient(client, point), points, memory, turn
            )
            gathered.add(messages, scheme.speaks_of(size, round, rank), load.weight)
        direction, server = scheme.estimate(gathered.means(), vector.double(), server, round, round.share)
        for client in cohort:
            memories[client] = scheme.settle(memories[client], -direction.float())
        vector = vector + (-direction if scheme.moves_itself else direction).float()
    return vector


@pytest.mark.parametrize(
    ("scheme", "compressor", "cohort"),
    [
        ("adiana(1.0, 0.01, step=0.2)", "RandK(fraction=0.5)", 6),
        ("adiana(1.0, 0.01, step=0.2)", "MLMC(TopK(fraction=0.5))", 6),
        ("dasha_mvr(momentum=0.3)", "RandK(fraction=0.5)", 6),
        ("proxskip(0.1, 0.4)", "Identity()", 6),
        ("compressed_scaffnew(0.1, 0.4, overlap=3)", "Identity()", 6),
        ("tamuna(0.1, 0.4)", "Identity()", 4),
        ("scaffold(0.1, 3)", "RandK(fraction=0.5)", 4),
        ("marina(permuted=True)", "Identity()", 6),
    ],
)
def test_a_run_is_the_plain_loop(small: RunConfig, scheme: str, compressor: str, cohort: int) -> None:
    config = small.changed(
        clients_per_round=cohort, compressor=compressor, local_steps=0, local_epochs=1, batch_size=2000,
        tiers="full:1:1", num_rounds=6, partition="dirichlet:0.5",
    ).changed(scheme=scheme)  # fmt: skip
    result = run(config)
    sampled = read_clients(directory(config)).groupby("round")["client"].apply(list)
    with threads():
        expected = plain_loop(config, list(sampled), {})
    start = build_model(config.training.model, (1, 8, 8), 10).initial(config.seed)
    assert float((expected - start).norm()) > 0.05
    torch.testing.assert_close(vector_of(result), expected, rtol=1e-4, atol=1e-5)


def test_shadowheart_weighs_clients_by_what_they_had_time_for(small: RunConfig) -> None:
    tiers = "fast:1:0.5:speed=1e-3:up=1e5,slow:1:0.5:speed=1e-4:up=2e4"
    config = small.changed(
        clients_per_round=6, compressor="RandK(fraction=0.5)", local_steps=0, batch_size=2000, tiers=tiers, num_rounds=4
    ).changed(scheme="shadowheart(noise=20.0)")  # fmt: skip
    result = run(config)
    rows = read_clients(directory(config))
    named = {tier.name: tier for tier in parse_tiers(tiers)}
    each = [named[name] for name in rows[rows["round"] == 1].sort_values("client")["tier"]]
    scheme = config.resolved_scheme(1210)
    assert isinstance(scheme, Shadowheart)
    bits = config.compression.uplink.compress(torch.ones(1210), np.random.default_rng(0)).expected_bits
    compute = [tier.pace(1210).seconds(1, 0) for tier in each]
    loads = scheme.workloads(compute, [bits / 8 / tier.up for tier in each])
    assert len({load.weight for load in loads}) == 2
    with threads():
        expected = plain_loop(config, [list(range(6))] * 4, dict(enumerate(loads)))
    torch.testing.assert_close(vector_of(result), expected, rtol=1e-4, atol=1e-5)


def test_a_model_with_running_statistics_is_refused_before_anything_is_written(small: RunConfig) -> None:
    config = small.changed(model='cnn(conv=(4, 8), dense=16, norm="batch")', local_steps=0, compressor="Identity()")
    with pytest.raises(ValueError, match="keeps statistics that gradients do not carry"):
        run(config.changed(scheme="tamuna(0.1, 0.5)"))
    assert not (directory(config) / "run.json").exists()
