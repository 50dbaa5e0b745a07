"""The figures of arXiv 2507.05508 in shape, with tuned rivals: accuracy against bits and against steps.

    python benchmarks/paper.py DIR/fashion_mnist --csv docs/results/paper.csv --figures docs/results [--minutes 7]

Every method gets the same grid of step sizes at seed 0; the one with the best final accuracy then runs at two more
seeds. A row of the CSV is one evaluation of one run, bits are the bytes of the payloads. A run is that of the scenario
(simulations/scenarios/paper) with the two sides in one loop: same draws, a few times as fast. Runs that the CSV holds
are skipped, so a command that `--minutes` or a signal ended goes on where it stood. Needs no GPU.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from fl_mlmc.aggregation import Mean, ServerOptimizer
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.finder import Features
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.models import Model, build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.rng import stream
from fl_mlmc.schemes import Round, Turn
from fl_mlmc.simulations.app.launch import load_config
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.submodels.flat import load_vector, to_vector
from fl_mlmc.theory.bench import Gathered
from fl_mlmc.training.local import train
from fl_mlmc.training.threads import threads

SCENARIOS = Path(__file__).parents[1] / "simulations" / "scenarios" / "paper"
SEEDS = (0, 1, 2)
GRIDS = {"sgd": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "adamw": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
PLAIN = "SGD"


@dataclass(frozen=True)
class Method:
    """A line of a figure."""

    figure: str
    label: str
    compressor: str
    scheme: str = "direct"
    server: str = "sgd"


def sparse(percent: float) -> list[Method]:
    """Algorithm 3 over Top-k and its rivals, all with as many entries a message."""
    figure, options = f"sparse {percent:g} %", f"fraction={percent / 100:g}"
    return [
        Method(figure, "MLMC-TopK", f"MLMC(TopK({options}))"),
        Method(figure, "TopK", f"TopK({options})"),
        Method(figure, "EF21-SGDM", f"TopK({options})", "ef21_sgdm"),
        Method(figure, "RandK", f"RandK({options})"),
    ]


METHODS = [
    Method("all", PLAIN, "Identity()"),
    *sparse(1),
    Method("bit planes", "MLMC-FixedPoint", "MLMC(FixedPoint(), 'fixed')"),
    Method("bit planes", "FixedPoint 2 bit", "FixedPoint(bits=1)"),  # a sign and one bit
    Method("bit planes", "QSGD 2 bit", "QSGD(levels=1)"),
    Method("bit planes", "TernGrad", "TernGrad()"),
    Method("rounding", "MLMC-RTN", "MLMC(RTN(bits=8))"),
    Method("rounding", "RTN 2 bit", "RTN(bits=2)"),
    Method("rounding", "stochastic 2 bit", "StochasticRounding(bits=2)"),
]
ADAMW = [replace(method, figure="AdamW", server="adamw(weight_decay=0.01)") for method in [METHODS[0], *sparse(5)]]
FINER = [
    Method("rounding", "RTN 4 bit", "RTN(bits=4)"),
    Method("rounding", "stochastic 4 bit", "StochasticRounding(bits=4)"),
]
LINES = {
    "mlp": [(clients, method) for clients in (4, 32) for method in METHODS + FINER + sparse(5) + ADAMW],
    "cnn": [(4, method) for method in METHODS[:5]],
}
PREFIXES = {"mlp": "", "cnn": "cnn-"}


@dataclass(frozen=True)
class Run:
    """One run: its line, and what sets it apart."""

    clients: int
    figure: str
    label: str
    compressor: str
    scheme: str
    server: str
    rate: float
    seed: int


KEY = list(Run.__dataclass_fields__)
LINE = ["clients", "figure", "label"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--model", choices=list(LINES), default="mlp", help="whose scenarios; each has its own CSV")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--figures", type=Path, help="folder for the pictures and the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = time.time() + 60 * arguments.minutes
    done, lines, prefix = _read(arguments.csv), LINES[arguments.model], PREFIXES[arguments.model]
    with ProcessPoolExecutor(arguments.workers, get_context("fork"), torch.set_num_threads, (1,)) as pool:
        jobs = [pool.submit(_line, prefix, *line, arguments.data_dir, done, end) for line in lines]
        for job in jobs:
            if len(rows := job.result()):
                rows.to_csv(arguments.csv, mode="a", index=False, header=not arguments.csv.exists())
    done = _read(arguments.csv)
    if any(_missing(clients, method, done) for clients, method in lines):
        print("runs are missing: the same command goes on")
    if arguments.figures:
        best = _chosen(pd.read_csv(arguments.csv))
        _table(best).to_csv(arguments.figures / f"paper-{prefix}table.csv", index=False)
        print(_table(best).to_string(index=False))
        for clients, shown in best.groupby("clients"):
            _draw(shown, arguments.figures / f"paper-{prefix}m{clients}.png")


def _read(csv: Path) -> pd.DataFrame:
    return pd.read_csv(csv) if csv.exists() else pd.DataFrame(columns=[*KEY, "accuracy"])


def _line(prefix: str, clients: int, method: Method, data_dir: Path, done: pd.DataFrame, end: float) -> pd.DataFrame:
    """The rows of a line's runs that `done` lacks, as far as they are started before `end`."""
    fresh: list[pd.DataFrame] = []
    while time.time() < end and (run := _missing(clients, method, pd.concat([done, *fresh]))):
        fresh.append(_measure(run, data_dir, prefix))
        print(f"{astuple(run)}: {fresh[-1]['accuracy'].iloc[-1]:.4f}", flush=True)
    return pd.concat(fresh) if fresh else pd.DataFrame()


def _missing(clients: int, method: Method, done: pd.DataFrame) -> Run | None:
    """The next run of a line that is not done; None if all are."""
    have = {Run(*row) for row in done[KEY].drop_duplicates().itertuples(index=False)}
    grid = [Run(clients, **asdict(method), rate=rate, seed=SEEDS[0]) for rate in GRIDS[method.server.partition("(")[0]]]
    for run in grid:
        if run not in have:
            return run
    best = replace(grid[0], rate=_best_rate(done[(done[LINE] == [clients, method.figure, method.label]).all(axis=1)]))
    return next((run for seed in SEEDS if (run := replace(best, seed=seed)) not in have), None)


def _best_rate(line: pd.DataFrame) -> float:
    """The step size with the best final accuracy at the first seed."""
    final = line[line["seed"] == SEEDS[0]].groupby("rate")["accuracy"].last()
    return float(final.idxmax())


def config_of(run: Run, data_dir: Path, prefix: str = "", **changes: int) -> RunConfig:
    """The federated run that a line stands for: `fl-mlmc run` of the scenario with these settings."""
    is_plain = run.server == "sgd"
    settings = {
        "data_dir": data_dir,
        "compressor": run.compressor,
        "scheme": run.scheme,
        "learning_rate": run.rate if is_plain else 1.0,
        "server_optimizer": run.server,
        "server_learning_rate": 1.0 if is_plain else run.rate,
        "seed": run.seed,
    }
    return load_config(SCENARIOS / f"{prefix}m{run.clients}.toml", {**settings, **changes})


def _measure(run: Run, data_dir: Path, prefix: str = "") -> pd.DataFrame:
    """The evaluations of one run, a row each; accuracy 0 at the end of a run that left the numbers."""
    rows = list(play(config_of(run, data_dir, prefix)))
    return pd.DataFrame([asdict(run)] * len(rows)).join(pd.DataFrame(rows).round(4))


def play(config: RunConfig) -> Iterator[dict[str, float]]:
    """The evaluations of `models`; accuracy 0 at the end of a run that left the numbers."""
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    module, (features, labels) = model.build(model.spec.units).eval(), map(torch.from_numpy, data.test())
    for number, vector, sent in models(config):
        row: dict[str, float] = {"round": number, "cumulative_uplink_bytes": sent}
        if not bool(vector.isfinite().all()):
            yield row | {"round": config.num_rounds, "loss": float("nan"), "accuracy": 0.0}
            return
        if number % config.output.evaluate_every == 0:
            load_vector(module, vector)
            with torch.inference_mode():
                logits = module(features)
            loss = float(torch.nn.functional.cross_entropy(logits, labels))
            yield row | {"loss": loss, "accuracy": float((logits.argmax(1) == labels).float().mean())}


def models(config: RunConfig, one_by_one: bool = False) -> Iterator[tuple[int, Tensor, int]]:
    """(round, model after it, bytes sent so far) of the run of `config`, without Flower between the two sides.

    Same draws, several times as fast, because all gradients are worked out in one call. That differs by rounding, which
    digits and signs magnify: they jump. `one_by_one` trains each client as the client app does, and the run is the
    federated one to the last bit. Ends with a model of NaN if clients find what is not finite.
    """
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    size, clients = model.spec.size, range(config.cohort.num_clients)
    scheme = config.resolved_scheme(size)
    optimizer = ServerOptimizer(config.aggregation.server_optimizer, config.aggregation.server_learning_rate, size)
    find = partial(_trained, model.build(model.spec.units)) if one_by_one else partial(_at_once, _gradients(model))
    # Memories are means over 1/n, updates alone weigh by examples.
    weights = [1.0 if scheme.has_memory else len(data.client_labels(client)) for client in clients]
    vector, sent = model.initial(config.seed), 0
    server, memories = scheme.init_server(vector.double()), [scheme.init_client(vector) for _ in clients]
    for number in range(1, config.num_rounds + 1):
        round = Round(config.seed, number, len(clients), len(clients))
        updates, gathered = find(config, data, vector, number), Gathered(size, scheme.num_messages)
        if not bool(updates.isfinite().all()):
            yield number, torch.full_like(vector, torch.nan), sent
            return
        for client in clients:
            turn = Turn(round, client, config.compression.uplink, stream(config.seed, "level", number, client))
            messages, memories[client] = scheme.encode(
                lambda point, sample=0, found=updates[client]: found, [vector], memories[client], turn
            )
            gathered.add(messages, None, weights[client])
            sent += sum(len(encode_payload(message.payload)) for message in messages)
        means = [mean.float().double() for mean in gathered.means()]  # as the server's fold gives them
        update, server = scheme.estimate(means, vector.double(), server, round)
        vector = optimizer.step(vector, Mean(update.float(), torch.ones(size, dtype=torch.int32)))
        yield number, vector, sent


def _at_once(
    gradients: Callable[[Tensor, Tensor, Tensor], Tensor],
    config: RunConfig,
    data: FederatedData,
    vector: Tensor,
    number: int,
) -> Tensor:
    """(M, size) the clients' updates of one step of SGD, from one call."""
    inputs, wanted = [], []
    for client in range(config.cohort.num_clients):
        labels = data.client_labels(client)
        rows = stream(config.seed, "batches", number, client).permutation(len(labels))[: config.training.batch_size]
        inputs.append(torch.from_numpy(data.client_features(client, rows)))
        wanted.append(torch.from_numpy(labels[rows]))
    found = gradients(vector, torch.stack(inputs), torch.stack(wanted))
    return (vector - config.training.learning_rate * found) - vector  # after − before, rounded as on a client


def _trained(module: nn.Module, config: RunConfig, data: FederatedData, vector: Tensor, number: int) -> Tensor:
    """The same by the clients' own trainer, one client after another."""
    updates = []
    for client in range(config.cohort.num_clients):
        load_vector(module, vector)
        labels = torch.from_numpy(data.client_labels(client))
        features = Features(data, client, torch.device("cpu"), np.arange(len(labels)))
        rng = stream(config.seed, "batches", number, client)
        with threads():
            train(module, features, labels, config.training, rng, server_round=number)
        updates.append(to_vector(module).sub_(vector))
    return torch.stack(updates)


def _gradients(model: Model) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(vector, inputs (M, B, …), labels (M, B)) to the M clients' gradients, (M, size)."""
    module = model.build(model.spec.units)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}

    def loss(vector: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        state = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(module, state, (inputs,)), labels)

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))


def _chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of every line that has all seeds, at its best step size."""
    lines = [line[line["rate"] == _best_rate(line)] for _, line in runs.groupby(LINE, sort=False)]
    return pd.concat([line for line in lines if line["seed"].nunique() == len(SEEDS)])


def _table(best: pd.DataFrame) -> pd.DataFrame:
    """Final accuracy (mean, least, largest over seeds) and megabytes a client of every line."""
    final = best.groupby([*LINE, "rate", "seed"], sort=False).last().reset_index()
    final["MB a client"] = final["cumulative_uplink_bytes"] / final["clients"] / 1e6
    grouped = final.groupby([*LINE, "rate"], sort=False)
    table = grouped["accuracy"].agg(["mean", "min", "max"]).join(grouped["MB a client"].mean()).reset_index()
    return table.round(4)


def _draw(best: pd.DataFrame, path: Path) -> None:
    """Accuracy against steps (above) and megabits a client (below), a column a figure; bands span the seeds."""
    names = [name for name in best["figure"].unique() if name != "all"]
    figure = Figure(figsize=(3.4 * len(names), 6), layout="constrained")
    axes = figure.subplots(2, len(names), sharey=True, squeeze=False)
    for column, name in enumerate(names):
        shown = best[best["figure"].isin([name] if name == "AdamW" else ["all", name])]
        for number, (label, line) in enumerate(shown.groupby("label", sort=False)):
            for row, horizontal in enumerate(("round", "megabits")):
                megabits = 8e-6 * line["cumulative_uplink_bytes"] / line["clients"]
                grouped = line.assign(megabits=megabits).groupby("round")
                means, color = grouped.mean(numeric_only=True), f"C{number}" if label != PLAIN else "0.4"
                where = means.index if horizontal == "round" else means["megabits"]
                axes[row, column].plot(where, means["accuracy"], color=color, label=label, linewidth=1.5)
                low, high = grouped["accuracy"].min(), grouped["accuracy"].max()
                axes[row, column].fill_between(where, low, high, color=color, alpha=0.2, linewidth=0)
        axes[0, column].set(title=name, xlabel="step")
        axes[1, column].set(xlabel="Mbit a client", xscale="log")
        axes[0, column].legend(fontsize=7, loc="lower right")
    for row in axes:
        row[0].set(ylabel="test accuracy", ylim=(0.1, 0.9))
    for each in axes.flat:
        each.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
