"""What travels when a small language model is fine-tuned on unequal devices, and what it learns.

    python benchmarks/lora.py MINILM_DIR REVIEWS_DIR                    # bytes: two minutes
    python benchmarks/lora.py MINILM_DIR REVIEWS_DIR --rounds 60 --seeds 0 1 2 --csv docs/results/lora.csv

MINILM_DIR holds config.json, model.safetensors and vocab.txt of all-MiniLM-L6-v2, REVIEWS_DIR train.parquet and
test.parquet with columns text and label. A client takes `--steps` steps of Adam on 16 reviews of 32 tokens.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fl_mlmc.simulations.app.launch import run

BASE = "transformer(weights={weights!r})"
TARGETS = "targets=('query', 'value'), alpha=16"
EQUAL, MIXED = "all:1.0:1.0", "phone:0.25:0.34,tablet:0.5:0.33,laptop:1.0:0.33"
COMPRESSORS = {
    "float32": "Identity()",
    "MLMC over Top-k 5 %, dithered": "MLMC(TopK(fraction=0.05), values=Dither(unit=1.0))",
    "dithered": "Dither(unit=2.0)",
    "Rand-k 10 %, dithered": "RandK(fraction=0.1, values=Dither(unit=2.0))",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minilm", type=Path)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--rounds", type=int, default=1, help="1: bytes alone are asked for, and two steps are enough")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        for row in runs(arguments, seed):
            rows.append(row)
            print(pd.DataFrame([row]).to_string(index=False, header=len(rows) == 1), flush=True)
    table = pd.DataFrame(rows).groupby(["model", "tiers", "compressor"], sort=False).mean(numeric_only=True)
    print(table.drop(columns="seed").to_markdown(floatfmt=",.3f") if len(arguments.seeds) > 1 else "")
    if arguments.csv:
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)


def runs(arguments: argparse.Namespace, seed: int) -> Iterator[dict[str, object]]:
    """A row for every way of training, the dense model last: it takes longest."""
    base = BASE.format(weights=str(arguments.minilm.absolute()))
    lora = {rank: f"lora({base}, rank={rank}, {TARGETS})" for rank in (2, 8)}
    frozen_a = lora[8].replace("alpha=16", "alpha=16, freeze_a=True")
    ways = [("rank 8", lora[8], EQUAL, name) for name in COMPRESSORS]
    ways += [("ranks 2, 4, 8", lora[8], MIXED, name) for name in list(COMPRESSORS)[:2]]
    ways += [("rank 8, A frozen", frozen_a, EQUAL, "float32"), ("rank 2", lora[2], EQUAL, "float32")]
    ways += [("all of MiniLM", base, EQUAL, name) for name in list(COMPRESSORS)[:2]]
    for name, model, tiers, compressor in ways:
        yield one(arguments, seed, name, model, tiers, compressor)


def one(
    arguments: argparse.Namespace, seed: int, name: str, model: str, tiers: str, compressor: str
) -> dict[str, object]:
    """One run: what a client sends and receives on average, and the accuracy at the end."""
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as folder:
        done = run(
            None,
            quiet=True,
            engine="local",
            seed=seed,
            num_rounds=arguments.rounds,
            num_clients=30,
            clients_per_round=6,
            data_dir=arguments.reviews.absolute(),
            text=f"tokens({str(arguments.minilm.absolute())!r}, length=32)",
            model=model,
            tiers=tiers,
            compressor=COMPRESSORS[compressor],
            client_optimizer="adam",
            learning_rate=1e-3 if "lora" in model else 5e-5,
            local_steps=arguments.steps if arguments.rounds > 1 else 2,
            batch_size=16,
            evaluate_every=arguments.rounds,
            runs_dir=folder,
        )
    sent = done.clients
    return {
        "model": name,
        "tiers": "equal" if tiers == EQUAL else "mixed",
        "compressor": compressor,
        "seed": seed,
        "parameters": float(sent["num_parameters"].mean()),
        "kB up": float(sent["payload_bytes"].mean()) / 1e3,
        "kB down": float(sent["downlink_bytes"].mean()) / 1e3,
        "accuracy": float(done.rounds["accuracy"].iloc[-1]),
    }


if __name__ == "__main__":
    main()
