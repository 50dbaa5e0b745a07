"""Unequal clients against equal ones, with and without compression: the table of docs/results.md.

    python benchmarks/heterofl.py DATA_DIR --csv FILE [--rounds 30] [--seeds 0 1 2] [--set KEY=VALUE …]

Five tiers a to e keep 1, 1/2, 1/4, 1/8 and 1/16 of every hidden dimension (HeteroFL, arXiv 2010.01264). Every mix is
run with whole updates and with compressed ones, and its final model is evaluated at each tier's width. Runs are added
to FILE as they end and skipped where it has them, so a job that was cut off goes on; the table is of all of FILE.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clients.data import FederatedData
from fl_mlmc.models import build_model
from fl_mlmc.models.base import load_vector
from fl_mlmc.models.norms import fill_statistics
from fl_mlmc.submodels import plan
from simulations.cli import parse_setting
from simulations.launch import execute, load_config
from simulations.server_app import prepare_data

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
ARMS = [(mix, name) for mix in MIXES for name in COMPRESSORS if name != "MLMC, Top-k" or mix == "a-b-c-d-e"]
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
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = {**SETTING, "num_rounds": arguments.rounds, "data_dir": arguments.data_dir}
    settings |= dict(map(parse_setting, arguments.set))
    rows = pd.read_csv(arguments.csv).to_dict("records") if arguments.csv.exists() else []
    done = {(row["tiers"], row["updates"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as runs:
        for seed in arguments.seeds:
            for mix, name in ARMS:
                if (mix, name, seed) in done:
                    continue
                own = {"tiers": MIXES[mix], "compressor": COMPRESSORS[name], "seed": seed, "runs_dir": runs}
                row = figures(settings | own | {"run_name": f"{mix} {name} {seed}"})
                rows.append({"tiers": mix, "updates": name, "seed": seed, **row})
                pd.DataFrame(rows).to_csv(arguments.csv, index=False)
                print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    print(table(pd.DataFrame(rows)))


def table(runs: pd.DataFrame) -> str:
    """Markdown: mean ± half the spread over seeds of the accuracies, and what was sent."""
    lines = ["| tiers | updates | " + " | ".join(f"{name} ({width:g})" for name, width in WIDTHS.items())]
    lines[0] += " | mean parameters | uplink MB | ratio |"
    lines.append("|---|---|" + "---:|" * (len(WIDTHS) + 3))
    whole = runs[runs["updates"] == "whole"].groupby("tiers")["uplink MB"].mean()
    for (mix, name), group in runs.groupby(["tiers", "updates"], sort=False):
        parts = []
        for tier in WIDTHS:
            seen = 100 * group[f"accuracy {tier}"]
            parts.append(f"{seen.mean():.1f} ± {(seen.max() - seen.min()) / 2:.1f}")
        uplink = group["uplink MB"].mean()
        parts += [f"{group['mean parameters'].mean():,.0f}", f"{uplink:.3g}", f"{whole[mix] / uplink:.1f} ×"]
        lines.append(f"| {mix} | {name} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


def figures(settings: Mapping[str, bool | int | float | str | Path]) -> dict[str, float]:
    """Run a setting; accuracy at every width, mean parameters of a client and uplink bytes."""
    config = load_config(None, settings)
    result = execute(config)
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.model, data.spec.input_shape, data.spec.num_classes)
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


if __name__ == "__main__":
    main()
