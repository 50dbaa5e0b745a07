import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_mlmc.models import build_model
from fl_mlmc.run.log import Written
from fl_mlmc.strategies.checkpoint import CheckpointError, ServerState, load_checkpoint, load_state, save_state
from fl_mlmc.submodels.flat import to_vector


def test_a_checkpoint_holds_the_named_tensors(tmp_path: Path) -> None:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    vector = model.initial(5)
    save_state(tmp_path / "checkpoint", model.spec, ServerState(4, vector))
    later = ServerState(5, vector + 1, {"momentum": vector}, 7, {"a": Written(3)})
    save_state(tmp_path / "checkpoint", model.spec, later)
    tensors = load_checkpoint(tmp_path / "checkpoint")
    assert [(name, tuple(tensor.shape)) for name, tensor in tensors.items()] == list(model.spec.shapes.items())
    module = model.build(model.spec.units)
    module.load_state_dict(tensors)
    assert torch.equal(to_vector(module), vector + 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint-4", "checkpoint-5"]
    state = load_state(tmp_path / "checkpoint")
    assert state is not None
    assert (state.server_round, state.cumulative_uplink_bytes, state.log) == (5, 7, {"a": Written(3)})
    assert torch.equal(state.vector, vector + 1)
    assert torch.equal(state.optimizer["momentum"], vector)


def test_where_nothing_was_saved_there_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "checkpoint") is None


def link_followed(link: Path) -> None:
    """As `cp -rL`, scp, zip and most clouds do it: the round's folder is there twice."""
    link.rename(link.with_name("was"))
    shutil.copytree(link.with_name("was"), link)
    link.with_name("was").unlink()


def link_followed_and_nothing_else(link: Path) -> None:
    link_followed(link)
    shutil.rmtree(link.with_name("checkpoint-2"))


def link_lost(link: Path) -> None:
    link.unlink()


def link_as_text(link: Path) -> None:
    """As zip and git do it where links are not to be had."""
    link.unlink()
    link.write_text("checkpoint-2")


def link_as_an_empty_folder(link: Path) -> None:
    link.unlink()
    link.mkdir()


@pytest.mark.parametrize(
    "copied", [link_followed, link_followed_and_nothing_else, link_lost, link_as_text, link_as_an_empty_folder]
)
def test_a_copied_checkpoint_is_read_and_followed_by_a_link(tmp_path: Path, copied: Callable[[Path], None]) -> None:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    link, vector = tmp_path / "checkpoint", model.initial(5)
    save_state(link, model.spec, ServerState(2, vector))
    copied(link)
    state = load_state(link)
    assert state is not None
    assert state.server_round == 2
    assert torch.equal(state.vector, vector)
    assert list(load_checkpoint(link)) == list(model.spec.shapes)
    save_state(link, model.spec, ServerState(3, vector + 1))
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint-2", "checkpoint-3"]
    assert load_state(link).server_round == 3  # type: ignore[union-attr]


def test_a_folder_that_was_not_finished_is_no_checkpoint(tmp_path: Path) -> None:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    link = tmp_path / "checkpoint"
    save_state(link, model.spec, ServerState(2, model.initial(5)))
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-3")
    (tmp_path / "checkpoint-3" / "state.json").unlink()
    link.unlink()
    assert load_state(link).server_round == 2  # type: ignore[union-attr]


def two_rounds(folder: Path) -> tuple[Path, torch.Tensor]:
    model = build_model("mlp(hidden=(3,))", (2,), 2)
    vector = model.initial(5)
    for number in (2, 3):
        state = ServerState(number, vector + number, {"momentum": vector}, 7, {"a": Written(3)}, {"memory": vector})
        save_state(folder / "checkpoint", model.spec, state)
    return folder / "checkpoint", vector


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "scheme.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_spoilt_file_is_named_and_the_checkpoint_before_is_offered(tmp_path: Path, name: str, how: str) -> None:
    link, vector = two_rounds(tmp_path)
    path = tmp_path / "checkpoint-3" / name
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    else:
        at = content.index(b"7") if name == "state.json" else -1
        content[at] ^= 1
        path.write_bytes(content if how == "flipped" else content[:-1] if name != "state.json" else content[:-2])
    if (how, name) == ("gone", "state.json"):  # a folder without it was never finished: the one before counts
        assert load_state(link).server_round == 2  # type: ignore[union-attr]
        return
    with pytest.raises(CheckpointError, match=r"checkpoint-3 is damaged: .*Delete .*checkpoint-3 .* checkpoint-2$"):
        load_state(link)
    shutil.rmtree(tmp_path / "checkpoint-3")
    state = load_state(link)
    assert state is not None
    assert state.server_round == 2
    assert torch.equal(state.vector, vector + 2)


def test_a_checkpoint_of_before_digests_is_read(tmp_path: Path) -> None:
    link, vector = two_rounds(tmp_path)
    facts = json.loads((link / "state.json").read_text())
    del facts["digests"], facts["digest"]
    (link / "state.json").write_text(json.dumps(facts))
    assert torch.equal(load_state(link).vector, vector + 3)  # type: ignore[union-attr]


def test_a_file_system_without_links_keeps_the_last_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    link, vector = two_rounds(tmp_path)
    assert not link.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert torch.equal(load_state(link).vector, vector + 3)  # type: ignore[union-attr]
