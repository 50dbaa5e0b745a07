"""Bilevel learning on digits: unequal clients against full models, and cleaning of labels of which 40 % are wrong.

    python benchmarks/bilevel.py [CSV]

Prints a table for docs/results.md, and writes it as CSV. FLOPs are those of all clients, by torch's own counter.
"""

import csv
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fl_mlmc import parse
from fl_mlmc.bilevel import BilevelProblem, Held, Rabo, Rafbo, Steps, cut_only, simulate
from fl_mlmc.bilevel.rabo import Scheme
from fl_mlmc.bilevel.tasks import CleaningRows, Rows, detection_auc, hyper_cleaning, hyper_representation
from fl_mlmc.bilevel.tasks.rows import Batch
from fl_mlmc.models.mlp import mlp

NUM_TRAIN = 1400
TIERS, FULL = (0.25, 0.5, 1.0), (1.0,)


def digits(seed: int) -> tuple[Batch, Batch]:
    """Training and test examples, shuffled."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    features, labels = torch.tensor(data.images[order], dtype=torch.float32) / 8 - 1, torch.tensor(data.target[order])
    return Batch(features[:NUM_TRAIN], labels[:NUM_TRAIN]), Batch(features[NUM_TRAIN:], labels[NUM_TRAIN:])


def representation(seed: int, num_clients: int = 12, num_rounds: int = 40) -> Iterator[dict[str, Any]]:
    """Hyper-representation at equal rounds; every client sees a twelfth of the examples."""
    train, test = digits(seed)
    rng = np.random.default_rng(seed)
    clients = [
        Rows.split(train.features[part], train.labels[part], rng)
        for part in np.array_split(np.arange(NUM_TRAIN), num_clients)
    ]
    problem = hyper_representation(mlp((8, 8), 10, (128, 128)), 0.01)
    local, one = Rafbo(5, Steps(0.3, 0.5, 0.5)), Rabo(Steps(0.3, 0.5, 0.5))
    runs: list[tuple[str, BilevelProblem, Scheme, tuple[float, ...], int, str | None]] = [
        ("SimFBO, full models", problem, local, FULL, num_rounds, None),
        ("RAFBO, tiers 0.25/0.5/1.0", problem, local, TIERS, num_rounds, None),
        ("RAFBO, tiers, MLMC(TopK(0.05))", problem, local, TIERS, num_rounds, "MLMC(TopK(fraction=0.05))"),
        ("only x cut", cut_only(problem, "outer"), local, TIERS, num_rounds, None),
        ("only y cut", cut_only(problem, "inner"), local, TIERS, num_rounds, None),
        ("one step a round, full models", problem, one, FULL, 5 * num_rounds, None),
        ("RABO, tiers", problem, one, TIERS, 5 * num_rounds, None),
        ("C-SOBA: full, QSGD(levels=8)", problem, one, FULL, 5 * num_rounds, "QSGD(levels=8)"),
    ]
    for name, each, scheme, widths, rounds, compressor in runs:
        with FlopCounterMode(display=False) as counter:
            trace = simulate(
                each,
                clients,
                scheme,
                rounds,
                lambda r, c, each=each, widths=widths: Held.of(each, "nested", widths[c % len(widths)], r, c),
                cohort_size=6,
                compressor=parse(compressor) if compressor else None,
                dtype=torch.float32,
                seed=seed,
            )
        yield {
            "run": name,
            "seed": seed,
            "rounds": rounds,
            "accuracy": accuracy(problem, trace.point.x, trace.point.y, test),
            "gigaflops": counter.get_total_flops() / 1e9,
            "uplink_megavalues": sum(row.uplink_values for row in trace.rows) / 1e6,
        }


def cleaning(seed: int, num_noisy: int = 600, num_clean: int = 150) -> Iterator[dict[str, Any]]:
    """A linear model on labels of which 40 % are wrong, with and without weights for them."""
    train, test = digits(seed)
    rng = np.random.default_rng(seed)
    is_wrong = torch.from_numpy(rng.random(num_noisy) < 0.4)
    shift = torch.from_numpy(rng.integers(1, 10, num_noisy))
    truth = train.labels[:num_noisy]
    noisy = torch.where(is_wrong, (truth + shift) % 10, truth)
    clean = Batch(train.features[num_noisy : num_noisy + num_clean], train.labels[num_noisy : num_noisy + num_clean])
    clients = CleaningRows.share_out(
        [
            (Batch(train.features[own], noisy[own]), Batch(clean.features[other], clean.labels[other]))
            for own, other in zip(
                np.array_split(np.arange(num_noisy), 5), np.array_split(np.arange(num_clean), 5), strict=True
            )
        ],
        batch_size=64,
    )
    problem = hyper_cleaning(mlp((8, 8), 10, ()), num_noisy, 0.003)
    x, y = problem.start(seed)
    for name, rate, start in (("plain training on noisy labels", 0.0, x + 20), ("RAFBO hyper-cleaning", 100.0, x)):
        trace = simulate(
            problem,
            clients,
            Rafbo(5, Steps(rate, 0.3, 0.3)),
            80,
            lambda r, c: clients[c].held(problem, "nested", 1.0),
            start=(start, y),
            dtype=torch.float32,
            seed=seed,
        )
        yield {
            "run": name,
            "seed": seed,
            "rounds": 80,
            "accuracy": accuracy(problem, trace.point.x, trace.point.y, test),
            "auc": detection_auc(trace.point.x, is_wrong) if rate else None,
        }


def accuracy(problem: BilevelProblem, x: Tensor, y: Tensor, test: Batch) -> float:
    return Held.of(problem, "nested", 1.0).accuracy(x, y, test.features, test.labels)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for task, seeds in ((representation, range(1)), (cleaning, range(3))):
        for row in (row for seed in seeds for row in task(seed)):
            rows.append(row)
            cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
            print(" | ".join(cells), flush=True)
    if len(sys.argv) > 1:
        keys = list(dict.fromkeys(key for row in rows for key in row))
        with open(sys.argv[1], "w", newline="") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
