"""Bilevel runs in the federated harness: unequal clients against full models, other methods, and wrong labels.

    python benchmarks/bilevel.py representation CSV [--data DIR] [--runs NAME …] [--seeds 0 1 2] [--minutes 7]
    python benchmarks/bilevel.py cleaning CSV [--data DIR] [--seeds 0 1 2]
    python benchmarks/bilevel.py table CSV

`--data` is a folder of Parquet files, such as Fashion-MNIST's; scikit-learn's digits without it. Rows are added to
the CSV one by one: what it has is not run again, and after `--minutes` no further run is begun. `table` prints the
means and standard deviations over seeds as Markdown.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from fl_mlmc.bilevel import BilevelProblem, Shard
from fl_mlmc.bilevel.run import data_of, first_point, held_of, method_of, num_steps_of, problem_of
from fl_mlmc.bilevel.tasks import CleaningRows, detection_auc
from fl_mlmc.clients.bilevel_client import PERSONAL
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.memory import ClientMemory
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.launch import RunResult, execute, load_config
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.strategies.tiered import MEMORIES

Settings = Mapping[str, Any]

COMMON: Settings = {"engine": "local", "device": "cpu", "task": "bilevel", "batch_size": 32, "evaluate_every": 10_000}
TIERS = {"tiers": "sensor:0.25:0.34,phone:0.5:0.33,gateway:1.0:0.33", "least_coverage": 1}
"""The full model is on every third client; each coordinate on one of the cohort at least."""

DIGITS: Settings = {"model": "mlp(hidden=(200, 200))", "num_clients": 12, "clients_per_round": 6, "num_rounds": 60}
FASHION: Settings = {
    "model": "cnn(conv=(12, 24), dense=64)",
    "num_clients": 30,
    "clients_per_round": 6,
    "num_rounds": 50,
    "learning_rate": 0.2,
}
STEPS: Settings = {
    "problem": "hyper_representation(strong_convexity=0.01)",
    "local_steps": 5,
    "outer_learning_rate": 0.3,
    "learning_rate": 0.5,
}
RABO_ROUNDS = 5
"""Rounds of one step for a round of five, so that all methods make equally many steps."""

RUNS: Mapping[str, Settings] = {
    "SimFBO": {"scheme": "rafbo"},
    "RAFBO, tiers": {"scheme": "rafbo", **TIERS},
    "RAFBO, tiers, MLMC": {"scheme": "rafbo", **TIERS, "compressor": "MLMC(TopK(fraction=0.05))"},
    "RAFBO, tiers, EF21": {"scheme": "rafbo(uploads=ef21)", **TIERS, "compressor": "TopK(fraction=0.05)"},
    "RAFBO, tiers, penalty": {"scheme": "rafbo(estimator=penalty(delta=0.1))", **TIERS},
    "only x cut": {
        "scheme": "rafbo",
        **TIERS,
        "problem": "hyper_representation(strong_convexity=0.01, cut='outer')",
    },
    "only y cut": {
        "scheme": "rafbo",
        **TIERS,
        "problem": "hyper_representation(strong_convexity=0.01, cut='inner')",
    },
    "FedBiO": {"scheme": "rafbo(estimator=exact)"},
    "FedNest": {"scheme": "fednest", "outer_learning_rate": 0.1, "learning_rate": 0.2},
    "RABO, full": {"scheme": "rabo"},
    "RABO, tiers": {"scheme": "rabo", **TIERS},
    "C-SOBA": {"scheme": "rabo", "compressor": "QSGD(levels=8)"},
    "C-SOBA, error feedback": {"scheme": "rabo(uploads=ef21_sgdm)", "compressor": "TopK(fraction=0.05)"},
}

CLEANING: Settings = {
    "model": "mlp(hidden=())",
    "scheme": "rafbo",
    "num_clients": 5,
    "clients_per_round": 5,
    "num_rounds": 80,
    "local_steps": 5,
    "batch_size": 64,
    "outer_share": 0.2,
    "outer_learning_rate": 100.0,
    "learning_rate": 0.3,
}


def representation(data: Settings, seed: int, names: list[str]) -> Iterator[tuple[str, Settings]]:
    """Hyper-representation by every method."""
    size = FASHION if data else DIGITS
    for name in names or RUNS:
        own = {**COMMON, **STEPS, **size, **data, **RUNS[name], "seed": seed}
        rounds = own["num_rounds"] * (RABO_ROUNDS if own["scheme"].startswith("rabo") else 1)
        yield name, {**own, "num_rounds": rounds}


CLEAN_ALONE = "clean examples alone"
"""The baseline of hyper-cleaning: what the clean examples teach without the others."""


def cleaning(data: Settings, seed: int, names: list[str]) -> Iterator[tuple[str, Settings]]:
    """A linear model on labels of which 40 % are wrong: all weights at one, learned ones, the clean examples alone."""
    for name, start in (("plain training", 20.0), ("hyper-cleaning", 0.0), (CLEAN_ALONE, 0.0)):
        problem = f"hyper_cleaning(strong_convexity=0.003, wrong_share=0.4, start={start})"
        yield name, {**COMMON, **CLEANING, **data, "problem": problem, "seed": seed}


def figures(settings: Settings) -> dict[str, Any]:
    """Run a setting; what it reached, and what it cost all clients together."""
    with tempfile.TemporaryDirectory() as directory:
        config = load_config(None, {**settings, "runs_dir": directory, "run_name": "run"})
        result = execute(config)
        last = result.rounds.iloc[-1]
        return {
            "rounds": config.num_rounds,
            "accuracy": last["accuracy"],
            "auc": _auc(config, result),
            "gigaflops": _flops(config, result) / 1e9,
            "uplink_megabytes": result.rounds["uplink_bytes"].sum() / 1e6,
            "downlink_megabytes": result.rounds["downlink_bytes"].sum() / 1e6,
            "coverage_outer_min": result.rounds["coverage_outer_min"].min(),
        }


def clean_alone(settings: Settings) -> dict[str, Any]:
    """The accuracy of the same model with the same ridge, fitted to the clients' clean examples alone.

    They are put together in one place, which no federation is allowed to, and the fit is the exact minimum: an upper
    bound of what training on them in rounds could reach.
    """
    config = load_config(None, settings)
    data, problem = _opened(config)
    clean = [own.clean for own in _cleaning_rows(config, data, problem)]
    few, truth = torch.cat([part.features for part in clean]), torch.cat([part.labels for part in clean])
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    module = model.build(model.spec.units)
    optimizer = torch.optim.LBFGS(
        module.parameters(), max_iter=1000, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        ridge = sum(tensor.square().sum() for tensor in module.parameters())
        loss = cross_entropy(module(few), truth) + problem.strong_convexity / 2 * ridge
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    features, labels = map(torch.from_numpy, data.test())
    with torch.no_grad():
        hits = module(features).argmax(dim=1) == labels
    return {"rounds": 0, "accuracy": float(hits.double().mean())}


def _flops(config: RunConfig, result: RunResult) -> float:
    """Of the clients' local steps, by torch's counter on one client of each width."""
    data, problem = _opened(config)
    features, labels = map(torch.from_numpy, data.client(0))
    own = data_of(
        problem, Shard(0, features, labels, config.seed, config.training.outer_share, config.training.batch_size)
    )

    @lru_cache
    def of(width: float, server_round: int) -> float:
        held = held_of(config, problem, own, width, 1, 0)
        point = held.gather(first_point(config, held.problem, config.seed))
        with FlopCounterMode(display=False) as counter:
            method_of(config, own.num_examples, server_round).client(held, point, own, np.random.default_rng(0))
        return counter.get_total_flops()

    is_phased = config.compression.scheme == "fednest"
    rows = zip(result.clients["width"], result.clients["round"], result.clients["num_examples"], strict=True)
    steps = num_steps_of(config, own.num_examples)
    return sum(
        of(width, (number - 1) % 3 + 1 if is_phased else 1) / steps * num_steps_of(config, count)
        for width, number, count in rows
    )


def _auc(config: RunConfig, result: RunResult) -> float | None:
    """Of the clients' learned weights, as a detector of wrong labels."""
    data, problem = _opened(config)
    if problem.outer == "global":
        return None
    weights, is_wrong = [], []
    for client, own in enumerate(_cleaning_rows(config, data, problem)):
        assert own.is_wrong is not None
        memory = ClientMemory(result.directory / MEMORIES / PERSONAL, client)
        last = int(result.clients.loc[result.clients["client"] == client, "round"].max())
        weights.append(memory.load(last, torch.empty(len(own.is_wrong)))["x"])
        is_wrong.append(own.is_wrong)
    return detection_auc(torch.cat(weights), torch.cat(is_wrong))


def _opened(config: RunConfig) -> tuple[FederatedData, BilevelProblem]:
    data = FederatedData.open(prepare_data(config))
    return data, problem_of(config, data.spec.input_shape, data.spec.num_classes)


def _cleaning_rows(config: RunConfig, data: FederatedData, problem: BilevelProblem) -> Iterator[CleaningRows]:
    """Each client's noisy and clean examples, as in the run."""
    for client in range(config.cohort.num_clients):
        features, labels = map(torch.from_numpy, data.client(client))
        shard = Shard(client, features, labels, config.seed, config.training.outer_share, config.training.batch_size)
        own = data_of(problem, shard)
        assert isinstance(own, CleaningRows)
        yield own


def table(rows: pd.DataFrame) -> str:
    """Means and standard deviations over seeds, as Markdown."""
    lines = [
        "| data | run | seeds | rounds | accuracy | AUC | client GFLOPs | uplink MB | downlink MB |",
        "|---" * 9 + "|",
    ]
    for (data, run), group in rows.groupby(["data", "run"], sort=False):
        accuracy = 100 * group["accuracy"]
        spread = f" ± {accuracy.std():.1f}" if len(group) > 1 else ""
        auc = "" if group["auc"].isna().all() else f"{group['auc'].min():.3f}–{group['auc'].max():.3f}"
        means = (group[name].mean() for name in ("gigaflops", "uplink_megabytes", "downlink_megabytes"))
        costs = ("" if np.isnan(mean) else f"{mean:.4g}" for mean in means)
        cells = [data, run, len(group), group["rounds"].iloc[0], f"{accuracy.mean():.1f}{spread}", auc, *costs]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["representation", "cleaning", "table"])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", nargs="*", default=[], choices=list(RUNS), metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=7.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * arguments.minutes
    done = pd.read_csv(arguments.csv) if arguments.csv.exists() else pd.DataFrame()
    if arguments.task == "table":
        print(table(done))
        return
    data = {"data_dir": arguments.data} if arguments.data else {}
    where = arguments.data.name if arguments.data else "digits"
    task = representation if arguments.task == "representation" else cleaning
    for seed in arguments.seeds:
        for name, settings in task(data, seed, arguments.runs):
            key = {"data": where, "run": name, "seed": seed}
            if len(done) and (done[list(key)] == list(key.values())).all(axis=1).any():
                continue
            if time.monotonic() > end:
                return
            row = {**key, **(clean_alone(settings) if name == CLEAN_ALONE else figures(settings))}
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(arguments.csv, index=False)
            print(
                " | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()),
                flush=True,
            )


if __name__ == "__main__":
    main()
