import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fl_mlmc.models import build_model
from fl_mlmc.models.transformer import EncoderLayer
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector
from fl_mlmc.submodels.laws import masked_module

TEXT = "transformer(layers=2, stream=12, heads=3, feed_forward=10, vocabulary=11, positions=9)"


@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
def test_a_sliced_encoder_equals_the_masked_one_with_moments_over_the_kept_units(rule, monkeypatch):
    """The layer norm of a masked model must leave out silent units, and attention divide by the thin head's root."""
    model = build_model(TEXT, (7,), 5)
    own = plan(model.spec, rule, 0.5, server_round=4, client=1)
    vector = model.initial(1)
    vector = vector + 0.05 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(2))
    sliced, masked = model.build(own.units).double(), masked_module(model, own, vector).double()
    load_vector(sliced, own.gather(vector))
    tokens = torch.tensor([[3, 4, 10, 1, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    expected = sliced(tokens)
    kept = torch.from_numpy(own.kept["stream"])

    def over_kept(norm, stream):
        out = torch.zeros_like(stream)
        part = nn.functional.layer_norm(stream[..., kept], (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)
        out[..., kept] = part
        return out

    monkeypatch.setattr(nn.LayerNorm, "forward", over_kept)
    for layer in masked.modules():
        if isinstance(layer, EncoderLayer):
            layer.temperature = math.sqrt(own.units["head1"])
    torch.testing.assert_close(masked(tokens), expected, rtol=1e-9, atol=1e-9)


def test_every_head_keeps_its_share_of_rows():
    model = build_model(TEXT, (7,), 5)
    own = plan(model.spec, "nested", 0.5)
    rows = torch.arange(12.0).repeat_interleave(12)  # each row of a (12, 12) tensor holds its own number
    full = model.build(model.spec.units)
    load_vector(full, torch.zeros(model.spec.size))
    full.encoder["layer"][0].attention["self"]["query"].weight.data = rows.view(12, 12)
    from fl_mlmc.submodels.flat import to_vector

    part = model.build(own.units)
    load_vector(part, own.gather(to_vector(full)))
    query = part.encoder["layer"][0].attention["self"]["query"].weight
    assert query.shape == (6, 6)
    assert query[:, 0].tolist() == [0, 1, 4, 5, 8, 9]  # two of each head's four


def test_padding_changes_nothing():
    model = build_model(TEXT, (7,), 5)
    module = model.build(model.spec.units)
    short, padded = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, 0, 0]])
    torch.testing.assert_close(module(short), module(padded))
    torch.testing.assert_close(module(short), module(short.float()))


def stored(directory, **changes):
    model = build_model(TEXT, (7,), 5)
    module = model.build(model.spec.units)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items() if "classifier" not in name}
    tensors["embeddings.position_ids"] = torch.arange(9)[None]
    tensors["pooler.dense.weight"] = torch.zeros(12, 12)
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    save_file({f"bert.{name}": tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    return tensors


def test_weights_load_by_name_and_the_classifier_starts_anew(tmp_path):
    tensors = stored(tmp_path)
    model = build_model(TEXT[:-1] + f", weights={str(tmp_path)!r})", (7,), 5)
    module = model.build(model.spec.units)
    load_vector(module, model.initial(0))
    for name, tensor in module.state_dict().items():
        assert "classifier" in name or torch.equal(tensor, tensors[name])
    assert module.classifier.weight.any()


NAME = "encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NAME: None}, "model.safetensors has no tensor 'encoder.layer.1.output.dense.weight'"),
        (
            {NAME: torch.zeros(12, 11)},
            r"'encoder.layer.1.output.dense.weight' .* has shape \(12, 11\), the model expects \(12, 10\); set the",
        ),
    ],
)
def test_weights_that_do_not_fit_are_an_error_that_names_the_tensor(tmp_path, changes, message):
    stored(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        build_model(TEXT[:-1] + f", weights={str(tmp_path)!r})", (7,), 5).initial(0)


@pytest.mark.parametrize("content", [b"", b"no safetensors", bytes(100)])
def test_weights_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/model.safetensors cannot be read as safetensors: "):
        build_model(TEXT[:-1] + f", weights={str(tmp_path)!r})", (7,), 5).initial(0)


def test_a_directory_without_weights_is_an_error():
    with pytest.raises(ValueError, match=r"/nowhere/model\.safetensors does not exist"):
        build_model(TEXT[:-1] + ", weights='/nowhere')", (7,), 5).initial(0)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (TEXT, (10,), r"at most positions=9, the data has \(10,\)"),
        ("transformer(stream=10, heads=3)", (7,), "stream=10 is not a multiple of heads=3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(text, shape, message):
    with pytest.raises(ValueError, match=message):
        build_model(text, shape, 2)
