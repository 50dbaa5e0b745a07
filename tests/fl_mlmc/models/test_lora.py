"""Adapters: the base stays and never travels, ranks are cut like widths, and what averages of factors do."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from fl_mlmc.models import build_model, placed_model, rooted_model
from fl_mlmc.models.lora import Adapted, LoraModel
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.launch import run
from fl_mlmc.simulations.app.places import RunFailed
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector

BASE = "transformer(layers=2, stream=12, heads=3, feed_forward=10, vocabulary=11, positions=9{more})"
TOKENS = torch.tensor([[3, 4, 10, 1, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])


def lora(more: str = "", base: str = "") -> LoraModel:
    model = build_model(f"lora({BASE.format(more=base)}, rank=4, alpha=6{more})", (7,), 5)
    assert isinstance(model, LoraModel)
    return model


def drawn(model: LoraModel, seed: int = 1) -> torch.Tensor:
    vector = model.initial(seed)
    return vector + torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))


def test_only_factors_and_the_classifier_travel() -> None:
    model = lora()
    assert model.spec.size == 2 * 2 * 4 * (12 + 12) + 5 * 12 + 5
    assert dict(model.spec.units) == {"rank": 4, "classes": 5}


def test_training_moves_what_travels_and_nothing_else() -> None:
    model = lora()
    module = model.build(model.spec.units)
    load_vector(module, drawn(model))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    cross_entropy(module(TOKENS), torch.tensor([1, 2])).backward()
    optimizer.step()
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(model.spec.shapes)


def test_at_the_start_it_computes_what_its_base_does() -> None:
    model = lora()
    vector, module = model.initial(3), model.build(model.spec.units)
    load_vector(module, vector)
    base = model.frozen.base.build(model.frozen.base.spec.units)
    state = {name.replace(".base.", "."): tensor for name, tensor in module.state_dict().items() if "lora_" not in name}
    base.load_state_dict(state)
    assert torch.equal(module(TOKENS), base(TOKENS))
    assert not torch.equal(vector, model.initial(4))


def test_an_adapted_layer_is_the_layer_with_b_a_added_to_its_weight() -> None:
    layer = torch.nn.Linear(6, 5)
    adapted = Adapted(layer, 3, 0.5)
    with torch.no_grad():
        adapted.lora_a.normal_()
        adapted.lora_b.normal_()
    inputs = torch.randn(2, 7, 6)
    expected = torch.nn.functional.linear(inputs, layer.weight + 0.5 * adapted.lora_b @ adapted.lora_a, layer.bias)
    torch.testing.assert_close(adapted(inputs), expected)


@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
def test_a_narrow_client_computes_what_the_whole_does_with_its_other_ranks_at_zero(rule: str) -> None:
    model = lora()
    vector, own = drawn(model), plan(model.spec, rule, 0.5, server_round=3, client=1)
    narrow, whole = model.build(own.units), model.build(model.spec.units)
    load_vector(narrow, own.gather(vector))
    mask = torch.zeros_like(vector)
    own.scatter_add(mask, 1.0)
    load_vector(whole, vector * mask)
    assert narrow.encoder["layer"][0].attention["self"]["query"].lora_a.shape == (2, 12)
    torch.testing.assert_close(narrow(TOKENS), whole(TOKENS))


@pytest.mark.parametrize(("more", "is_exact"), [(", freeze_a=True", True), ("", False)])
def test_the_mean_of_factors_is_that_of_products_where_a_is_frozen(more: str, is_exact: bool) -> None:
    """FFA-LoRA, Sun et al. 2024, arXiv 2403.12313, section 3: mean(B_i) A = mean(B_i A)."""
    model, start = lora(more), lora(more).initial(0)
    generator = torch.Generator().manual_seed(0)
    vectors = [start + 0.3 * torch.randn(start.shape, generator=generator) for _ in range(3)]

    def product(vector: torch.Tensor) -> torch.Tensor:
        module = model.build(model.spec.units)
        load_vector(module, vector)
        query = module.encoder["layer"][0].attention["self"]["query"]
        return (query.lora_b @ query.lora_a).detach()

    products = torch.stack([product(vector) for vector in vectors]).mean(0)
    error = float((product(torch.stack(vectors).mean(0)) - products).norm() / products.norm())
    assert (error < 1e-6) == is_exact


def test_frozen_a_is_the_same_for_all_widths_and_machines() -> None:
    model, other = lora(", freeze_a=True"), lora(", freeze_a=True")
    wide, narrow = (m.build(plan(m.spec, "nested", w).units) for m, w in ((model, 1.0), (other, 0.25)))
    first = [module.encoder["layer"][1].attention["self"]["value"].lora_a for module in (wide, narrow)]
    assert torch.equal(first[0][:1], first[1])
    assert not first[0].requires_grad
    assert model.base_digest() == other.base_digest() != lora().base_digest()


def test_in_bfloat16_the_base_takes_half_the_memory_and_the_rest_is_float32() -> None:
    half, whole = lora(", dtype='bfloat16'"), lora()
    module = half.build(half.spec.units)
    load_vector(module, drawn(whole))
    exact = whole.build(whole.spec.units)
    load_vector(exact, drawn(whole))
    outputs = module(TOKENS)
    assert outputs.dtype == torch.float32
    assert {p.dtype for p in module.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}
    torch.testing.assert_close(outputs, exact(TOKENS), rtol=0.05, atol=0.2)


def test_two_tiers_share_the_memory_of_the_base() -> None:
    model = lora()
    places = {
        model.build(plan(model.spec, "nested", width).units).embeddings.word_embeddings.weight.data_ptr()
        for width in (1.0, 0.5)
    }
    assert len(places) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora(mlp, targets='quary')", "no linear layer is named 'quary'"),
        ("lora(transformer(layers=1), targets='quary')", "near: query"),
        (
            "lora(transformer(layers=1), rank=400)",
            "smaller side of layer 'encoder.layer.0.attention.self.query', which is 384",
        ),
        ("lora(transformer(layers=1), rank=0)", "at least 1"),
        ("lora(transformer(layers=1), dtype='int4')", "dtype is one of float32, bfloat16"),
        ("lora(transformer(layers=1), targets=())", "name at least one"),
        ("lora(nothing)", "unknown model 'nothing'"),
        ("lora(3)", "not of the form"),
    ],
)
def test_what_cannot_be_adapted_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        build_model(text, (7,) if "transformer" in text else (1, 8, 8), 5)


def weights_in(folder: Path, seed: int) -> Path:
    folder.mkdir()
    torch.manual_seed(seed)
    module = build_model(BASE.format(more=""), (7,), 5)
    whole = module.build(module.spec.units)
    save_file({name: tensor.contiguous() for name, tensor in whole.state_dict().items()}, folder / "model.safetensors")
    return folder


def test_a_base_is_what_its_weights_are_wherever_they_lie(tmp_path: Path) -> None:
    here, copy, other = (weights_in(tmp_path / name, seed) for name, seed in (("here", 1), ("copy", 1), ("other", 2)))
    text = f"lora({BASE.format(more=f', weights={str(here)!r}')}, rank=2)"
    digests = {
        folder.name: build_model(placed_model(text, str(folder)), (7,), 5).base_digest()
        for folder in (here, copy, other)
    }
    assert digests["here"] == digests["copy"] != digests["other"]


def changed(config: RunConfig, changes: dict[str, object]) -> dict[str, Any]:
    return {**config.to_flower(), **changes}


def test_a_path_within_is_made_absolute_however_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path / "m")
    for text in ("lora(transformer(weights='m'), 4)", "lora(transformer(6, 384, 12, 1536, 30522, 512, 'm'), 4)"):
        assert rooted_model(text) == text.replace("'m'", repr(here))
        assert placed_model(text, "/there") == text.replace("'m'", "'/there'")


def test_ranks_as_tiers_learn_and_little_travels(small: RunConfig) -> None:
    """Digits with a perceptron that stays at random: adapters and the classifier learn, on ranks 2 and 8."""
    changes = {
        "model": "lora(mlp(hidden=(64,)), rank=8, targets='1')",
        "tiers": "phone:0.25:0.5,laptop:1.0:0.5",
        "num-rounds": 12,
        "local-steps": 10,
        "learning-rate": 0.1,
        "compressor": "MLMC(TopK(fraction=0.2), values=Dither(unit=1.0))",
    }
    done = run(None, quiet=True, **changed(small, changes))
    assert (done.clients["status"] == "ok").all()
    ranks = done.clients.groupby("tier")["num_parameters"].first()
    assert dict(ranks) == {"phone": 2 * (64 + 64) + 650, "laptop": 8 * (64 + 64) + 650}
    assert done.rounds["accuracy"].iloc[-1] > 0.75
    assert done.rounds["coverage_min"].min() >= 0


def test_a_client_with_another_base_is_refused_by_its_digest(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    said = map(str, range(100))
    monkeypatch.setattr(LoraModel, "base_digest", lambda self: next(said))
    with pytest.raises(RunFailed, match="base is another one here"):
        run(None, quiet=True, **changed(small, {"model": "lora(mlp(hidden=(64,)), targets='1')"}))
