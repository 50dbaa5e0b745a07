"""An objective is one loss for training and evaluation, tells its data what to be, and refuses what does not fit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fl_mlmc.data.spec import DataSpec, Targets
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.training.metrics import Mean
from fl_mlmc.training.objectives import OBJECTIVES, Objective, parse_objective


def spec(targets: Targets, count: int) -> DataSpec:
    return DataSpec((5,), count, tuple(map(str, range(count))), "vector", targets)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("count", [2, 4])
def test_every_objective_fits_its_own_targets(name: str, count: int) -> None:
    objective = parse_objective(name)
    about = spec(objective.targets, count)
    objective.check(about)
    targets = objective.some_targets(about)
    assert targets.shape[1:] == about.target_shape
    for shape in objective.output_shapes(about, 2):
        outputs = torch.randn(shape, requires_grad=True)
        loss = objective.criterion(outputs, targets)
        loss.backward()
        assert outputs.grad is not None
        got = objective.score([(outputs.detach(), targets)], objective.chosen(""))
        assert got["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert list(got) == ["loss", *objective.chosen("")]


def test_cross_entropy_is_what_was_trained_before_there_were_objectives() -> None:
    assert parse_objective("cross_entropy").criterion is nn.functional.cross_entropy
    assert RunConfig().training.metric_names == ("loss", "accuracy")


def test_outputs_of_one_number_are_not_broadcast_over_targets() -> None:
    outputs, targets = torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [2.0]])
    assert float(parse_objective("mse").criterion(outputs, targets)) == 0


def test_padding_is_no_token_to_foretell() -> None:
    outputs, targets = torch.randn(2, 3, 6), torch.tensor([[0, 0, 4], [0, 1, 2]])
    wanted = nn.functional.cross_entropy(outputs[[0, 1, 1], [2, 1, 2]], torch.tensor([4, 1, 2]))
    assert torch.equal(parse_objective("next_token").criterion(outputs, targets), wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "mse2"}, "objective = 'mse2': unknown objective 'mse2'; known: bce, cross_entropy, mse, next"),
        (
            {"objective": "mse", "metrics": "accuracy"},
            "metrics = 'accuracy': no metric 'accuracy' here; known: mae",
        ),
        ({"objective": "bce", "distill": True}, "distill counts on logits of one class"),
        ({"objective": "mse", "masked-cross-entropy": True}, "masked-cross-entropy counts on logits of one class"),
        ({"objective": "mse", "average-by-label": True}, "average-by-label counts on logits of one class"),
        ({"objective": "mse", "partition": "dirichlet:1"}, "partition 'dirichlet:1' shares rows out by their class"),
        ({"objective": "mse", "partition": "shards:2"}, "partition 'shards:2' shares rows out by their class"),
        ({"objective": "mse", "task": "bilevel", "scheme": "rabo"}, "objective is for task 'classification'"),
        ({"evaluate-clients": 0.1, "task": "bilevel", "scheme": "rabo"}, "evaluate-clients is for task 'classif"),
        ({"evaluate-clients": 1.0}, "evaluate-clients = 1.0: Input should be less than 1"),
        ({"test-share": -0.1}, "test-share = -0.1: Input should be greater than or equal to 0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_key(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig.from_flower(changes)
    assert message in str(refused.value)


def test_an_objective_of_ones_own_is_checked() -> None:
    with pytest.raises(ValueError, match=r"targets is one of 'classes', 'reals', 'flags', 'tokens', got 'numbers'"):
        Objective(nn.functional.mse_loss, "numbers")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no metric 'mae' here; known: none"):
        Objective(nn.functional.mse_loss, "reals", usual=("mae",))

    def each(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()

    with pytest.raises(ValueError, match=r"the loss is to be one number .* got \(2, 3\)"):
        Objective(each, "reals").check(spec("reals", 3))
    pinball = Objective(
        lambda o, t: torch.maximum(0.9 * (t - o), 0.1 * (o - t)).mean(),
        "reals",
        {"covered": lambda: Mean(lambda o, t: (float((t <= o).sum()), t.numel()), higher_is_better=True)},
    )
    pinball.check(spec("reals", 3))
    got = pinball.score([(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [2.0]]))], ("covered",))
    assert got == {"loss": pytest.approx((0.9 + 0.1) / 2), "covered": 0.5}


def test_an_objective_of_ones_own_is_found_by_file_and_blamed_by_line(tmp_path: Path) -> None:
    path = tmp_path / "losses.py"
    path.write_text(
        "from torch import nn\n"
        "from fl_mlmc.training.objectives import Objective\n"
        "huber = Objective(nn.functional.huber_loss, 'reals')\n"
        "def smooth(beta):\n"
        "    return Objective(lambda o, t: nn.functional.smooth_l1_loss(o, t, beta=beta), 'reals')\n"
        "wrong = Objective(lambda o, t: o.nothing(t), 'reals')\n"
    )
    parse_objective(f"{path}:huber").check(spec("reals", 2))
    parse_objective(f"{path}:smooth(beta=0.5)").check(spec("reals", 2))
    assert RunConfig(objective=f"{path}:huber").training.metric_names == ("loss",)
    with pytest.raises(ValueError, match=rf"^{path}, line 6, in <lambda>: AttributeError: .*nothing"):
        parse_objective(f"{path}:wrong").check(spec("reals", 2))
    with pytest.raises(ConfigError, match="has no object 'hubber'; it defines"):
        RunConfig.from_flower({"objective": f"{path}:hubber"})
    path.write_text("huber = 3\n")
    with pytest.raises(ValueError, match="gives a int, expected a Objective"):
        parse_objective(f"{path}:huber")
