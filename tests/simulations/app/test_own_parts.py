"""Runs of the user's own parts: all keys at once, and the same bytes on every engine."""

import json
from pathlib import Path

import numpy as np
import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.models import load_exported
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations import RunFailed
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.export import export

PARTS = """
from dataclasses import dataclass

import torch
from torch import nn

from fl_mlmc import TopK
from fl_mlmc.aggregation import Average
from fl_mlmc.schemes.direct import Direct
from fl_mlmc.submodels.rules import RULES
from layers import block


@dataclass(frozen=True, repr=False)
class Largest(TopK):
    pass


@dataclass(frozen=True, repr=False)
class Plainly(Direct):
    name = "plainly"


@dataclass(frozen=True)
class Mean(Average):
    pass


class Step(torch.optim.SGD):
    pass


def first():
    return RULES["nested"]


def net(input_shape, num_classes, width=1.0, hidden=12):
    units = max(1, int(hidden * width))
    return nn.Sequential(nn.Flatten(), block(64, units), nn.Dropout(0.2), nn.Linear(units, num_classes))


def scaled(input_shape, num_classes, width=1.0):
    class Scaled(nn.Linear):
        def forward(self, pixels):
            return super().forward(pixels.flatten(2).expand(-1, int(4 * width), -1).flatten(1)) / width

    return Scaled(64 * int(4 * width), num_classes)
"""
LAYERS = """
from torch import nn


def block(before, after):
    return nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
"""
TEXTS = {
    "model": "net(hidden=10)",
    "compressor": "Largest(fraction=0.2)",
    "scheme": "Plainly",
    "aggregation": "Mean()",
    "client_optimizer": "Step",
    "server_optimizer": "Step(momentum=0.5)",
}


@pytest.fixture
def config(small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    Path("parts.py").write_text(PARTS)
    Path("layers.py").write_text(LAYERS)
    own = {key: f"parts.py:{text}" for key, text in TEXTS.items()}
    own["compressor"] = f"MLMC({own['compressor']})"
    return load_config(None, {**small.to_flower(), **own, "tiers": "phone:0.5:0.5,gateway:1.0:0.5"})


def test_every_part_may_be_ones_own(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    monkeypatch.chdir("/")
    result = execute(config)
    assert (read_clients(result.directory)["status"] == "ok").all()
    assert read_rounds(result.directory)["accuracy"].notna().any()
    header = json.loads((result.directory / "run.json").read_text())
    assert sorted(header["own_files"]) == [f"{here}/layers.py", f"{here}/parts.py"]
    assert header["config"]["model"] == f"{here}/parts.py:net(hidden=10)"
    again = execute(config.changed(run_name="again"))
    assert all(np.array_equal(result.arrays[name], again.arrays[name]) for name in result.arrays)  # dropout too


def test_a_resume_sees_that_a_neighbour_changed(config: RunConfig) -> None:
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    directory = Path(config.output.runs_dir) / config.output.run_name
    Path("layers.py").write_text(LAYERS.replace("ReLU", "GELU"))
    with pytest.raises(ConfigError, match=r"the file \S*layers.py: its digest was"):
        execute(load_run(directory))


PAIR = ("weight", "bias")
FROZEN = """
from torch import nn


def net(input_shape, num_classes):
    backbone, head = nn.Linear(64, 32), nn.Linear(32, num_classes)
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    return nn.Sequential(nn.Flatten(), backbone, nn.ReLU(), head)
"""


def test_of_a_frozen_backbone_nothing_is_sent(config: RunConfig) -> None:
    Path("frozen.py").write_text(FROZEN)
    full = {"model": "frozen.py:net", "tiers": "all:1:1", "compressor": "Identity()", "num_rounds": 12}
    full |= {"server_optimizer": "sgd", "local_epochs": 5, "learning_rate": 0.1, "local_steps": 0}
    result = execute(load_config(None, {**config.to_flower(), **full, "scheme": "direct"}))
    assert {name: array.shape for name, array in result.arrays.items()} == {"3.weight": (10, 32), "3.bias": (10,)}
    assert json.loads((result.directory / "run.json").read_text())["num_parameters"] == 330
    assert read_clients(result.directory)["payload_bytes"].max() < 4 * 330 + 60
    assert read_rounds(result.directory)["accuracy"].iloc[-1] > 0.6
    export(result.directory, Path("whole.safetensors"))
    with pytest.raises(ValueError, match=r"is a model of '\S*frozen.py:net', which would be run"):
        load_exported("whole.safetensors")
    assert list(load_exported("whole.safetensors", own=True).state_dict()) == [f"{n}.{p}" for n in "13" for p in PAIR]
    with pytest.raises(ConfigError, match=r"it takes no width, and a tier has width 0.5.*tier 'phone'"):
        execute(load_config(None, {**config.to_flower(), **full, "tiers": "phone:0.5:1", "run_name": "narrow"}))
    with pytest.raises(ValueError, match=r"vectorize = true: 1.weight does not train"):
        execute(
            load_config(None, {**config.to_flower(), **full, "vectorize": True, "engine": "ray", "run_name": "at-once"})
        )


BAD_STEP = """
import torch


class Step(torch.optim.SGD):
    def step(self, closure=None):
        raise KeyError("momentum")
"""


def test_what_fails_within_a_run_is_told_with_the_users_line_first(config: RunConfig) -> None:
    Path("bad.py").write_text(BAD_STEP)
    with pytest.raises(RunFailed, match=r"^\S*bad.py, line 7, in step: KeyError: 'momentum'"):
        execute(load_config(None, {**config.to_flower(), "server_optimizer": "bad.py:Step"}))
    status = json.loads((Path(config.output.runs_dir) / config.output.run_name / "run.json").read_text())["status"]
    assert status.startswith(f"failed: {Path.cwd()}/bad.py, line 7, in step")


@pytest.mark.slow
def test_rays_workers_compute_the_same(config: RunConfig) -> None:
    local, ray = (execute(config.changed(engine=engine, run_name=engine)) for engine in ("local", "ray"))
    assert all(np.array_equal(local.arrays[name], ray.arrays[name]) for name in local.arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "parts.py:net(hidden='x')"},
            r"^\S*parts.py, line \d+, in net: TypeError.*while model ",
        ),
        (
            {"model": "parts.py:first"},
            r"model = 'parts.py:first': .*too many pos.*; a run calls it with 2",
        ),
        (
            {"model": "parts.py:scaled", "width_rule": "parts.py:first", "tiers": "phone:0.5:1.0"},
            r"cut by width-rule '\S*parts.py:first', .* is not certain.*tier 'phone'",
        ),
        ({"width_rule": "parts.py:net"}, "width-rule = 'parts.py:net'"),
        ({"dataset": "parts.py:gone"}, r"^dataset = '\S*parts.py:gone': \S*parts.py has no object 'gone'"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_starts(config: RunConfig, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        execute(load_config(None, {**config.to_flower(), **changes}))
