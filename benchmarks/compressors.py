"""Speed, size and variance of every compressor on one thread, and docs/compressors.md made of it.

    python benchmarks/compressors.py              the ratios that the project promises, then the table
    python benchmarks/compressors.py --docs       write the table into docs/compressors.md
    python benchmarks/compressors.py --sampling   systematic sampling against Algorithm 3, at equal entries and bytes
    python benchmarks/compressors.py --dither     bits of Dither, alone and as the values of sparsifiers
    python benchmarks/compressors.py --units      digits of a unit against QSGD, which has their law in each coordinate
    python benchmarks/compressors.py --device cuda
                                                  on a GPU: compress beside torch.topk, encode, decode and add

Vectors have 11,173,962 coordinates, as many as ResNet-18 has parameters: Gaussian, Student-t with 3 degrees of freedom,
and a real update of a network of that size. Timings are seconds of the processor, so that waiting for other work on the
machine does not count, the best of several rounds taken in turns; ratios are within one run. With the extra `fast`
every compressor is timed with numba's kernels and without.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import fl_mlmc  # noqa: E402
from fl_mlmc.compression import kernels  # noqa: E402
from fl_mlmc.compression.blocks import SymbolBlock  # noqa: E402
from fl_mlmc.compression.wire import decode_payload, encode_payload  # noqa: E402

SIZE = 11_173_962
FRACTION = 0.01
SEEDS = 2
PAGE = ROOT / "docs" / "compressors.md"
MARK = "<!-- the table below is written by: python benchmarks/compressors.py --docs -->"

COMPRESSORS = [
    "Identity()",
    "TopK(fraction=0.01)",
    "MLMC(TopK(fraction=0.01))",
    "MLMC(TopK(fraction=0.01), values='bfloat16')",
    "MLMC(TopK(fraction=0.01), values=Dither(unit=1.0))",
    "Dither(unit=0.5)",
    "Dither(unit=1.0)",
    "Dither(unit=2.0)",
    "Dither(unit=4.0)",
    "MLMC(TopK(fraction=0.001), draws=10)",
    "MLMC(TopK(fraction=0.001), draws=10, replacement=False)",
    "MLMC(TopK(fraction=0.001, growth=2), 'cost')",
    "Systematic(fraction=0.01)",
    "Bernoulli(fraction=0.01)",
    "RandK(fraction=0.01)",
    "RandK(fraction=0.01, values='bfloat16')",
    "RandK(fraction=0.01, values=Dither(unit=2.8))",
    "Importance(draws=1000)",
    "Induced(TopK(fraction=0.005), RandK(fraction=0.005))",
    "Scaled(RandK(fraction=0.01), 99.0)",
    "FixedPoint(bits=4)",
    "FixedPoint(bits=20)",
    "MLMC(FixedPoint(), 'fixed')",
    "MLMC(FixedPoint(unit=2.0), 'fixed')",
    "MLMC(FixedPoint())",
    "MLMC(FixedPoint(unit=2.0), bucket=512)",
    "TernGrad()",
    "QSGD()",
    "QSGD(levels=127)",
    "StochasticRounding(bits=4)",
    "StochasticRounding(bits=8)",
    "FloatingPoint(bits=4)",
    "FloatingPoint(bits=20)",
    "MLMC(FloatingPoint(), 'fixed')",
    "MLMC(FloatingPoint())",
    "Natural()",
    "RTN(bits=4)",
    "RTN(bits=12)",
    "MLMC(RTN(bits=8))",
    "MLMC(RTN(bits=8), 'cost')",
    "ECUQ(bits=3)",
    "ECUQ(bits=9)",
    "MLMC(ECUQ(bits=4))",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/compressors.md")
    parser.add_argument("--size", type=int, default=SIZE, help="coordinates (default: those of ResNet-18)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is timed; the best counts")
    parser.add_argument("--ratios", action="store_true", help="only the promised ratios of MLMC over Top-k")
    parser.add_argument("--sampling", action="store_true", help="only systematic sampling against Algorithm 3")
    parser.add_argument("--dither", action="store_true", help="only the bits of Dither, alone and over sparsifiers")
    parser.add_argument("--units", action="store_true", help="only digits of a unit against QSGD of as many levels")
    parser.add_argument("--table", action="store_true", help="only the table")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="only the table of a device: what takes how long there"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; run it on a machine with one, or take --device cpu")
    if options.device:
        for line in on_device(torch.device(options.device), options.size, options.rounds):
            print(line, flush=True)
        return
    if options.memory_of:
        print(peak_memory(options.memory_of, options.size))
        return
    if options.dither:
        print("\n".join(dithered(options.size)))
        return
    vectors = {"Gaussian": gaussian(options.size), "Student-t3": student(options.size), "update": update(options.size)}
    if options.sampling:
        print("\n".join(sampling(vectors)))
        return
    if options.units:
        print("\n".join(units(vectors)))
        return
    for name, vector in vectors.items():
        if not options.table:
            print_ratios(name, vector, options.rounds)
    if options.ratios:
        return
    rows = [row(text, vectors, options.rounds) for text in COMPRESSORS]
    table = "\n".join([*head(vectors), *rows])
    speeds = {text: float(line.split("|")[-4]) for text, line in zip(COMPRESSORS, rows, strict=True)}
    slowest = min(filter(is_quantiser, COMPRESSORS), key=speeds.__getitem__)
    print(f"slowest quantiser: {slowest} with {speeds[slowest]} GB/s (at least 0.5)")
    print(table)
    if options.docs:
        kept = PAGE.read_text().split(MARK)[0]
        PAGE.write_text(f"{kept}{MARK}\n\n{table}\n")


def is_quantiser(text: str) -> bool:
    return not any(name in text for name in ("TopK", "Systematic", "Bernoulli", "RandK", "Importance", "Identity"))


def gaussian(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def student(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    spread = sum(torch.randn(size, generator=generator).square() for _ in range(3)) / 3
    return torch.randn(size, generator=generator) / torch.sqrt(spread)


def update(size: int) -> Tensor:
    """What ten steps of SGD on handwritten digits change in a perceptron of about `size` parameters, tiled to it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    features, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    width = max(8, int(math.sqrt(size)) - 40)
    torch.manual_seed(2)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        batch = slice(32 * step, 32 * step + 32)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
        optimizer.step()
    change = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    return change.repeat(-(-size // change.numel()))[:size].contiguous()


def print_ratios(name: str, vector: Tensor, rounds: int) -> None:
    """The promised ratios, for MLMC over Top-k at 1 %."""
    size, count = vector.numel(), round(FRACTION * vector.numel())
    compressor, rng = fl_mlmc.parse(f"MLMC(TopK(fraction={FRACTION}))"), np.random.default_rng(0)
    top_k, sort, encode = interleaved(
        lambda: torch.topk(vector.abs(), count),
        lambda: torch.sort(vector),
        lambda: compressor.encode(vector, rng),
        times=rounds,
    )
    data, accumulator = compressor.encode(vector, rng), torch.zeros(size)
    decode = best(lambda: decode_payload(data, size).add_to(accumulator), rounds)
    memory = subprocess.run(
        [sys.executable, __file__, "--memory-of", repr(compressor), "--size", str(size)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    stream_bits = 8 * (len(data) - 4 * count)
    print(f"{name}: torch.topk {1e3 * top_k:.0f} ms, torch.sort {1e3 * sort:.0f} ms, encode {1e3 * encode:.0f} ms")
    print(f"  encode / topk {encode / top_k:.3f} (at most 0.35)    sort / encode {sort / encode:.1f} (at least 15)")
    print(
        f"  decode and add / topk {decode / top_k:.4f} (at most 0.05)    memory {float(memory):.2f} vectors (at most 2)"
    )
    print(f"  index bits / log2 C(d, k) {stream_bits / log2_binomial(size, count):.4f} (at most 1.02, header included)")


def sampling(vectors: dict[str, Tensor]) -> list[str]:
    """ω of MLMC over Top-k (Algorithm 3) and of systematic sampling, with as many entries and with as many bytes."""
    lines = [
        "| vector | k / d | Alg. 3: ω | bytes | systematic, as many entries: ω | bytes | as many bytes: ω | k / d |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, vector in vectors.items():
        for fraction in (0.001, 0.01, 0.05):
            adaptive, same = fl_mlmc.MLMC(fl_mlmc.TopK(fraction=fraction)), fl_mlmc.Systematic(fraction=fraction)
            budget = num_bytes(adaptive, vector)
            more = widest(vector, budget, fraction)
            cells = [
                name, fraction, f"{adaptive.omega(vector):.4g}", f"{budget:,}", f"{same.omega(vector):.4g}",
                f"{num_bytes(same, vector):,}", f"{more.omega(vector):.4g}", f"{more.fraction:.3g}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def dithered(size: int) -> list[str]:
    """Payload bits a coordinate of Dither, beside ½ log2((1 + ω) / ω); then with it as the values of sparsifiers."""
    laplace = torch.distributions.Laplace(0.0, 1.0)
    torch.manual_seed(3)
    vectors = {
        "Gaussian": gaussian(size),
        "Student-t3": student(size),
        "sign · Laplace²": (draw := laplace.sample((size,))).sign() * draw**2,
        "sign · Laplace³": draw**3,
    }
    lines = [f"| unit | ω | R(ω) | {' | '.join(vectors)} |", "|---|---|---|" + "---|" * len(vectors)]
    for unit in (0.5, 1.0, 2.0, 2.82, 4.0, 8.0):
        omega = unit**2 / 12
        bits = [8 * num_bytes(fl_mlmc.Dither(unit), vector) / size for vector in vectors.values()]
        shown = " | ".join(f"{each:.3f}" for each in bits)
        lines.append(f"| {unit:g} | {omega:.4f} | {math.log2((1 + omega) / omega) / 2:.3f} | {shown} |")
    lines += ["", "| compressor | vector | ω | bits | bits · (1 + ω) |", "|---|---|---|---|---|"]
    for text in (
        "MLMC(TopK(fraction=0.01))",
        "MLMC(TopK(fraction=0.01), values=Dither(unit=1.0))",
        "Systematic(fraction=0.01)",
        "RandK(fraction=0.01)",
        "RandK(fraction=0.024, values=Dither(unit=2.8))",
    ):
        for name in ("Gaussian", "Student-t3", "sign · Laplace³"):
            compressor, vector = fl_mlmc.parse(text), vectors[name]
            omega, bits = compressor.omega(vector), 8 * num_bytes(compressor, vector) / size
            lines.append(f"| `{text}` | {name} | {omega:.3g} | {bits:.4f} | {bits * (1 + omega):.2f} |")
    return lines


def units(vectors: dict[str, Tensor]) -> list[str]:
    """ω and mean bits a coordinate of FixedPoint with a unit, and of QSGD with √d / unit levels."""
    lines = [
        "| vector | unit | `MLMC(FixedPoint(unit=…), 'fixed')`: ω | bits | QSGD's levels | ω | bits |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, vector in vectors.items():
        size = vector.numel()
        for unit in (1.0, 2.0, 4.0):
            digits = fl_mlmc.MLMC(fl_mlmc.FixedPoint(unit=unit), "fixed")
            rounding = fl_mlmc.QSGD(levels=round(math.sqrt(size) / unit))
            levels = sum(chance * len(encode_payload(payload)) for chance, payload in digits.outcomes(vector))
            drawn = [len(rounding.encode(vector, np.random.default_rng(seed))) for seed in range(SEEDS)]
            cells = [
                name, f"{unit:g}", f"{digits.omega(vector):.4f}", f"{8 * levels / size:.3f}",
                f"{rounding.levels:,}", f"{rounding.omega(vector):.4f}", f"{8 * np.mean(drawn) / size:.3f}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


ON_A_DEVICE = [
    "MLMC(TopK(fraction=0.01))",
    "MLMC(TopK(fraction=0.01), values=Dither(unit=1.0))",
    "MLMC(TopK(fraction=0.001), draws=10, replacement=False)",
    "Systematic(fraction=0.01)",
    "Bernoulli(fraction=0.01)",
    "RandK(fraction=0.01)",
    "RandK(fraction=0.01, values=Dither(unit=2.8))",
    "Dither(unit=2.0)",
    "MLMC(FixedPoint(unit=2.0), 'fixed')",
    "QSGD(levels=127)",
    "TernGrad()",
    "Natural()",
    "StochasticRounding(bits=4)",
]


def on_device(device: torch.device, size: int, rounds: int) -> Iterator[str]:
    """How long it takes to compress a Gaussian vector that is on a device, to encode it, and to decode and add there.

    Compressing stands beside `torch.topk` of 1 %, and beside a pass over the vector's bytes, which is half a copy.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor, one thread"
    vector = gaussian(size).to(device)
    count = round(FRACTION * size)
    top_k = elapsed(lambda: torch.topk(vector.abs(), count), device, rounds)
    one_pass = elapsed(lambda: vector.clone(), device, rounds) / 2
    yield f"d = {size:,} on {name}: torch.topk {1e3 * top_k:.2f} ms, a pass {1e3 * one_pass:.3f} ms"
    yield ""
    yield "| compressor | compress ms | over topk | passes | encode ms | GB/s | decode and add ms | GB/s |"
    yield "|---|---|---|---|---|---|---|---|"
    accumulator = torch.zeros(size, device=device)
    for text in ON_A_DEVICE:
        compressor = fl_mlmc.parse(text)
        compress = elapsed(lambda c=compressor: c.compress(vector, np.random.default_rng(0)), device, rounds)
        encode = elapsed(lambda c=compressor: c.encode(vector, np.random.default_rng(0)), device, rounds)
        data = compressor.encode(vector, np.random.default_rng(0))
        decode = elapsed(lambda d=data: decode_payload(d, size).add_to(accumulator), device, rounds)
        yield (
            f"| `{text}` | {1e3 * compress:.2f} | {compress / top_k:.1f} | {compress / one_pass:.0f} | "
            f"{1e3 * encode:.1f} | {4e-9 * size / encode:.2f} | {1e3 * decode:.1f} | {4e-9 * size / decode:.2f} |"
        )


def elapsed(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds on the clock of the fastest of several runs, after one that loads what it needs."""
    seconds = math.inf
    for trial in range(rounds + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = min(seconds, time.perf_counter() - start) if trial else seconds
    return seconds


def num_bytes(compressor: fl_mlmc.Compressor, vector: Tensor) -> int:
    return len(compressor.encode(vector, np.random.default_rng(0)))


def widest(vector: Tensor, budget: int, fraction: float) -> fl_mlmc.Systematic:
    """The systematic sampler, to 2 %, that keeps to so many bytes."""
    while num_bytes(fl_mlmc.Systematic(fraction=fraction * 1.02), vector) <= budget:
        fraction *= 1.02
    return fl_mlmc.Systematic(fraction=fraction)


def peak_memory(text: str, size: int) -> float:
    """How far the process grows during one encode, in vectors."""
    vector, rng = gaussian(size), np.random.default_rng(0)
    compressor = fl_mlmc.parse(text)
    compressor.encode(vector[:100_000], rng)  # imports and thread pools
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far; Linux only
    compressor.encode(vector, rng)
    return (status("VmHWM") - before) * 1024 / (4 * size)


def status(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def head(vectors: dict[str, Tensor]) -> list[str]:
    size = next(iter(vectors.values())).numel()
    names = " | ".join(f"ω {name}" for name in vectors)
    return [
        f"d = {size:,}; one thread of a shared machine. Bits are per coordinate, on the Gaussian vector; *entropy* is",
        "the payload over the zeroth-order entropy of its symbols. GB/s of input encoded, with numba and without: the",
        f"mean over {SEEDS} seeds, in seconds of the processor, in the best of several rounds taken in turns.",
        "",
        f"| compressor | formula bits | measured bits | entropy | {names} | encode ms | GB/s | without numba | "
        "decode + add ms |",
        "|---|---|---|---|" + "---|" * len(vectors) + "---|---|---|---|",
    ]


def row(text: str, vectors: dict[str, Tensor], rounds: int) -> str:
    compressor = fl_mlmc.parse(text)
    vector = vectors["Gaussian"]
    size = vector.numel()
    encode, plain = interleaved(
        lambda: encodings(compressor, vector), lambda: without_numba(compressor, vector), times=rounds
    )
    compressed = compressor.compress(vector, np.random.default_rng(0))
    data = encode_payload(compressed.payload)
    accumulator = torch.zeros(size)
    decode = best(lambda: decode_payload(data, size).add_to(accumulator), rounds)
    blocks = compressed.payload.blocks
    ratio = ""
    if len(blocks) == 1 and isinstance(blocks[0], SymbolBlock):
        ratio = f"{8 * len(data) / entropy_bits(blocks[0]):.4f}"
    omegas = [compressor.omega(v) if compressor.is_unbiased else None for v in vectors.values()]
    shown = " | ".join("–" if omega is None else f"{omega:.3g}" for omega in omegas)
    line = (
        f"| `{text}` | {compressed.expected_bits / size:.4g} | {8 * len(data) / size:.4g} | {ratio} | {shown} | "
        f"{1e3 * encode / SEEDS:.0f} | {4e-9 * size * SEEDS / encode:.2f} | {4e-9 * size * SEEDS / plain:.2f} | "
        f"{1e3 * decode:.0f} |"
    )
    print(line, flush=True)
    return line


def encodings(compressor: fl_mlmc.Compressor, vector: Tensor) -> None:
    """Several, since what a drawn level costs depends on the level."""
    for seed in range(SEEDS):
        compressor.encode(vector, np.random.default_rng(seed))


def without_numba(compressor: fl_mlmc.Compressor, vector: Tensor) -> None:
    long, kernels.LONG = kernels.LONG, 1 << 62
    encodings(compressor, vector)
    kernels.LONG = long


def entropy_bits(block: SymbolBlock) -> float:
    counts = np.bincount(block.symbols.numpy())
    shares = counts[counts > 0] / counts.sum()
    return max(1.0, float(-(shares * np.log2(shares)).sum()) * block.size)


def log2_binomial(size: int, count: int) -> float:
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of several runs."""
    return interleaved(work, times=times)[0]


def interleaved(*works: Callable[[], object], times: int) -> list[float]:
    """Seconds of the fastest run of each, taken in turns so that a busy moment of the machine hits all alike."""
    seconds = [math.inf] * len(works)
    for _ in range(times):
        for i, work in enumerate(works):
            start = time.process_time()
            work()
            seconds[i] = min(seconds[i], time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
