"""Cutting submodels out and adding updates back, against copying the bytes that are touched.

    python benchmarks/submodels.py [--model MODEL] [--repeats N]

For each rule and width: `gather` reads places of the full vector and writes the submodel; `scatter_add` reads the
submodel, and reads and writes places of the accumulator. The unit, `copy`, is the time of a plain copy that moves as
many bytes. Memory moves in lines of 64 bytes: what lies in a line beside a kept coordinate is moved with it and counts
(`lines`: how many bytes of lines there are for a byte that is kept; it is above 1.1 only where kept units are
scattered). Caches are flushed before each, as training does between replies, which costs every call some microseconds
too: they show at width 1/8, where a tensor has little to copy. Then the server's memory as replies come in.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.models import build_model
from fl_mlmc.submodels import WidthSpec, plan

WIDTHS = (1.0, 0.5, 0.25, 0.125)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = build_model(arguments.model, (3, 32, 32), 10).spec
    print(f"{arguments.model}: {spec.size:,} parameters, one thread, best of {arguments.repeats}; times in ms")
    names = ("width", "parameters", "gather", "scatter", "copy", "ratio", "lines")
    print(f"{'rule':16s} " + " ".join(f"{name:>{w}s}" for name, w in zip(names, (6, 11, 8, 8, 8, 6, 6), strict=True)))
    vector, sums = torch.randn(spec.size), torch.zeros(spec.size)
    for rule in ("nested", "rolling", "random"):
        spent = unit = 0.0
        for width in WIDTHS:
            own = plan(spec, rule, width, server_round=3, client=1)
            update, target = torch.randn(own.size), torch.empty(own.size)
            lines = 16 * len((own.indices // 16).unique()) / own.size
            gather, scatter, copy = fastest(
                arguments.repeats,
                lambda own=own: own.gather(vector),
                lambda own=own, update=update: own.scatter_add(sums, update, 0.5),
                lambda update=update, target=target: target.copy_(update),
            )
            # A copy touches each coordinate twice; gather is nothing to do where it is the identity.
            copy *= ((0 if own.is_full else 1 + lines) + 1 + 2 * lines) / 2
            spent, unit = spent + gather + scatter, unit + copy
            print(
                f"{rule:16s} {width:6g} {own.size:11,d} {gather * 1e3:8.2f} {scatter * 1e3:8.2f} {copy * 1e3:8.2f} "
                f"{(gather + scatter) / copy:6.2f} {lines:6.2f}"
            )
        print(f"{rule:16s} {'all':>6s} {'':11s} {'':8s} {spent * 1e3:8.2f} {unit * 1e3:8.2f} {spent / unit:6.2f}")
    memory(spec)


def fastest(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """The least seconds of each action, taken in turns so that all meet the same machine."""
    best = [float("inf")] * len(actions)
    flush = torch.zeros(2**25)
    for _ in range(repeats):
        for number, action in enumerate(actions):
            flush.add_(1)
            start = time.perf_counter()
            action()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def memory(spec: WidthSpec) -> None:
    """Peak memory of the process as 10, then 50 replies are averaged, each with a plan of its own."""
    print(f"\nserver memory; one model is {spec.size * 4 / 2**20:.0f} MiB")
    mean = CoverageMean(spec.size)
    for client in range(50):
        own = plan(spec, "random", 0.5, 1, client)
        mean.add(own, Payload(own.size, (DenseBlock(torch.randn(own.size)),)), 1.0)
        if client + 1 in (10, 20, 30, 40, 50):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{client + 1:3d} replies: peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
