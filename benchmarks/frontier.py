"""Every compressor's real bytes against its variance, and the limit that no compressor passes.

    python benchmarks/frontier.py           writes docs/results/frontier.csv, frontier.png and the tables of
                                            docs/frontier.md; some seven minutes of one processor
    python benchmarks/frontier.py --again   the picture and the tables alone, from the file
    python benchmarks/frontier.py --only Dither --only EDEN
                                            these families anew, all others as the file has them

Vectors: Gaussian, Student-t with 3 degrees of freedom, and what clients' local steps change in the quickstart's network
(digits), in a ResNet-18 of an eighth of the width (digits, enlarged) and in a transformer that predicts the next byte
of this project's license. Bits are those of payloads as they travel, headers and all, over the coordinates; ω is exact
where a compressor has a formula, else the mean over draws, and marked as measured. The yardstick is the least number of
bits a coordinate at which a Gaussian vector can be had without bias and with that ω, ½ log2((1 + ω) / ω). Rows of
biased compressors have their squared error over ‖v‖² in place of ω: the yardstick does not hold for them.
"""

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import fl_mlmc  # noqa: E402
from fl_mlmc.compression.compressors.base import Compressed  # noqa: E402
from fl_mlmc.compression.compressors.values import quantised  # noqa: E402
from fl_mlmc.compression.wire import encode_payload  # noqa: E402
from fl_mlmc.models import build_model  # noqa: E402
from fl_mlmc.submodels.flat import to_vector  # noqa: E402

RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "frontier.md"
MARK = "<!-- the tables below are written by: python benchmarks/frontier.py -->"
SIZE = 100_000
DRAWS = 3
FEW_LEVELS = 64
RARE = 2.0**-16
RATIOS = (10, 30, 100, 1000)
"""How many times fewer bytes than float32, for the table of equal budgets."""

FRACTIONS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)
UNITS = (0.25, 0.5, 1.0, 2.0, 2.8, 4.0, 8.0, 16.0)

FAMILIES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "RandK": ("RandK(fraction={})", FRACTIONS),
    "RandK, bfloat16": ("RandK(fraction={}, values='bfloat16')", FRACTIONS),
    "RandK, dithered": ("RandK(fraction={}, values=Dither(unit=2.8))", FRACTIONS),
    "MLMC-TopK": ("MLMC(TopK(fraction={}))", FRACTIONS[2:]),
    "MLMC-TopK, bfloat16": ("MLMC(TopK(fraction={}), values='bfloat16')", FRACTIONS[2:]),
    "MLMC-TopK, dithered": ("MLMC(TopK(fraction={}), values=Dither(unit=1.0))", FRACTIONS[2:]),
    "Systematic": ("Systematic(fraction={})", FRACTIONS[1:]),
    "Systematic, dithered": ("Systematic(fraction={}, values=Dither(unit=1.0))", FRACTIONS[1:]),
    "Bernoulli": ("Bernoulli(fraction={})", FRACTIONS[1:]),
    "QSGD": ("QSGD(levels={:.0f})", (2000, 500, 200, 100, 50, 20, 5, 1)),
    "Dither": ("Dither(unit={})", UNITS),
    "MLMC-FixedPoint(unit)": ("MLMC(FixedPoint(unit={}), 'fixed')", UNITS[1:]),
    "MLMC-FixedPoint(unit), buckets": ("MLMC(FixedPoint(unit={}), bucket=512)", UNITS[1:]),
    "MLMC-TopK, buckets": ("MLMC(TopK(fraction={}), values=Dither(unit=1.0), bucket=512)", FRACTIONS[2:]),
}
"""Compressors with a number that can be anything: (their text, some of its values)."""

STEPPED: Mapping[str, list[str]] = {
    "EDEN": [f"EDEN(bits={bits})" for bits in (1, 2, 3, 4, 6, 8)],
    "StochasticRounding": [f"StochasticRounding(bits={bits})" for bits in (3, 4, 6, 8)],
    "TernGrad": ["TernGrad()"],
    "Natural": ["Natural()"],
    "Importance": [f"Importance(draws={draws})" for draws in (100, 1000, 10_000)],
    "MLMC-FixedPoint": ["MLMC(FixedPoint(), 'fixed')", "MLMC(FixedPoint())"],
    "MLMC-FloatingPoint": ["MLMC(FloatingPoint(), 'fixed')"],
    "MLMC-RTN": ["MLMC(RTN(bits=8))"],
    "MLMC-ECUQ": ["MLMC(ECUQ(bits=4))"],
    "Induced": ["Induced(TopK(fraction=0.01), RandK(fraction=0.01))"],
    "Identity": ["Identity()"],
    "TopK (biased)": [f"TopK(fraction={fraction})" for fraction in (0.1, 0.01, 0.001)],
    "TopK, dithered (biased)": [
        f"TopK(fraction={fraction}, values=Dither(unit=1.0))" for fraction in (0.1, 0.01, 0.001)
    ],
    "Truncated (biased)": ["Truncated(TopK(fraction=0.01), levels=20)"],
    "Scaled (biased)": ["Scaled(RandK(fraction=0.01))"],
    "FixedPoint (biased)": ["FixedPoint(bits=4)"],
    "FloatingPoint (biased)": ["FloatingPoint(bits=1)"],
    "RTN (biased)": ["RTN(bits=4)"],
    "ECUQ (biased)": ["ECUQ(bits=2)"],
}

BOUND = 9
FIXED: Mapping[str, str] = {
    f"{family}, ω ≤ {BOUND}": text
    for family, text in {
        "Dither": "Dither(omega=9)",
        "RandK, dithered": "RandK(omega=5.04, values=Dither(unit=2.8))",
        "MLMC-TopK, dithered": "MLMC(TopK(omega=8.23), values=Dither(unit=1.0))",
        "Systematic": "Systematic(omega=9)",
        "Bernoulli": "Bernoulli(omega=9)",
    }.items()
}
"""Compressors that keep the ω of every vector at 9, that of their values in it; their bytes follow the vector."""
LEAST = 0.5 * math.log2((1 + BOUND) / BOUND)


@dataclass(frozen=True)
class Point:
    """A compressor at one vector."""

    vector: str
    family: str
    compressor: str
    bits: float
    """Payload bits a coordinate, the mean over draws."""
    omega: float
    """E‖C(v) − v‖² / ‖v‖²."""
    source: str
    """"exact", "measured", or "biased": then measured too."""

    @property
    def limit(self) -> float:
        """Bits a coordinate that a Gaussian vector needs at this ω."""
        return 0.5 * math.log2((1 + self.omega) / self.omega) if self.omega > 0 else math.inf

    @property
    def product(self) -> float:
        """bits · (1 + ω), which bits to a given accuracy grow like where compression is the noise that matters."""
        return self.bits * (1 + self.omega)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="only draw and print, from what is on disk")
    parser.add_argument(
        "--only", action="append", metavar="FAMILY", help="measure this family; others stay as they are on disk"
    )
    options = parser.parse_args()
    if unknown := set(options.only or ()) - {*FAMILIES, *STEPPED, *FIXED}:
        parser.error(
            f"unknown families {', '.join(sorted(unknown))}; known: {', '.join([*FAMILIES, *STEPPED, *FIXED])}"
        )
    torch.set_num_threads(1)
    if not options.again:
        vectors = {name: make() for name, make in VECTORS.items()}
        print(", ".join(f"{name}: {vector.numel():,} coordinates" for name, vector in vectors.items()))
        points = (each for name, vector in vectors.items() for each in swept(name, vector, options.only))
        write(RESULTS / "frontier.csv", list(points), keep=bool(options.only))
    draw(read(RESULTS / "frontier.csv"), RESULTS / "frontier.png")
    text = "\n".join(tables(RESULTS / "frontier.csv"))
    print(text)
    PAGE.write_text(f"{PAGE.read_text().split(MARK)[0]}{MARK}\n{text}\n")


# Vectors.


def gaussian() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(SIZE)).float()


def student() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_t(3, SIZE)).float()


def cnn_update() -> Tensor:
    """The quickstart's network and steps: 8 of 16 digits, after 100 others."""
    images, labels = digits()
    return update("cnn(conv=(64, 128), dense=256)", images, labels, 16, 100, 8, lambda p: torch.optim.SGD(p, lr=0.2))


def resnet_update() -> Tensor:
    """A ResNet-18 an eighth as wide, its digits enlarged to 32 × 32; 8 steps after 30 others."""
    images, labels = digits()
    images = nn.functional.interpolate(images, scale_factor=4)
    model = "resnet18(hidden=(8, 16, 32, 64), norm='group')"
    return update(model, images, labels, 16, 30, 8, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))


def transformer_update() -> Tensor:
    """Two layers that predict the next byte of this project's license; 8 steps of AdamW after 60 others."""
    text = (ROOT / "LICENSE").read_bytes()
    data, window = torch.frombuffer(bytearray(text), dtype=torch.uint8).float(), 32
    starts = torch.from_numpy(np.random.default_rng(2).integers(0, len(data) - window - 1, 4000))
    tokens, labels = data[starts[:, None] + torch.arange(window)], data[starts + window].long()
    model = "transformer(layers=2, stream=128, heads=4, feed_forward=512, vocabulary=256, positions=64)"
    return update(model, tokens, labels, 32, 60, 8, lambda p: torch.optim.AdamW(p, lr=1e-3), num_classes=256)


VECTORS: Mapping[str, Callable[[], Tensor]] = {
    "Gaussian": gaussian,
    "Student-t3": student,
    "CNN": cnn_update,
    "ResNet": resnet_update,
    "transformer": transformer_update,
}


def digits() -> tuple[Tensor, Tensor]:
    """(images of shape (n, 1, 8, 8), labels), as scikit-learn ships them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images / 16).float()[:, None], torch.tensor(found.target)


def update(
    model: str,
    inputs: Tensor,
    labels: Tensor,
    batch: int,
    warm_up: int,
    steps: int,
    optimizer: Callable[..., torch.optim.Optimizer],
    num_classes: int = 10,
) -> Tensor:
    """After − before of `steps` training steps, once `warm_up` others are done."""
    torch.manual_seed(0)
    family = build_model(model, tuple(inputs.shape[1:]), num_classes)
    module = family.build(family.spec.units).train()
    steppers, rng = optimizer(module.parameters()), np.random.default_rng(3)
    before = to_vector(module)
    for step in range(warm_up + steps):
        if step == warm_up:
            before = to_vector(module)
        chosen = torch.from_numpy(rng.choice(len(labels), batch, replace=False))
        steppers.zero_grad()
        nn.functional.cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
        steppers.step()
    return to_vector(module) - before


# Measurements.


def swept(name: str, vector: Tensor, only: Sequence[str] | None = None) -> Iterator[Point]:
    """All compressors at one vector, or those of some families."""
    texts = {family: [text.format(value) for value in values] for family, (text, values) in FAMILIES.items()}
    texts |= STEPPED | {family: [text] for family, text in FIXED.items()}
    for family, several in texts.items():
        for text in several if only is None or family in only else []:
            yield point(name, family, text, vector)


def point(name: str, family: str, text: str, vector: Tensor) -> Point:
    """Bits and ω of one compressor at one vector."""
    compressor = fl_mlmc.parse(text)
    omega = compressor.omega(vector) if compressor.is_unbiased else None
    bits = payload_bits(compressor, vector, DRAWS)
    if omega is not None:
        return Point(name, family, text, bits, omega, "exact")
    claims = compressor.is_unbiased or text.startswith("EDEN")
    return Point(name, family, text, bits, error(compressor, vector, DRAWS), "measured" if claims else "biased")


def payload_bits(compressor: fl_mlmc.Compressor, vector: Tensor, draws: int) -> float:
    """The mean length of payloads over the coordinates: over all levels where these are few, else over draws."""
    is_one_draw = isinstance(compressor, fl_mlmc.MLMC) and compressor.bucket is None
    if is_one_draw and compressor.ladder.climb(vector).num_levels <= FEW_LEVELS:
        return 8 * mean_length(compressor, vector) / vector.numel()
    lengths = [len(compressor.encode(vector, np.random.default_rng(seed))) for seed in range(draws)]
    return 8 * float(np.mean(lengths)) / vector.numel()


def mean_length(compressor: fl_mlmc.MLMC, vector: Tensor) -> float:
    """Σ p_l · length of level l: levels of digits are of very unequal lengths, and a few draws would miss some."""
    rungs, rng = compressor.ladder.climb(vector), np.random.default_rng(0)
    chances = compressor.level_probabilities(rungs)
    length = 0.0
    for place in np.flatnonzero(chances > RARE * chances.max()):
        payload = compressor.outcome(rungs, (int(place) + 1,), chances)
        sent = quantised(Compressed(payload, 0.0), compressor.values, rng)
        length += float(chances[place]) * len(encode_payload(sent.payload))
    return length


def error(compressor: fl_mlmc.Compressor, vector: Tensor, draws: int) -> float:
    """The mean of ‖C(v) − v‖² / ‖v‖² over draws."""
    errors = []
    for seed in range(draws):
        payload = compressor.encode(vector, np.random.default_rng(seed))
        missed = fl_mlmc.decode(payload, vector.numel()).double() - vector.double()
        errors.append(float(missed.square().sum()))
    return float(np.mean(errors)) / float(vector.double().square().sum())


# What becomes of them.


def write(path: Path, points: list[Point], keep: bool = False) -> None:
    """The points as CSV, vector by vector and family by family; `keep`: with the file's families that have none."""
    families, kept = [*FAMILIES, *STEPPED, *FIXED], []
    if keep:
        with path.open(newline="") as file:
            measured = {each.family for each in points}
            kept = [row for row in list(csv.reader(file))[1:] if row[1] not in measured and row[1] in families]
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*(field.name for field in fields(Point)), "limit", "product"])
        for each in points:
            *names, bits, omega, source = asdict(each).values()
            numbers = (f"{number:.5g}" for number in (each.limit, each.product))
            kept.append([*names, f"{bits:.5g}", f"{omega:.5g}", source, *numbers])
        rows.writerows(sorted(kept, key=lambda row: (list(VECTORS).index(row[0]), families.index(row[1]))))


def read(path: Path) -> list[Point]:
    with path.open(newline="") as file:
        return [
            Point(
                row["vector"], row["family"], row["compressor"], float(row["bits"]), float(row["omega"]), row["source"]
            )
            for row in csv.DictReader(file)
        ]


def tables(path: Path) -> Iterator[str]:
    """The page's tables: ω at equal bytes, and the least bits · (1 + ω) of each family."""
    unbiased = [each for each in read(path) if each.source != "biased" and each.omega > 0]
    points = [each for each in unbiased if each.family not in FIXED]
    for ratio in RATIOS:
        bits = 32 / ratio
        limit = 1 / (2 ** (2 * bits) - 1)
        yield f"\n**{ratio} × fewer bytes**: ω at {bits:.3g} bits a coordinate; a Gaussian's limit is {limit:.3g}\n"
        yield from grid(at_bytes(points, bits))
    yield "\n**bits · (1 + ω)**: the least of each family; limit of a Gaussian vector 0.72\n"
    cells: dict[str, dict[str, float]] = {}
    for each in points:
        row = cells.setdefault(each.family, {})
        row[each.vector] = min(each.product, row.get(each.vector, math.inf))
    yield from grid(cells)
    yield f"\n**ω of {BOUND} at most**: bits a coordinate of each vector; a Gaussian's limit is {LEAST:.3g}\n"
    cells = {}
    for each in unbiased:
        if each.family in FIXED:
            cells.setdefault(each.compressor, {})[each.vector] = each.bits
    yield from grid(cells)


def at_bytes(points: list[Point], bits: float) -> dict[str, dict[str, float]]:
    """{family: {vector: ω at that many bits}}, on the line between neighbours where both axes are logarithmic.

    A family whose members all are shorter has the best of them; one whose members all are longer is left out.
    """
    cells: dict[str, dict[str, float]] = {}
    for family, vector in dict.fromkeys((each.family, each.vector) for each in points):
        here = sorted((p.bits, p.omega) for p in points if (p.family, p.vector) == (family, vector))
        shorter = [pair for pair in here if pair[0] <= bits]
        if not shorter:
            continue
        best = min(omega for _, omega in shorter)
        if len(shorter) < len(here):
            lengths, omegas = np.log(np.array(here)).T
            best = min(best, math.exp(float(np.interp(math.log(bits), lengths, omegas))))
        cells.setdefault(family, {})[vector] = best
    return cells


def grid(cells: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A row a family, a column a vector; rows in the order of their geometric mean, the least of a column bold."""
    yield "| compressor | " + " | ".join(VECTORS) + " |"
    yield "|---" * (1 + len(VECTORS)) + "|"
    best = {name: min(row.get(name, math.inf) for row in cells.values()) for name in VECTORS}
    for family in sorted(cells, key=lambda each: np.mean([math.log(cells[each].get(name, 1e9)) for name in VECTORS])):
        row = cells[family]
        texts = [f"{row[name]:.3g}" if name in row else "–" for name in VECTORS]
        marked = [f"**{t}**" if row.get(name) == best[name] else t for t, name in zip(texts, VECTORS, strict=True)]
        yield f"| {family} | " + " | ".join(marked) + " |"


def draw(points: list[Point], path: Path) -> None:
    """ω over bits, a panel a vector, with the limit of a Gaussian one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    beside = ("MLMC-FixedPoint(unit), buckets", "MLMC-TopK, buckets", "Systematic, dithered", "Bernoulli")
    hidden = ("RandK, bfloat16", "MLMC-TopK, bfloat16", *beside)  # beside others' lines
    shown = [family for family in (*FAMILIES, "EDEN", "TernGrad", "Natural") if family not in hidden]
    styles = {family: (plt.cm.tab20(i * 2 % 20 + i // 10), "os^Dvs^DvoP"[i]) for i, family in enumerate(shown)}
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), sharex=True, sharey=True)
    panels, last = axes.flat[: len(VECTORS)], axes.flat[len(VECTORS)]
    bits = np.geomspace(2e-3, 20, 200)
    for panel, name in zip(panels, VECTORS, strict=True):
        panel.plot(bits, 1 / (2 ** (2 * bits) - 1), "k--", lw=1.2, label="limit of a Gaussian vector")
        for family in shown:
            here = sorted((p.bits, p.omega) for p in points if (p.vector, p.family) == (name, family) and p.omega > 0)
            if here:
                colour, marker = styles[family]
                line = "-" if len(here) > 1 else ""
                panel.plot(*zip(*here, strict=True), line, color=colour, marker=marker, ms=3.5, lw=1, label=family)
        panel.set(title=name, xscale="log", yscale="log", xlim=(2e-3, 20), ylim=(1e-3, 1e4))
        panel.grid(alpha=0.3)
    for panel in axes[:, 0]:
        panel.set_ylabel("ω")
    for panel in axes[1]:
        panel.set_xlabel("payload bits a coordinate")
    handles, labels = panels[0].get_legend_handles_labels()
    last.axis("off")
    last.legend(handles, labels, loc="center", frameon=False)
    axes.flat[2].tick_params(labelbottom=True)
    axes.flat[2].set_xlabel("payload bits a coordinate")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
