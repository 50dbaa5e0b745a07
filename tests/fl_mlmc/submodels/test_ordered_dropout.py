import numpy as np
import pytest
import torch

from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.flat import load_vector, to_vector
from fl_mlmc.submodels.ordered_dropout import OrderedDropout

MODELS = {
    "cnn": ("cnn(conv=(8, 8), dense=6)", (1, 8, 8)),
    "resnet-batch": ("resnet18(hidden=(4, 4, 8, 8), depths=(1, 1, 1, 1), norm='batch')", (3, 16, 16)),
    "resnet-static": ("resnet18(hidden=(4, 4, 8, 8), depths=(1, 1, 1, 1))", (3, 16, 16)),
    "resnet-group": ("resnet18(hidden=(4, 4, 8, 8), depths=(1, 1, 1, 1), norm='group', groups=2)", (3, 16, 16)),
    "resnet-widths": (
        "resnet18(hidden=(4, 4, 8, 8), depths=(1, 1, 1, 1), norm='batch', widths=(0.25, 0.5, 0.75, 1.0))",
        (3, 16, 16),
    ),
    "char-lstm": ("char_lstm(embedding=4, hidden=(8, 8), vocabulary=11)", (9,)),
    "transformer": ("transformer(layers=2, stream=12, heads=3, feed_forward=8, vocabulary=11)", (9,)),
}
CAP, WIDTHS = 0.75, (0.25, 0.5, 0.75, 1.0)


def module_at(model, vector, width):
    own = plan(model.spec, "ordered-dropout", width)
    module = model.build(own.units)
    load_vector(module, own.gather(vector))
    return module, own


def inputs_for(shape):
    return torch.randint(11, (3, *shape)) if len(shape) == 1 else torch.randn(3, *shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.25, 0.5, 0.75])
def test_running_narrow_is_running_the_narrow_submodel(name, width):
    """Logits, gradients and running statistics are those of the submodel cut at that width."""
    torch.manual_seed(0)
    text, shape = MODELS[name]
    model, inputs = build_model(text, shape, 5), inputs_for(shape)
    vector = model.initial(1)
    wide, own = module_at(model, vector, CAP)
    narrow, inner = module_at(model, vector, width)
    logits = OrderedDropout(model, wide, CAP, WIDTHS)(width, inputs)
    expected = narrow(inputs)
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for wanted in ("state", "gradient"):
        vectors = []
        for part, placed in ((wide, own), (narrow, inner)):
            if wanted == "gradient":
                for buffer in part.buffers():
                    buffer.zero_()
                for parameter in part.parameters():
                    parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            full = torch.zeros(model.spec.size) if wanted == "gradient" else vector.clone()
            full[placed.indices] = to_vector(part)
            vectors.append(full)
        # A narrow submodel has no statistics of other widths, so it leaves the full model's where they were.
        torch.testing.assert_close(vectors[0], vectors[1], rtol=1e-4, atol=1e-5)


def test_a_client_draws_every_width_up_to_its_own_alike():
    model = build_model("mlp(hidden=(10,))", (3,), 2)
    dropout = OrderedDropout(model, model.build(model.spec.kept(0.6)), 0.6)
    assert dropout.widths == (0.2, 0.4, 0.6)
    rng = np.random.default_rng(0)
    drawn = [dropout.draw(rng) for _ in range(3000)]
    assert all(abs(drawn.count(width) - 1000) < 120 for width in dropout.widths)


def test_a_cap_below_all_widths_is_the_only_width():
    model = build_model("mlp(hidden=(10,))", (3,), 2)
    dropout = OrderedDropout(model, model.build(model.spec.kept(0.1)), 0.1)
    assert dropout.widths == (0.1,)
    with pytest.raises(ValueError, match=r"runs at 0\.1, got 0\.2"):
        dropout(0.2, torch.randn(1, 3))
