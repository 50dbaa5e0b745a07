"""A run's model as a file: plain torch loads it, at the width of a tier, and it says what the run said."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import load_exported
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations import RunResult, run
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.cli import app
from fl_mlmc.simulations.export import export
from tests.simulations.app.test_launch import settings

TIERS = "phone:0.5:0.5,gateway:1:0.5"


def trained(config: RunConfig, **changes: object) -> tuple[RunResult, Tensor, Tensor]:
    """A run's result, and the test split of its data."""
    config = config.changed(tiers=TIERS, num_rounds=2, **changes)
    result = run(None, quiet=True, **settings(config))
    features, labels = FederatedData.open(prepare_data(config)).test()
    return result, torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize(
    "model", ["mlp(hidden=(16,))", "cnn(conv=(4,8),norm='static',scaler=True)", "lora(mlp, targets='1')"]
)
def test_the_whole_model_scores_as_the_run_did(small: RunConfig, tmp_path: Path, model: str) -> None:
    result, features, labels = trained(small, model=model)
    export(result.directory, tmp_path / "model.safetensors")
    with torch.inference_mode():
        right = load_exported(tmp_path / "model.safetensors")(features).argmax(1) == labels
    assert float(right.float().mean()) == pytest.approx(result.rounds["accuracy"].iloc[-1], abs=1e-6)


def test_plain_torch_loads_a_tiers_submodel(small: RunConfig, tmp_path: Path) -> None:
    result, features, _ = trained(small, model="mlp(hidden=(16,))")
    for name in ("phone.safetensors", "phone.pt"):
        export(result.directory, tmp_path / name, "phone")
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    module.load_state_dict(load_file(tmp_path / "phone.safetensors"))
    first = module(features)
    assert torch.equal(first, load_exported(tmp_path / "phone.safetensors")(features))
    module.load_state_dict(torch.load(tmp_path / "phone.pt", weights_only=True))
    assert torch.equal(first, module(features))
    assert torch.equal(module[1].weight, torch.from_numpy(result.arrays["1.weight"])[:8])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "--to", "model.onnx"], "a file that ends in .safetensors or .pt, got 'model.onnx'"),
        (["RUN", "--to", "m.pt", "--tier", "phon"], "phone"),
        (["NOWHERE", "--to", "m.pt"], "holds no run"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(
    small: RunConfig, tmp_path: Path, words: list[str], said: str
) -> None:
    directory = Path(small.output.runs_dir) / "small"
    run(None, quiet=True, **settings(small.changed(tiers=TIERS, num_rounds=1)))
    done = CliRunner().invoke(app, ["export", str(directory) if words[0] == "RUN" else str(tmp_path), *words[1:]])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not Path("m.pt").exists()


def test_the_command_says_how_to_load_it(small: RunConfig, tmp_path: Path) -> None:
    result, _, _ = trained(small, model="mlp(hidden=(16,))")
    target = tmp_path / "phone.safetensors"
    done = CliRunner().invoke(app, ["export", str(result.directory), "--tier", "phone", "--to", str(target)])
    assert done.exit_code == 0
    told = next(line for line in done.output.splitlines() if line.startswith("load it"))
    names: dict[str, nn.Module] = {}
    exec(told.removeprefix("load it").strip(), names)
    assert isinstance(names["module"], nn.Module)
    other = tmp_path / "plain.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="does not say how its module is built"):
        load_exported(other)
