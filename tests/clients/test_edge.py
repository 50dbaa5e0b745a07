"""The client app from a built bundle, in an environment made from clients/requirements-edge.txt and our wheel."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)  # it downloads torch
def test_a_round_of_every_tier_in_an_environment_of_the_edge_requirements_alone(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("edge", ROOT / "benchmarks" / "edge.py")
    assert spec is not None
    assert spec.loader is not None
    edge = importlib.util.module_from_spec(spec)
    sys.modules["edge"] = edge
    spec.loader.exec_module(edge)
    python = edge.make_environment(tmp_path / "venv")
    installed = set(edge.installed_bytes(tmp_path / "venv"))
    assert {"flwr", "torch", "numpy", "fl_mlmc"} <= installed
    assert not installed & {"ray", "pandas", "datasets", "sklearn", "matplotlib", "pyarrow", "clients", "deploy"}
    node = [python, "-m", "fl_mlmc.deploy", "node", "--help"]
    assert "DEVICE_DIR" in subprocess.run(node, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    bundle = edge.build_bundle(tmp_path)
    config = edge.edge_config("mlp(hidden=(16,))")
    meta = edge.write_examples(tmp_path / "own.csv", config)
    for tier in edge.TIERS:
        seen = edge.run_round(python, bundle, tmp_path / "own.csv", config, meta, tier)
        assert seen.unwanted == []
        assert seen.num_examples > 400
        assert 0 < seen.payload_bytes < 4 * seen.num_parameters
        assert seen.peak_bytes < 600e6
