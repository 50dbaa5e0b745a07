"""Bilevel runs over Flower's messages, in this process, against the simulation without messages."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.data import FederatedData
from fl_mlmc.bilevel import Held, NotStronglyConvexError, Rafbo, Steps, simulate
from fl_mlmc.bilevel.run import problem_of, scheme_of
from fl_mlmc.bilevel.tasks import Rows
from fl_mlmc.config import ConfigError, RunConfig
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.rng import stream
from simulations.server_app import prepare_data, serve
from strategies.checkpoint import CHECKPOINT, load_state


@pytest.fixture
def bilevel(small: RunConfig) -> RunConfig:
    """Three clients of two widths, all in every round."""
    return small.changed(
        task="bilevel",
        scheme="rafbo",
        num_clients=3,
        clients_per_round=3,
        tiers="small:0.5:0.34,full:1.0:0.66",
        compressor="Identity()",
        learning_rate=0.5,
        multiplier_learning_rate=0.3,
        num_rounds=3,
    )


def test_step_sizes_come_from_the_config(bilevel: RunConfig) -> None:
    assert scheme_of(bilevel).steps == Steps(0.3, 0.5, 0.3)
    assert scheme_of(bilevel.changed(multiplier_learning_rate=0.0)).steps == Steps(0.3, 0.5, 0.5)
    assert scheme_of(bilevel.changed(local_steps=0, local_epochs=2, batch_size=16), 33) == Rafbo(
        6, Steps(0.3, 0.5, 0.3)
    )


@pytest.mark.parametrize("scheme", ["rabo", "rafbo"])
@pytest.mark.parametrize("rule", ["nested", "random"])
def test_a_run_is_the_simulation_with_messages(bilevel: RunConfig, scheme: str, rule: str) -> None:
    config = bilevel.changed(scheme=scheme, width_rule=rule)
    directory = serve(config)
    data = FederatedData.open(prepare_data(config))
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    rows = []
    for client in range(3):
        features, labels = map(torch.from_numpy, data.client(client))
        rng = stream(config.seed, "outer-rows", client)
        rows.append(Rows.split(features, labels, rng, config.outer_share, config.batch_size))
    widths = read_clients(directory).drop_duplicates("client").set_index("client")["width"]
    trace = simulate(
        problem,
        rows,
        scheme_of(config, 479),
        3,
        lambda server_round, client: Held.of(problem, rule, widths[client], server_round, client, config.seed),
        dtype=torch.float32,
        seed=config.seed,
    )
    state = load_state(directory / CHECKPOINT)
    assert state is not None
    torch.testing.assert_close(state.vector, torch.cat(tuple(trace.point)), rtol=1e-4, atol=1e-5)
    rounds = read_rounds(directory)
    assert rounds["coverage_outer_min"].tolist() == [row.coverage_outer_min for row in trace.rows]
    assert rounds["coverage_inner_min"].tolist() == [row.coverage_inner_min for row in trace.rows]
    np.testing.assert_allclose(rounds["curvature"][1:], [row.curvature for row in trace.rows[1:]], rtol=1e-3)


def test_what_is_sent_is_x_and_twice_y(bilevel: RunConfig) -> None:
    clients = read_clients(serve(bilevel))
    hidden = (16 * clients["width"]).astype(int)
    outer, inner = hidden * 64 + hidden, hidden * 10 + 10
    assert (clients["num_parameters"] == outer + 2 * inner).all()
    assert (clients["expected_bits"] == 32 * clients["num_parameters"]).all()
    envelope = clients["payload_bytes"] - 4 * clients["num_parameters"]
    assert (envelope <= 24).all()
    assert (envelope[clients["round"] == 1] > 0).all()  # later, values of dead units are zero and cost less


def test_a_compressed_run_learns(bilevel: RunConfig) -> None:
    config = bilevel.changed(compressor="QSGD(levels=8)", num_rounds=12, local_steps=4, evaluate_every=12)
    directory = serve(config)
    clients = read_clients(directory)
    assert (clients["payload_bytes"] < 4 * clients["num_parameters"] / 2).all()
    assert read_rounds(directory)["accuracy"].iloc[-1] > 0.6


def test_same_seed_same_model(bilevel: RunConfig) -> None:
    states = []
    for name in ("one", "two"):
        state = load_state(serve(bilevel.changed(run_name=name, compressor="RandK(fraction=0.2)")) / CHECKPOINT)
        assert state is not None
        states.append(state.vector)
    assert torch.equal(*states)


def test_outer_coordinates_that_nobody_held_are_reported(
    bilevel: RunConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    with caplog.at_level(logging.WARNING, "flwr"):
        serve(bilevel.changed(tiers="small:0.5:1.0", num_rounds=1, coverage_warning=0))
    assert "no client held in the whole run, in 1.weight, 1.bias\n" in caplog.text


def test_coverage_of_x_and_of_y_are_told_apart(
    bilevel: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "whole_head.py").write_text(WHOLE_HEAD)
    config = bilevel.changed(problem="whole_head:problem", num_rounds=1)
    directory = serve(config)
    rounds, num_wide = read_rounds(directory), int((read_clients(directory)["width"] == 1).sum())
    assert 0 < num_wide < 3
    assert rounds["coverage_outer_min"].tolist() == [num_wide]
    assert rounds["coverage_inner_min"].tolist() == [3]


WHOLE_HEAD = """
from fl_mlmc.bilevel import cut_only
from fl_mlmc.bilevel.tasks import hyper_representation

def problem(model):
    return cut_only(hyper_representation(model), "outer")
"""

CONCAVE = """
import dataclasses
from fl_mlmc.bilevel.tasks import hyper_representation

def problem(model):
    plain = hyper_representation(model, strong_convexity={ridge})
    def inner(x, y, batch):
        return plain.inner_loss(x, y, batch) - sum(part.square().sum() for part in y.values())
    return dataclasses.replace(plain, inner_loss=inner)
"""


def test_a_users_own_problem_that_is_not_convex_ends_in_a_named_error(
    bilevel: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "concave_problem.py").write_text(CONCAVE.format(ridge=0.01))
    config = bilevel.changed(problem="concave_problem:problem", learning_rate=0.05, num_rounds=20)
    with pytest.raises(NotStronglyConvexError, match="Try strong_convexity = "):
        serve(config)
    header = json.loads((Path(config.runs_dir) / config.run_name / "run.json").read_text())
    assert header["status"].startswith("failed: NotStronglyConvexError: the inner loss is not strongly convex")
    (tmp_path / "ridged_problem.py").write_text(CONCAVE.format(ridge=4.5))
    assert serve(config.changed(problem="ridged_problem:problem", run_name="ridged", num_rounds=2)).is_dir()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheme": "direct"}, "goes with scheme 'rabo', 'rafbo', 'fednest'"),
        ({"task": "classification"}, "goes with scheme 'rabo', 'rafbo', 'fednest'"),
        ({"distill": True}, "distill is for task 'classification'"),
        ({"client_optimizer": "adam"}, "client-optimizer of a bilevel task"),
        ({"width_rule": "depth"}, "width-rule of a bilevel task"),
        ({"outer_share": 1.0}, "outer-share = 1.0"),
    ],
)
def test_configs_that_do_not_go_together_are_refused(
    bilevel: RunConfig, changes: dict[str, str | float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        bilevel.changed(**changes)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("cleaning", "known: hyper_cleaning, hyper_representation, log_ridge, meta_learning, quadratic"),
        ("quadratic", "stated for 8 clients, num-clients is 3"),
        ("hyper_cleaning(wrong_share=1.5)", "wrong_share lies in"),
        ("hyper_representation(cut='x')", "cut is 'both', 'outer' or 'inner'"),
        ("log_ridge(width=3)", "its options: strong_convexity, start"),
        ("fl_mlmc.bilevel.run:PROBLEMS", "expected a BilevelProblem"),
    ],
)
def test_problems_that_a_run_cannot_have_are_refused(bilevel: RunConfig, problem: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        serve(bilevel.changed(problem=problem))
    assert not Path(bilevel.runs_dir).exists()
