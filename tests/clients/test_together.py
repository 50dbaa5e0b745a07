"""Clients trained at the same time end where training one after another takes them, but for rounding."""

from pathlib import Path

import pytest
import torch

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.finder import Finder
from fl_mlmc.clients.together import check_together, find_together
from fl_mlmc.data.spec import DataSpec
from fl_mlmc.models import build_model
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.simulations import run
from fl_mlmc.simulations.data.datasets import prepare
from fl_mlmc.training.local import TrainingError
from fl_mlmc.training.objectives import parse_objective

CLIENTS = range(6)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FederatedData:
    return FederatedData.open(prepare("digits", None, "dirichlet:1.0", 20, 0, tmp_path_factory.mktemp("cache")))


def finders(config: RunConfig, data: FederatedData) -> list[Finder]:
    tasks = [
        TrainTask(1, client, "half" if client % 2 else "full", 0.5 if client % 2 else 1.0, "") for client in CLIENTS
    ]
    return [Finder(task, config, data) for task in tasks]


def points(finders: list[Finder]) -> list[torch.Tensor]:
    return [finder.own.gather(finder.model.initial(1)) for finder in finders]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mlp(hidden=(24,))"},
        {"model": 'cnn(conv=(4, 8), dense=16, norm="group")', "client_optimizer": "sgd(momentum=0.9)"},
        {"client_optimizer": "adamw(weight_decay=0.01)", "learning_rate": 0.01, "model": "mlp(hidden=(16, 16))"},
        {"clip_norm": 0.05, "model": "mlp(hidden=(24,))", "proximal": 0.5},
        {"masked_cross_entropy": True, "model": "mlp(hidden=(24,))"},
        {"local_steps": 0, "local_epochs": 2, "model": "mlp(hidden=(24,))"},
    ],
)
def test_together_is_one_by_one(data: FederatedData, changes: dict) -> None:
    config = RunConfig(**{"local_steps": 4, "batch_size": 8, "tiers": "half:0.5:0.5,full:1:0.5", **changes})
    alone, together = finders(config, data), finders(config, data)
    starts = points(together)
    find_together(together, starts, config.training)
    known = [finder.seconds_ahead > 0 for finder in together]
    assert sum(known) >= 2
    for one, many, start in zip(alone, together, starts, strict=True):
        wanted, found = one.update(start), many.update(start)
        assert torch.allclose(found, wanted, atol=2e-6 + 1e-4 * float(wanted.abs().max()))
        assert many.trained[0].num_steps == one.trained[0].num_steps
        assert many.trained[0].loss == pytest.approx(one.trained[0].loss, rel=1e-4)


def test_what_is_known_is_known_of_one_point_only(data: FederatedData) -> None:
    config = RunConfig(local_steps=2, model="mlp(hidden=(24,))", tiers="half:0.5:0.5,full:1:0.5")
    known, alone = finders(config, data), finders(config, data)
    starts = points(known)
    find_together(known, starts, config.training)
    elsewhere = starts[0] + 0.1
    assert torch.equal(known[0].update(elsewhere), alone[0].update(elsewhere))


def test_a_client_that_diverges_costs_itself_only(data: FederatedData) -> None:
    config = RunConfig(local_steps=4, model="mlp(hidden=(24,))", tiers="half:0.5:0.5,full:1:0.5")
    together = finders(config, data)
    starts = points(together)
    starts[2] = torch.full_like(starts[2], 1e30)
    find_together(together, starts, config.training)
    with pytest.raises(TrainingError):
        together[2].update(starts[2])
    assert torch.isfinite(together[0].update(starts[0])).all()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ('cnn(conv=(4,), dense=8, norm="batch")', (1, 8, 8), "keeps statistics"),
        ("char_lstm(hidden=(8,), embedding=4)", (12,), "torch.func.vmap cannot run this model"),
    ],
)
def test_a_model_that_cannot_is_refused_with_the_reason(model: str, shape: tuple[int, ...], message: str) -> None:
    spec = DataSpec(shape, 10, tuple("0123456789"), "image" if len(shape) == 3 else "tokens")
    with pytest.raises(ValueError, match=message):
        check_together(build_model(model, shape, 10), spec, parse_objective("cross_entropy"))


@pytest.mark.parametrize(
    "changes",
    [{"engine": "local"}, {"width_rule": "depth"}, {"width_rule": "ordered-dropout"}],
)
def test_a_config_that_cannot_is_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match="vectorize = true does not go with"):
        RunConfig(vectorize=True).changed(**changes)


@pytest.mark.slow
def test_a_run_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    settings = {
        "engine": "ray",
        "num_rounds": 2,
        "num_clients": 30,
        "clients_per_round": 30,
        "local_steps": 3,
        "model": "mlp(hidden=(16,))",
        "tiers": "half:0.5:0.5,full:1:0.5",
        "runs_dir": tmp_path,
    }
    plain = run(None, run_name="plain", **settings)
    together = run(None, run_name="together", vectorize=True, **settings)
    assert (together.clients["status"] == "ok").all()
    for name, tensor in plain.arrays.items():
        assert abs(together.arrays[name] - tensor).max() < 1e-5
