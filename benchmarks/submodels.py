"""Cutting submodels out and adding updates back, against copying the bytes that are touched.

    python benchmarks/submodels.py [--model MODEL] [--repeats N]

For each rule and width: `gather` reads and writes the submodel; `scatter_add` reads it, and reads and writes as many
places of the accumulator. The unit, `copy`, is the time of a plain copy of as many bytes, taken in turn with them.
Caches are flushed before each, as training does between replies. Then the memory that the server takes as replies
come in.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from fl_mlmc.aggregate import CoverageMean
from fl_mlmc.blocks import DenseBlock, Payload
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
    print(f"{'rule':16s} {'width':>6s} {'parameters':>11s} {'gather':>8s} {'scatter':>8s} {'copy':>8s} {'ratio':>6s}")
    vector, sums = torch.randn(spec.size), torch.zeros(spec.size)
    for rule in ("nested", "rolling", "random"):
        spent = unit = 0.0
        for width in WIDTHS:
            own = plan(spec, rule, width, server_round=3, client=1)
            update, target = torch.randn(own.size), torch.empty(own.size)
            gather, scatter, copy = fastest(
                arguments.repeats,
                lambda own=own: own.gather(vector),
                lambda own=own, update=update: own.scatter_add(sums, update, 0.5),
                lambda update=update, target=target: target.copy_(update),
            )
            # A copy touches each coordinate twice, gather twice (not at all where it is the identity), scatter thrice.
            copy *= ((0 if own.is_full else 2) + 3) / 2
            spent, unit = spent + gather + scatter, unit + copy
            print(
                f"{rule:16s} {width:6g} {own.size:11,d} {gather * 1e3:8.2f} {scatter * 1e3:8.2f} {copy * 1e3:8.2f} "
                f"{(gather + scatter) / copy:6.2f}"
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
