"""Unequal clients against equal ones, with and without compression: the table of docs/results.md.

    python benchmarks/heterofl.py DATA_DIR --csv FILE [--rounds 30] [--seeds 0 1 2] [--set KEY=VALUE …]
    python benchmarks/heterofl.py DATA_DIR --omega [--rounds 8] [--set KEY=VALUE …]

Five tiers a to e keep 1, 1/2, 1/4, 1/8 and 1/16 of every hidden dimension (HeteroFL, arXiv 2010.01264). Every mix is
run with whole updates and with compressed ones, and its final model is evaluated at each tier's width. Runs are added
to FILE as they end and skipped where it has them, so a job that was cut off goes on; the table is of all of FILE.

`--omega` asks for the cause instead: what a compressor's variance is, E‖C(v) − v‖² / ‖v‖², on updates of clients that
train from the model after some rounds, and by what factor it shortens them.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fl_mlmc import parse
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.finder import Finder
from fl_mlmc.models import build_model
from fl_mlmc.models.norms import fill_statistics
from fl_mlmc.run.log import RUN
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.cli import parse_setting
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector

WIDTHS = {"a": 1.0, "b": 0.5, "c": 0.25, "d": 0.125, "e": 0.0625}
MIXES = {
    "a-b-c-d-e": ",".join(f"{name}:{width}:0.2" for name, width in WIDTHS.items()),
    "all e": "e:0.0625:1",
    "all a": "a:1:1",
}
COMPRESSORS = {
    "whole": "Identity()",
    "MLMC, digits": 'MLMC(FixedPoint(unit=2.0), "fixed")',
    "MLMC, Top-k": "MLMC(TopK(fraction=0.04))",
}
CANDIDATES = [
    COMPRESSORS["MLMC, Top-k"],
    'Systematic(fraction=0.07, values="bfloat16")',
    "MLMC(ECUQ(bits=4))",
    "MLMC(FixedPoint(), 'fixed')",
    "StochasticRounding(bits=4)",
    COMPRESSORS["MLMC, digits"],
]
SETTING: Mapping[str, bool | int | float | str] = {
    "engine": "ray",
    "num_clients": 100,
    "clients_per_round": 10,
    "partition": "iid",
    "model": 'cnn(conv=(16, 32, 64), dense=0, norm="static", scaler=True)',
    "local_steps": 30,
    "batch_size": 20,
    "learning_rate": 0.05,
    "client_optimizer": "sgd(momentum=0.9, weight_decay=5e-4)",
    "evaluate_every": 1000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--omega", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = {**SETTING, "num_rounds": arguments.rounds, "data_dir": arguments.data_dir}
    settings |= dict(map(parse_setting, arguments.set))
    if arguments.omega or not arguments.csv:
        if not arguments.omega:
            parser.error("say where to keep the runs: --csv FILE, or ask for --omega")
        print(variances(settings | {"tiers": MIXES["a-b-c-d-e"]}))
        return
    rows = pd.read_csv(arguments.csv).to_dict("records") if arguments.csv.exists() else []
    done = {(row["tiers"], row["updates"], row["seed"]) for row in rows}
    runs = arguments.csv.with_suffix(".runs")
    for seed in arguments.seeds:
        for mix, name in product(MIXES, COMPRESSORS):
            if (mix, name, seed) in done:
                continue
            own = {"tiers": MIXES[mix], "compressor": COMPRESSORS[name], "seed": seed}
            row = figures(settings | own | {"runs_dir": runs, "run_name": f"{mix} {name} {seed}"})
            rows.append({"tiers": mix, "updates": name, "seed": seed, **row})
            pd.DataFrame(rows).to_csv(arguments.csv, index=False)
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    shutil.rmtree(runs, ignore_errors=True)
    print(table(pd.DataFrame(rows)))


def table(runs: pd.DataFrame) -> str:
    """Markdown: mean ± half the spread over seeds of the accuracies, and what was sent."""
    lines = ["| tiers | updates | seeds | " + " | ".join(f"{name} ({width:g})" for name, width in WIDTHS.items())]
    lines[0] += " | mean parameters | uplink MB | ratio |"
    lines.append("|---|---|" + "---:|" * (len(WIDTHS) + 4))
    whole = runs[runs["updates"] == "whole"].groupby("tiers")["uplink MB"].mean()
    for (mix, name), group in runs.groupby(["tiers", "updates"], sort=False):
        parts = []
        for tier in WIDTHS:
            seen = 100 * group[f"accuracy {tier}"]
            spread = f" ± {(seen.max() - seen.min()) / 2:.1f}" if len(seen) > 1 else ""
            parts.append(f"{seen.mean():.1f}{spread}")
        uplink = group["uplink MB"].mean()
        parts += [f"{group['mean parameters'].mean():,.0f}", f"{uplink:.3g}", f"{whole[mix] / uplink:.1f} ×"]
        lines.append(f"| {mix} | {name} | {len(group)} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def figures(settings: Mapping[str, bool | int | float | str | Path]) -> dict[str, float]:
    """Run a setting, or go on with it; accuracy at every width, mean parameters of a client and uplink bytes."""
    directory = Path(settings["runs_dir"]) / str(settings["run_name"])
    config = load_run(directory) if (directory / RUN).exists() else load_config(None, settings)
    result = execute(config)
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    vector = torch.from_numpy(np.concatenate([array.ravel() for array in result.arrays.values()]))
    features, labels = map(torch.from_numpy, data.test())
    seen = torch.from_numpy(data.train()[0][:10_000])
    row = {}
    for name, width in WIDTHS.items():
        own = plan(model.spec, "nested", width)
        module = model.build(own.units)
        load_vector(module, own.gather(vector))
        fill_statistics(module, seen.split(1000))
        with torch.inference_mode():
            logits = torch.cat([module(part) for part in features.split(1000)])
        row[f"accuracy {name}"] = round(float((logits.argmax(1) == labels).float().mean()), 4)
    row["mean parameters"] = round(result.clients["num_parameters"].mean())
    row["uplink MB"] = round(result.clients["payload_bytes"].sum() / 1e6, 3)
    return row


def variances(settings: Mapping[str, bool | int | float | str | Path]) -> str:
    """Markdown: ω of each compressor and the ratio of bytes, at every width, the mean over five clients."""
    with tempfile.TemporaryDirectory() as runs:
        config = load_config(None, settings | {"runs_dir": runs})
        arrays = execute(config).arrays.values()
    data = prepare_data(config)
    examples = FederatedData.open(data)
    model = build_model(config.training.model, examples.spec.input_shape, examples.spec.num_classes)
    vector = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    rng = np.random.default_rng(0)
    lines = ["| compressor | " + " | ".join(f"{name} ({width:g})" for name, width in WIDTHS.items()) + " |"]
    lines.append("|---|" + "---:|" * len(WIDTHS))
    updates: dict[str, list[torch.Tensor]] = {name: [] for name in WIDTHS}
    for name, width in WIDTHS.items():
        own = plan(model.spec, "nested", width)
        for client in range(5):
            task = TrainTask(config.num_rounds + 1, client, name, width, str(data))
            updates[name].append(Finder(task, config, examples).update(own.gather(vector)))
    for text in CANDIDATES:
        compressor = parse(text)
        parts = []
        for held in updates.values():
            omega = np.mean([compressor.omega(update) for update in held])
            num_bytes = np.mean([len(compressor.encode(update, rng)) for update in held for _ in range(20)])
            parts.append(f"{omega:.2g} at {4 * held[0].numel() / num_bytes:.0f} ×")
        lines.append(f"| `{text}` | " + " | ".join(parts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
