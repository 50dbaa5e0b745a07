import numpy as np
import pytest
import torch
from torch import nn

from fl_mlmc.data.spec import DataSpec
from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.ordered_dropout import OrderedDropout
from fl_mlmc.training.tier_losses import (
    distillation_weight,
    exits_loss,
    local_loss,
    masked_cross_entropy,
    ordered_dropout_loss,
    present_classes,
    soft_cross_entropy,
)

LOGITS, LABELS = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]]), torch.tensor([0, 1])


def classes(count: int) -> DataSpec:
    return DataSpec((4,), count, tuple(map(str, range(count))), "vector")


def test_absent_classes_have_logit_zero_and_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss = masked_cross_entropy(present_classes(LABELS, classes(3)))(logits, LABELS)
    expected = nn.functional.cross_entropy(torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 0.0]]), LABELS)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[:, 2].any()


def test_with_all_classes_present_the_mask_changes_nothing():
    loss = masked_cross_entropy(torch.ones(3, dtype=torch.bool))(LOGITS, LABELS)
    assert torch.equal(loss, nn.functional.cross_entropy(LOGITS, LABELS))


def test_present_classes_are_those_of_the_labels():
    assert present_classes(torch.tensor([2, 0, 2]), classes(4)).tolist() == [True, False, True, False]


def test_one_exit_is_plain_cross_entropy():
    assert torch.equal(exits_loss([LOGITS], LABELS, 1.0), nn.functional.cross_entropy(LOGITS, LABELS))


def test_exits_learn_from_each_other_by_mean_divergence():
    logits = [LOGITS, LOGITS.flip(1), LOGITS * 2]
    p = [part.softmax(1) for part in logits]
    kl = [[float((p[j] * (p[j] / p[i]).log()).sum(1).mean()) for j in range(3) if j != i] for i in range(3)]
    expected = sum(float(nn.functional.cross_entropy(part, LABELS)) for part in logits)
    expected += 0.3 * sum(sum(row) / 2 for row in kl)
    assert float(exits_loss(logits, LABELS, 0.3)) == pytest.approx(expected, rel=1e-5)


def test_the_distillation_weight_rises_to_one():
    weights = [distillation_weight(server_round) for server_round in (0, 100, 299, 300, 1000)]
    assert weights[0] == pytest.approx(np.exp(-5))
    assert weights == sorted(weights)
    assert weights[-2:] == [1.0, 1.0]


def test_self_distillation_adds_the_full_ones_softmax_as_target_without_its_gradient():
    model = build_model("mlp(hidden=(8,))", (3,), 3)
    module = model.build(model.spec.units)
    dropout = OrderedDropout(model, module, 1.0, (0.5, 1.0))
    inputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for seed in range(4):
        width = dropout.draw(np.random.default_rng(seed))
        loss = ordered_dropout_loss(dropout, inputs, labels, np.random.default_rng(seed), distill=True)
        wide = module(inputs)
        expected = nn.functional.cross_entropy(wide, labels) + soft_cross_entropy(dropout(width, inputs), wide)
        torch.testing.assert_close(loss, expected)
    teacher = LOGITS.clone().requires_grad_()
    soft_cross_entropy(LOGITS.clone().requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("rule", ["nested", "rolling", "random", "depth", "ordered-dropout"])
def test_every_rule_has_a_loss_that_training_lowers(rule):
    torch.manual_seed(0)
    text = "resnet18(hidden=(4, 4, 8, 8), depths=(1, 1, 1, 1), exits=True)"
    model = build_model(text, (1, 16, 16), 3)
    own = plan(model.spec, rule, 0.5, server_round=3)
    module = model.build(own.units).train()
    loss = local_loss(model, module, rule, 0.5, 3, np.random.default_rng(0), (0.25, 0.5, 1.0), distill=True)
    inputs, labels = torch.randn(12, 1, 16, 16), torch.arange(12) % 3
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        value = loss(inputs, labels)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
