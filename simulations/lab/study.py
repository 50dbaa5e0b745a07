"""A study: one scenario, run at every point of some axes.

    scenario = "study.toml"                       # run-config keys, beside this file
    baseline = "Identity()"                       # the method that others are compared with
    target = 0.9                                  # of the metric: how many bytes until there?

    [set]                                         # keys that all runs share
    num-rounds = 30

    [grid]                                        # every combination
    compressor = ["Identity()", "MLMC(TopK(fraction=0.05))"]
    seed = [0, 1, 2]

    [zip]                                         # lists of equal length, that go hand in hand
    label = ["slow", "fast"]                      # what the method is called; by its values unless given
    learning-rate = [0.05, 0.2]
    local-steps = [8, 4]

A method is a point without its seed: its runs differ by chance alone.
"""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_mlmc.own import files
from fl_mlmc.run.config import ConfigError, RunConfig, Scalar
from fl_mlmc.run.log import RUN, read_run, status_of
from fl_mlmc.run.protocol import code_stamp

from ..app.launch import load_config, read_scenario
from ..app.provenance import digests

KEYS = ("scenario", "name", "runs-dir", "baseline", "metric", "target", "set", "grid", "zip")
LABEL, SEED = "label", "seed"
LONGEST_SLUG = 48
"""Characters of a run's folder that tell its method; a digest follows them."""

Point = Mapping[str, Scalar]
"""Where a run lies on the axes: a value for each key, dashed."""


@dataclass(frozen=True)
class Trial:
    """One run of a study."""

    label: str
    """Of its method."""
    config: RunConfig

    @property
    def seed(self) -> int:
        """The seed of its run."""
        return self.config.seed

    @property
    def directory(self) -> Path:
        """Its run's folder: the same one whenever the study is started, and another one where a key differs."""
        return Path(self.config.output.runs_dir) / self.config.output.run_name

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{self.label}  seed {self.seed}"

    @property
    def status(self) -> str:
        """How its run stands, as run.json says; "not started" where there is none."""
        return status_of(self.directory)

    @property
    def is_done(self) -> bool:
        """Whether its run got to its end."""
        return self.status == "completed"

    def stale(self) -> list[str]:
        """What is other, of our code and the user's files, than when its run began; empty where there is no run."""
        if not (self.directory / RUN).is_file():
            return []
        then = read_run(self.directory)
        found = [] if then.get("code_stamp") == code_stamp() else ["the code of fl_mlmc and clients"]
        now = digests(files(self.config.own_texts().values()))
        before = then.get("own_files", {})
        return found + [path for path in sorted(now.keys() | before.keys()) if now.get(path) != before.get(path)]


@dataclass(frozen=True)
class Study:
    """A plan of runs, and what they are to be compared by."""

    name: str
    directory: Path
    """Where its runs lie, each in a folder of its own."""
    trials: tuple[Trial, ...]
    baseline: str = ""
    """The label of the method that others are compared with; empty: there is none."""
    metric: str = ""
    """What methods are judged by; empty: the run's own first metric."""
    target: float | None = None
    """A value of the metric, to tell what it costs to get there."""

    @classmethod
    def read(cls, path: Path) -> "Study":
        """The study in the file `path`; ConfigError, before anything runs, on a file or a point that cannot be."""
        raw = read_scenario(path)
        if unknown := sorted(raw.keys() - set(KEYS)):
            raise ConfigError(f"study {path} has {unknown[0]!r}, expected {', '.join(KEYS)}")
        name = str(raw.get("name", path.stem))
        directory = Path(str(raw.get("runs-dir", "runs"))).expanduser().absolute() / name
        scenario = read_scenario(path.parent / str(raw["scenario"])) if "scenario" in raw else {}
        shared = scenario | _table(raw, "set")
        points = list(_points(_axes(raw, "grid"), _axes(raw, "zip")))
        trials = tuple(_trials(shared, points, directory))
        labels = list(dict.fromkeys(trial.label for trial in trials))
        baseline = str(raw.get("baseline", ""))
        if baseline and baseline not in labels:
            raise ConfigError(f"baseline {baseline!r} of study {path} is no method of it: {', '.join(labels)}")
        target = raw.get("target")
        if not (target is None or (isinstance(target, int | float) and not isinstance(target, bool))):
            raise ConfigError(f"target of study {path} is a number, got {target!r}")
        return cls(name, directory, trials, baseline, str(raw.get("metric", "")), target)

    @property
    def labels(self) -> dict[Path, str]:
        """The method of every run's folder."""
        return {trial.directory: trial.label for trial in self.trials}


def is_study(path: Path) -> bool:
    """Whether `path` is the file of a study and not of one run: it has a grid or a zip."""
    if path.suffix != ".toml" or not path.is_file():
        return False
    try:
        return bool({"grid", "zip"} & tomllib.loads(path.read_text(encoding="utf-8")).keys())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


def _table(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = raw.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} of a study is a table of keys, [{name}], got {table!r}")
    return table


def _axes(raw: Mapping[str, Any], name: str) -> dict[str, list[Scalar]]:
    axes = _table(raw, name)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{key} in [{name}] is a list of values, got {values!r}")
        if name == "grid" and len(set(map(repr, values))) < len(values):
            raise ConfigError(f"{key} in [{name}] has a value twice: {values!r}")
    if name == "zip" and len({len(values) for values in axes.values()}) > 1:
        lengths = ", ".join(f"{key} {len(values)}" for key, values in axes.items())
        raise ConfigError(f"lists in [zip] go hand in hand and have one length, got {lengths}")
    return axes


def _points(grid: Mapping[str, list[Scalar]], hand_in_hand: Mapping[str, list[Scalar]]) -> Iterator[Point]:
    """Every combination of the grid, at every row of the zip; seeds last, so that methods come one by one."""
    if shared := grid.keys() & hand_in_hand.keys():
        raise ConfigError(f"{sorted(shared)[0]} is in [grid] and in [zip]: one of them says what it is")
    rows = [dict(zip(hand_in_hand, row, strict=True)) for row in zip(*hand_in_hand.values(), strict=True)] or [{}]
    keys = sorted(grid, key=lambda key: key == SEED)
    for row in rows:
        for values in itertools.product(*(grid[key] for key in keys)):
            yield row | dict(zip(keys, values, strict=True))


def _trials(shared: Mapping[str, Scalar], points: list[Point], directory: Path) -> Iterator[Trial]:
    taken: dict[str, Point] = {}
    for point in points:
        given = {key: value for key, value in point.items() if key != LABEL}
        config = RunConfig.from_flower({**shared, **given})
        label = label_of(point, points)
        # Of the texts as they are written: where the study's folder lies is no difference.
        decisive = {**config.to_flower(), "runs-dir": "", "run-name": "", "resume": False}
        digest = hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=4).hexdigest()
        name = f"{_slug(label)}-seed{config.seed}-{digest}"
        rooted = load_config(None, {**config.to_flower(), "runs-dir": str(directory), "run-name": name})
        trial = Trial(label, rooted)
        if digest in taken:
            raise ConfigError(f"two points of the study are the same run: {dict(taken[digest])} and {dict(point)}")
        taken[digest] = point
        yield trial


def label_of(point: Point, points: list[Point]) -> str:
    """What the method at a point is called: its label, with what else tells it from others; without the seed.

    >>> label_of({"compressor": "Natural()", "seed": 1}, [{"compressor": "Natural()"}, {"compressor": "QSGD()"}])
    'Natural()'

    One key that differs is told by its value, several by `key=value`.
    """
    zipped = {LABEL} & point.keys()
    keys = [key for key in point if key not in (SEED, LABEL) and len({repr(one.get(key)) for one in points}) > 1]
    if zipped:  # a label stands for all that goes hand in hand with it
        by_label: dict[str, set[str]] = {key: set() for key in keys}
        for one in points:
            if one[LABEL] == point[LABEL]:
                for key in keys:
                    by_label[key].add(repr(one[key]))
        rest = [f"{key}={point[key]}" for key in keys if len(by_label[key]) > 1]
        return ", ".join([str(point[LABEL]), *rest])
    if not keys:
        return "run"
    return str(point[keys[0]]) if len(keys) == 1 else ", ".join(f"{key}={point[key]}" for key in keys)


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.")[:LONGEST_SLUG] or "run"
