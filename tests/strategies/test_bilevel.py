"""Bilevel runs over Flower's messages, in this process, against the simulation without messages."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from fl_mlmc.bilevel import DivergenceError, Held, NotStronglyConvexError, Rafbo, Shard, Steps, simulate
from fl_mlmc.bilevel.quadratic import quadratic
from fl_mlmc.bilevel.run import data_of, first_point, method_of, problem_of
from fl_mlmc.clients import client_app
from fl_mlmc.clients.bilevel_client import PERSONAL
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.app.places import RunFailed
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.app.server_app import serve
from fl_mlmc.simulations.report import summarise
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_state
from fl_mlmc.strategies.tiered import MEMORIES, QuorumError
from fl_mlmc.training.threads import threads


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
    assert method_of(bilevel).steps == Steps(0.3, 0.5, 0.3)
    assert method_of(bilevel.changed(multiplier_learning_rate=0.0)).steps == Steps(0.3, 0.5, 0.5)
    assert method_of(bilevel.changed(local_steps=0, local_epochs=2, batch_size=16), 33) == Rafbo(
        6, Steps(0.3, 0.5, 0.3)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "rabo"},
        {"scheme": "rabo", "width_rule": "random"},
        {"scheme": "rafbo"},
        {"scheme": "rafbo", "width_rule": "random"},
        {"scheme": "rafbo(estimator=penalty(delta=0.1))"},
        {"scheme": "rabo(estimator=exact)"},
        {"scheme": "rafbo", "problem": "hyper_representation(lower='personal')"},
        {"scheme": "rabo", "problem": "hyper_representation(lower='personal')", "width_rule": "rolling"},
        {"scheme": "rafbo(estimator=penalty)", "problem": "hyper_representation(lower='personal')"},
        {"scheme": "rafbo", "problem": "hyper_cleaning(wrong_share=0.4)", "outer_learning_rate": 50.0},
        {"scheme": "rafbo", "problem": "log_ridge"},
        {"scheme": "rafbo", "problem": "meta_learning(num_shots=3)"},
        {"scheme": "rafbo", "problem": "quadratic(num_clients=3)"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_a_run_is_the_simulation_with_messages(bilevel: RunConfig, changes: dict[str, Any]) -> None:
    config = bilevel.changed(**changes)
    directory = serve(config)
    data = FederatedData.open(prepare_data(config))
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    own = []
    for client in range(3):
        features, labels = map(torch.from_numpy, data.client(client))
        own.append(data_of(problem, Shard(client, features, labels, config.seed, config.training.outer_share, 16)))
    helds = [problem if problem.of_client is None else problem.of_client(each) for each in own]
    widths = read_clients(directory).drop_duplicates("client").set_index("client")["width"]
    with threads():  # sums come out as on the clients
        trace = simulate(
            problem,
            own,
            method_of(config, own[0].num_examples),
            3,
            lambda number, client: Held.of(
                helds[client], config.cohort.width_rule, widths[client], number, client, config.seed
            ),
            dtype=torch.float32,
            seed=config.seed,
        )
    state = load_state(directory / CHECKPOINT)
    assert state is not None
    shared = Held.of(problem, "nested", 1.0).pack(trace.point)
    torch.testing.assert_close(state.vector, shared, rtol=1e-3, atol=1e-4)
    for client, point in trace.personal.items():
        kept = np.load(directory / MEMORIES / PERSONAL / str(client) / "3.npz")
        for name in kept.files:
            np.testing.assert_allclose(kept[name], getattr(point, name), rtol=1e-3, atol=1e-4)
    assert bool(trace.personal) == (not all(problem.travels))
    rounds = read_rounds(directory)
    for name in ("coverage_outer_min", "coverage_inner_min"):
        assert [None if value is None else int(value) for value in rounds[name]] == [
            getattr(row, name) for row in trace.rows
        ]
    np.testing.assert_allclose(rounds["curvature"][1:], [row.curvature for row in trace.rows[1:]], rtol=2e-3)


@pytest.mark.parametrize(
    ("problem", "times_x", "times_y"),
    [("hyper_representation", 1, 2), ("hyper_representation(lower='personal')", 1, 0), ("hyper_cleaning", 0, 2)],
)
def test_what_is_sent_is_what_is_shared(bilevel: RunConfig, problem: str, times_x: int, times_y: int) -> None:
    """|m^x| + 2|m^y| values; |m^x| where y is personal, 2|m^y| where x is; in both directions."""
    clients = read_clients(serve(bilevel.changed(problem=problem)))
    hidden = (16 * clients["width"]).astype(int)
    backbone, head = hidden * 64 + hidden, hidden * 10 + 10
    inner = backbone + head if problem == "hyper_cleaning" else head
    assert (clients["num_parameters"] == times_x * backbone + times_y * inner).all()
    assert (clients["expected_bits"] == 32 * clients["num_parameters"]).all()
    first = clients[clients["round"] == 1]  # later, values of dead units are zero and cost less
    for sent in ("payload_bytes", "downlink_bytes"):
        envelope = clients[sent] - 4 * clients["num_parameters"]
        assert (envelope <= 24).all()
    # v is zero at first: it costs nothing on its way down.
    assert (first["payload_bytes"] > 4 * first["num_parameters"]).all()


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
    assert read_rounds(Path(bilevel.output.runs_dir) / bilevel.output.run_name)["outer_never_held"].tolist() == [8 * 65]
    summary = Console(record=True, width=200)
    summarise(Path(bilevel.output.runs_dir) / bilevel.output.run_name).print(summary)
    assert re.search(r"outer coordinates that no client ever held\W+520", summary.export_text())


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


@pytest.mark.parametrize(
    "changes",
    [
        {"problem": "hyper_representation(lower='personal')", "width_rule": "rolling"},
        {"problem": "hyper_cleaning(wrong_share=0.4)", "checkpoint_every": 3},
        {"problem": "hyper_representation(lower='personal')", "scheme": "rafbo(ef21)", "compressor": "TopK(count=9)"},
    ],
    ids=["own y", "own x", "own y and error feedback"],
)
def test_a_run_that_was_cut_off_ends_in_the_same_bytes(bilevel: RunConfig, changes: dict[str, Any]) -> None:
    """Model, log and every client's own part, wherever the run stopped."""
    config = bilevel.changed(**changes, num_rounds=5, clients_per_round=2)
    whole = execute(load_config(None, {**config.to_flower(), "run_name": "whole"})).directory
    for stop_at in (1, 4):
        name = f"cut-{stop_at}"

        def stop(row: Mapping[str, Any], stop_at: int = stop_at) -> None:
            if row["round"] == stop_at:
                raise KeyboardInterrupt  # logged, and not yet in the checkpoint

        with pytest.raises(KeyboardInterrupt):
            execute(load_config(None, {**config.to_flower(), "run_name": name}), stop)
        resumed = execute(load_run(whole.with_name(name))).directory
        assert contents(resumed) == contents(whole)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of the model and of the clients' memories, and the log without times."""
    files = [*(directory / CHECKPOINT).iterdir(), *(directory / MEMORIES).rglob("*.npz")]
    found = {str(path.relative_to(directory)): path.read_bytes() for path in files if path.name != "state.json"}
    for name, read in (("clients", read_clients), ("rounds", read_rounds)):
        frame = read(directory)
        found[name] = frame.drop(columns=[each for each in frame if each.endswith("seconds")]).to_csv().encode()
    return found


def test_a_client_without_its_own_part_is_missed_by_name(bilevel: RunConfig) -> None:
    config = bilevel.changed(problem="hyper_representation(lower='personal')", quorum=2)
    directory = Path(config.output.runs_dir) / config.output.run_name

    def lose(row: Mapping[str, Any]) -> None:
        (directory / MEMORIES / PERSONAL / "1" / f"{row['round']}.npz").unlink(missing_ok=True)

    serve(config, on_round=lose)
    clients = read_clients(directory)
    status = clients[clients["client"] == 1].set_index("round")["status"]
    assert status[1] == "ok"
    assert re.match("dropped: it says .client 1 lost its memory of round 1", status[2])
    assert (clients[clients["client"] != 1]["status"] == "ok").all()


def test_clients_of_unequal_steps_pull_equally(bilevel: RunConfig) -> None:
    """The mean of what a step changed, times the mean number of steps, both weighted by examples."""
    config = bilevel.changed(
        partition="dirichlet:0.5", local_steps=0, local_epochs=2, num_rounds=1, tiers="full:1:1", scheme="rafbo"
    )
    state = load_state(serve(config) / CHECKPOINT)
    data = FederatedData.open(prepare_data(config))
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    point = first_point(config, problem, config.seed)
    held = Held.of(problem, "nested", 1.0)
    replies, weights = [], []
    for client in range(3):
        features, labels = map(torch.from_numpy, data.client(client))
        own = data_of(
            problem,
            Shard(client, features, labels, config.seed, config.training.outer_share, config.training.batch_size),
        )
        method = method_of(config, len(labels))
        replies.append(method.client(held, point, own, stream(config.seed, "batches", 1, client)))
        weights.append(len(labels) / 1437)
    steps = [reply.num_steps for reply in replies]
    assert len(set(steps)) == 3
    mean_steps = sum(weight * number for weight, number in zip(weights, steps, strict=True))
    mean = sum(weight * held.pack(reply.update) for weight, reply in zip(weights, replies, strict=True))
    assert state is not None
    torch.testing.assert_close(state.vector, held.pack(point) + mean_steps * mean, rtol=1e-4, atol=1e-5)


def test_fednest_moves_one_variable_a_round(bilevel: RunConfig) -> None:
    config = bilevel.changed(scheme="fednest", outer_learning_rate=0.1, learning_rate=0.2)
    states = []
    for num_rounds in (1, 2, 3):
        state = load_state(serve(config.changed(num_rounds=num_rounds, run_name=str(num_rounds))) / CHECKPOINT)
        assert state is not None
        states.append(state.vector.split([16 * 65, 170, 170]))
    data = FederatedData.open(prepare_data(config))
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    for before, after, moved in zip([first_point(config, problem, 0), *states[:2]], states, "yvx", strict=True):
        changed = {name for name, old, new in zip("xyv", before, after, strict=True) if not torch.equal(old, new)}
        assert changed == {moved}
    rounds = read_rounds(serve(config.changed(num_rounds=24, local_steps=5, run_name="long")))
    assert rounds["accuracy"].iloc[-1] > 0.6


def test_uploads_that_compare_two_points_find_anew_at_both(bilevel: RunConfig) -> None:
    """DASHA-MVR's memory after two rounds, by its definition."""
    uploads = "dasha_mvr(momentum=0.5, memory_step=0.5)"
    config = bilevel.changed(scheme=f"rabo(uploads={uploads})", tiers="full:1:1", num_rounds=1)
    points = [load_state(serve(config.changed(run_name="one", num_rounds=1)) / CHECKPOINT)]
    directory = serve(config.changed(run_name="two", num_rounds=2))
    data = FederatedData.open(prepare_data(config))
    problem = problem_of(config, data.spec.input_shape, data.spec.num_classes)
    held, first = Held.of(problem, "nested", 1.0), first_point(config, problem, config.seed)
    assert points[0] is not None
    before, after = held.pack(first), points[0].vector
    features, labels = map(torch.from_numpy, data.client(0))
    own = data_of(
        problem, Shard(0, features, labels, config.seed, config.training.outer_share, config.training.batch_size)
    )

    def found(vector: torch.Tensor, number: int) -> torch.Tensor:
        rng = stream(config.seed, "batches", number, 0)
        return held.pack(method_of(config).client(held, held.unpack(vector, first), own, rng).update)

    old = np.load(Path(config.output.runs_dir) / "one" / MEMORIES / "0" / "1.npz")["gradient"]
    expected = found(after, 2) + 0.5 * (torch.from_numpy(old) - found(before, 2))
    kept = np.load(directory / MEMORIES / "0" / "2.npz")["gradient"]
    np.testing.assert_allclose(kept, expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(kept, found(after, 2), atol=1e-3)


@pytest.mark.parametrize("scheme", ["rabo(uploads=ef21)", "rafbo(ef21_sgdm(momentum=0.5))"])
def test_biased_compressors_come_with_error_feedback(bilevel: RunConfig, scheme: str) -> None:
    config = bilevel.changed(scheme=scheme, compressor="TopK(fraction=0.1)", num_rounds=30, evaluate_every=30)
    directory = serve(config)
    clients = read_clients(directory)
    assert (clients["payload_bytes"] < 0.2 * 4 * clients["num_parameters"]).all()
    assert read_rounds(directory)["accuracy"].iloc[-1] > 0.6
    with pytest.raises(ConfigError, match="keeps client memory, a number for each coordinate"):
        config.changed(width_rule="rolling")
    with pytest.raises(ValueError, match="needs a contractive compressor"):
        serve(config.changed(compressor="RandK(fraction=0.1)", run_name="expanding"))


def test_meta_learning_makes_new_tasks_easier(bilevel: RunConfig) -> None:
    config = bilevel.changed(problem="meta_learning(num_shots=2, num_queries=8)", num_clients=8)
    early, late = (
        read_rounds(serve(config.changed(num_rounds=number, evaluate_every=number, run_name=f"until-{number}")))
        for number in (1, 12)
    )
    assert late["accuracy"].iloc[-1] > early["accuracy"].iloc[-1] + 0.05
    few = config.changed(num_clients=60, clients_per_round=3, run_name="few", num_rounds=1)
    with pytest.raises(QuorumError, match=r"classes have so many\. Give a client more examples"):
        serve(few)


@pytest.mark.sweep(quick=lambda lower: lower == "global")
@pytest.mark.parametrize(
    ("scheme", "lower", "left"), [("rabo", "global", 1e-5), ("rabo", "personal", 1e-5), ("fednest", "global", 0.02)]
)
def test_the_quadratics_hypergradient_vanishes(bilevel: RunConfig, scheme: str, lower: str, left: float) -> None:
    config = bilevel.changed(
        problem=f"quadratic(num_clients=3, lower='{lower}', heterogeneity=0.5)",
        scheme=scheme,
        local_steps=1,
        tiers="full:1:1",
        outer_learning_rate=0.2,
        num_rounds=140,
        evaluate_every=140,
    )
    norms = read_rounds(serve(config))["hypergradient_norm"].dropna()
    start = quadratic(3, heterogeneity=0.5, lower=lower).hypergradient(torch.zeros(12, dtype=torch.float64)).norm()  # type: ignore[arg-type]
    assert start > 0.5
    assert norms.iloc[-1] < left * float(start)


@pytest.mark.parametrize("lower", ["global", "personal"])
def test_steps_that_diverge_on_the_clients_end_in_a_named_error(
    bilevel: RunConfig, lower: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So fast that no reply is finite, and the server never sees a v."""
    (tmp_path / "concave.py").write_text(CONCAVE.format(ridge=0.01, lower=lower))
    config = bilevel.changed(problem=f"{tmp_path / 'concave.py'}:problem", learning_rate=30.0, local_steps=30)
    with pytest.raises(NotStronglyConvexError, match="Try strong_convexity = "):
        serve(config)
    convex = bilevel.changed(
        problem=f"hyper_representation(lower='{lower}')", learning_rate=3e4, local_steps=30, run_name="long-steps"
    )
    with pytest.raises(DivergenceError, match="Take shorter steps"):
        serve(convex)


def test_what_was_held_before_a_resume_counts(bilevel: RunConfig) -> None:
    """The one wide client has been there, the run stops in a later round without it, and goes on."""
    config = bilevel.changed(num_rounds=20, clients_per_round=1, quorum=1, tiers="small:0.5:0.67,full:1.0:0.33")
    config = load_config(None, {**config.to_flower(), "run_name": "cut"})

    def stop(row: Mapping[str, Any]) -> None:
        if row["outer_never_held"] == 0 and row["coverage_outer_min"] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    missed = execute(load_run(Path(config.output.runs_dir) / "cut")).rounds["outer_never_held"].tolist()
    assert len(missed) == 20
    assert set(missed[missed.index(0) :]) == {0}


def test_a_local_step_takes_four_first_order_backward_passes(
    bilevel: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[bool] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(options.get("create_graph", False))
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    serve(bilevel.changed(num_rounds=2, local_steps=3))
    num_rounds, num_clients, num_steps = 2, 3, 3
    assert passes == [False] * (4 * num_rounds * num_clients * num_steps)


def test_the_problem_in_the_docs_learns(bilevel: RunConfig, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/bilevel.md").read_text()
    (tmp_path / "own.py").write_text(page.split("```python\n")[1].split("```")[0])
    config = bilevel.changed(problem=f"{tmp_path / 'own.py'}:problem", local_steps=5)
    directory = serve(config)
    assert read_rounds(directory)["accuracy"].iloc[-1] > 0.6
    clients = read_clients(directory)
    assert (clients["num_parameters"] == 3 * 640 * clients["width"]).all()


OWN = """
import torch
from fl_mlmc.bilevel import BilevelProblem
from fl_mlmc.submodels import Axis, WidthSpec

class Data:  # ridge regression, whose penalty x is learned
    num_examples = 10

    def __init__(self, shard):
        generator = torch.Generator().manual_seed(shard.client)
        self.a, self.b = torch.randn(20, 4, generator=generator), torch.randn(20, generator=generator)

    def inner(self, rng):
        return self.a[:10], self.b[:10]

    def outer(self, rng):
        return self.a[10:], self.b[10:]

def fit(x, y, batch):
    return (batch[0] @ y["weights"] - batch[1]).square().mean()

spec = WidthSpec({"inputs": 4}, {"weights": (4,)}, {"weights": (Axis("inputs"),)})
problem = BilevelProblem(
    outer_loss=fit,
    inner_loss=lambda x, y, batch: fit(x, y, batch) + (x["weights"].exp() * y["weights"].square()).sum(),
    outer_spec=spec,
    inner_spec=spec,
    sliced=False,
    data=Data,
    evaluate=lambda x, y, features, labels: {"mean_penalty": float(x.exp().mean())},
)
"""


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_users_own_file_is_found_from_the_folder_it_lies_in(
    bilevel: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    (tmp_path / "own_problem.py").write_text(OWN)
    with monkeypatch.context() as here:
        here.chdir(tmp_path)
        config = bilevel.changed(problem="own_problem:problem", tiers="full:1:1", learning_rate=0.1, engine=engine)
        config = load_config(None, config.to_flower())
    found = execute(config).rounds["mean_penalty"]
    assert found.nunique() == 3
    assert found.iloc[-1] == pytest.approx(1.0, abs=0.5)


WHOLE_HEAD = """
from fl_mlmc.bilevel import cut_only
from fl_mlmc.bilevel.tasks import hyper_representation

def problem(model):
    return cut_only(hyper_representation(model), "outer")
"""

CONCAVE = """
import dataclasses
from fl_mlmc.bilevel.tasks import hyper_representation
from fl_mlmc.training.threads import threads

def problem(model):
    plain = hyper_representation(model, strong_convexity={ridge}, lower='{lower}')
    def inner(x, y, batch):
        return plain.inner_loss(x, y, batch) - sum(part.square().sum() for part in y.values())
    return dataclasses.replace(plain, inner_loss=inner)
"""


def test_a_users_own_problem_that_is_not_convex_ends_in_a_named_error(
    bilevel: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "concave_problem.py").write_text(CONCAVE.format(ridge=0.01, lower="global"))
    config = bilevel.changed(problem="concave_problem:problem", learning_rate=0.05, num_rounds=20)
    with pytest.raises(NotStronglyConvexError, match="Try strong_convexity = "):
        serve(config)
    header = json.loads((Path(config.output.runs_dir) / config.output.run_name / "run.json").read_text())
    assert header["status"].startswith("failed: NotStronglyConvexError: the inner loss is not strongly convex")
    (tmp_path / "ridged_problem.py").write_text(CONCAVE.format(ridge=4.5, lower="global"))
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
        ({"scheme": "rabo(proxskip(step=0.1, probability=0.5))"}, "proxskip asks for gradients of its own"),
        ({"scheme": "rabo(uploads=penalty)"}, "uploads of rabo is a scheme"),
        ({"scheme": "rafbo(estimator=ef21)"}, "estimator of rafbo is one of finite_difference, penalty, exact"),
        ({"scheme": "rafbo(steps=3)"}, "no option 'steps'; its options: uploads, estimator"),
        ({"scheme": "rafbo(estimator=penalty(delta=0))"}, "delta is above 0"),
    ],
)
def test_configs_that_do_not_go_together_are_refused(
    bilevel: RunConfig, changes: dict[str, str | float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        bilevel.changed(**changes)


def test_fednest_with_a_personal_part_is_refused(bilevel: RunConfig) -> None:
    with pytest.raises(ValueError, match="fednest takes turns on a shared x and y"):
        serve(bilevel.changed(problem="hyper_representation(lower='personal')", scheme="fednest"))
    assert not Path(bilevel.output.runs_dir).exists()


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("cleaning", "known: hyper_cleaning, hyper_representation, log_ridge, meta_learning, quadratic"),
        ("quadratic", "stated for 8 clients, num-clients is 3"),
        ("hyper_cleaning(wrong_share=1.5)", "wrong_share lies in"),
        ("hyper_representation(cut='x')", "cut is 'both', 'outer' or 'inner'"),
        ("log_ridge(width=3)", "its options: strong_convexity, start"),
        ("fl_mlmc.bilevel.problems:PROBLEMS", "expected a BilevelProblem"),
    ],
)
def test_problems_that_a_run_cannot_have_are_refused(bilevel: RunConfig, problem: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        serve(bilevel.changed(problem=problem))
    assert not Path(bilevel.output.runs_dir).exists()


def test_a_devices_uplink_budget_holds_for_bilevel_updates_too(
    bilevel: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_this_node = client_app._on_this_node
    monkeypatch.setattr(client_app, "_on_this_node", lambda *asked: replace(on_this_node(*asked), uplink_budget=300))
    clients = execute(bilevel.changed(compressor="MLMC(TopK(fraction=0.5))", num_rounds=1)).clients
    assert clients["payload_bytes"].between(150, 300).all()
    assert (clients["compressor"] != "MLMC(TopK(fraction=0.5))").all()
    with pytest.raises(RunFailed, match=r"over the uplink-budget of 300, and Natural\(\) has no fraction to choose"):
        execute(bilevel.changed(num_rounds=1, compressor="Natural()", run_name="dense"))
