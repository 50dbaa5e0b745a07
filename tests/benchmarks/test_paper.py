"""The comparison's loop without Flower is the federated run of its scenario: same bytes, same model, same accuracy."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_state

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def paper() -> Any:
    spec = importlib.util.spec_from_file_location("benchmarks_paper", ROOT / "benchmarks" / "paper.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [
    ("m4", "Identity()", "direct", "sgd"),
    ("m4", "MLMC(TopK(fraction=0.05))", "direct", "sgd"),
    ("m4", "TopK(fraction=0.05)", "ef21_sgdm", "sgd"),
    ("m4", "RandK(fraction=0.05)", "diana", "sgd"),
    ("m4", "MLMC(FixedPoint(), 'fixed')", "direct", "sgd"),
    ("m4", "MLMC(RTN(bits=8))", "direct", "sgd"),
    ("m32", "TopK(fraction=0.05)", "ef21_sgdm", "adamw(weight_decay=0.01)"),
    ("cnn-m4", "MLMC(TopK(fraction=0.05))", "direct", "sgd"),
]


@pytest.mark.parametrize(("scenario", "compressor", "scheme", "server"), CASES)
def test_the_loop_with_clients_one_by_one_is_the_federated_run_to_the_last_bit(
    small: RunConfig, paper: Any, scenario: str, compressor: str, scheme: str, server: str
) -> None:
    config = _config(small, paper, scenario, compressor, scheme, server)
    rounds = list(paper.models(config, one_by_one=True))
    run = execute(load_config(None, config.to_flower()))
    sent = run.rounds.set_index("round").loc[1:, "cumulative_uplink_bytes"]
    assert [(number, sent) for number, _, sent in rounds] == list(sent.items())
    state = load_state(run.directory / CHECKPOINT)
    assert state is not None
    assert torch.equal(state.vector, rounds[-1][1])
    assert not torch.equal(rounds[0][1], rounds[-1][1])


@pytest.mark.parametrize("scenario", ["m4", "m32", "cnn-m4"])
def test_all_gradients_at_once_are_the_clients_own_but_for_rounding(
    small: RunConfig, paper: Any, scenario: str
) -> None:
    # Of one step: later ones may differ by whole digits, where a rounding has flipped one.
    config = _config(small, paper, scenario, "Identity()", "direct", "sgd").changed(num_rounds=1)
    (_, fast, _), (_, exact, _) = (next(paper.models(config, one_by_one=each)) for each in (False, True))
    torch.testing.assert_close(fast, exact, rtol=1e-6, atol=1e-7)


def _config(small: RunConfig, paper: Any, scenario: str, compressor: str, scheme: str, server: str) -> RunConfig:
    clients = 32 if scenario == "m32" else 4
    run = paper.Run(clients, "", "", compressor, scheme, server, rate=0.05, seed=3)
    prefix = "cnn-" if scenario.startswith("cnn") else ""
    own = {"dataset": small.data.dataset, "runs_dir": small.output.runs_dir}
    changes = own | {"num_rounds": 6, "evaluate_every": 1, "checkpoint_every": 6, "batch_size": 16}
    return paper.config_of(run, small.data.data_dir, prefix, **changes)  # type: ignore[no-any-return]
