"""The comparison's loop without Flower is the federated run of its scenario: same bytes, same model, same accuracy."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.config import RunConfig
from simulations.launch import execute, load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paper() -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_paper", ROOT / "benchmarks" / "paper.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("scenario", "compressor", "scheme", "server"),
    [
        ("m4", "Identity()", "direct", "sgd"),
        ("m4", "MLMC(TopK(fraction=0.05))", "direct", "sgd"),
        ("m4", "TopK(fraction=0.05)", "ef21_sgdm", "sgd"),
        ("m4", "RandK(fraction=0.05)", "diana", "sgd"),
        ("m32", "TopK(fraction=0.05)", "ef21_sgdm", "adamw(weight_decay=0.01)"),
        ("cnn-m4", "MLMC(TopK(fraction=0.05))", "direct", "sgd"),
    ],
)
def test_the_loop_is_the_federated_run_of_the_scenario(
    small: RunConfig, paper: Any, scenario: str, compressor: str, scheme: str, server: str
) -> None:
    clients = 32 if scenario == "m32" else 4
    run = paper.Run(clients, "", "", compressor, scheme, server, rate=0.05, seed=3)
    prefix = "cnn-" if scenario.startswith("cnn") else ""
    own = {"dataset": small.dataset, "runs_dir": small.runs_dir}
    changes = own | {"num_rounds": 6, "evaluate_every": 1, "checkpoint_every": 6, "batch_size": 16}
    config = paper.config_of(run, small.data_dir, prefix, **changes)

    looped = list(paper.play(config))
    federated = execute(load_config(None, config.model_dump())).rounds
    evaluated = federated[federated["round"] > 0]

    assert [row["round"] for row in looped] == evaluated["round"].tolist()
    sent = evaluated["cumulative_uplink_bytes"].tolist()
    assert [row["cumulative_uplink_bytes"] for row in looped] == pytest.approx(sent, rel=1e-3)
    # AdamW's first steps are as long for a gradient of the size of rounding as for a large one.
    close = 1e-4 if server == "sgd" else 1e-3
    assert [row["loss"] for row in looped] == pytest.approx(evaluated["loss"].tolist(), rel=close)
    assert [row["accuracy"] for row in looped] == pytest.approx(evaluated["accuracy"].tolist(), abs=0.005)
    assert abs(looped[-1]["loss"] - looped[0]["loss"]) > 1e-3
