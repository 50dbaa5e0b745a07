from pathlib import Path

import torch

from fl_mlmc.models import build_model
from fl_mlmc.models.base import to_vector
from strategies.checkpoint import ServerState, load_checkpoint, load_state, save_state


def test_a_checkpoint_holds_the_named_tensors(tmp_path: Path) -> None:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    vector = model.initial(5)
    save_state(tmp_path / "checkpoint", model.spec, ServerState(4, vector))
    save_state(tmp_path / "checkpoint", model.spec, ServerState(5, vector + 1, {"momentum": vector}, 7, {"a": 3}))
    tensors = load_checkpoint(tmp_path / "checkpoint")
    assert [(name, tuple(tensor.shape)) for name, tensor in tensors.items()] == list(model.spec.shapes.items())
    module = model.build(model.spec.units)
    module.load_state_dict(tensors)
    assert torch.equal(to_vector(module), vector + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint-5"]
    state = load_state(tmp_path / "checkpoint")
    assert state is not None
    assert (state.server_round, state.cumulative_uplink_bytes, state.log_sizes) == (5, 7, {"a": 3})
    assert torch.equal(state.vector, vector + 1)
    assert torch.equal(state.optimizer["momentum"], vector)


def test_where_nothing_was_saved_there_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "checkpoint") is None
