from pathlib import Path

import torch

from fl_mlmc.models import build_model
from fl_mlmc.models.base import to_vector
from strategies.checkpoint import load_checkpoint, save_checkpoint


def test_a_checkpoint_holds_the_named_tensors(tmp_path: Path) -> None:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    vector = model.initial(5)
    save_checkpoint(tmp_path / "checkpoint", model.spec, vector, 4)
    save_checkpoint(tmp_path / "checkpoint", model.spec, vector + 1, 5)
    tensors = load_checkpoint(tmp_path / "checkpoint")
    assert [(name, tuple(tensor.shape)) for name, tensor in tensors.items()] == list(model.spec.shapes.items())
    module = model.build(model.spec.units)
    module.load_state_dict(tensors)
    assert torch.equal(to_vector(module), vector + 1)
    assert not list((tmp_path / "checkpoint").glob("*.partial"))
