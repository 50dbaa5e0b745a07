import dataclasses
from pathlib import Path

import pytest
import torch

from fl_mlmc.bilevel import BilevelProblem, Held, Point
from fl_mlmc.bilevel.problems import build_problem
from fl_mlmc.bilevel.quadratic import quadratic
from fl_mlmc.submodels import Axis, WidthSpec, plan


def backbone_and_head(lower: str = "global") -> BilevelProblem:
    """A layer of six hidden units as x, a head over them as y."""
    x = WidthSpec({"hidden": 6}, {"weight": (6, 4)}, {"weight": (Axis("hidden"), None)})
    y = WidthSpec({"hidden": 6}, {"head": (3, 6), "bias": (3,)}, {"head": (None, Axis("hidden")), "bias": (None,)})
    return BilevelProblem(lambda x, y, batch: torch.zeros(()), lambda x, y, batch: torch.zeros(()), x, y, lower=lower)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
def test_head_inputs_follow_the_outputs_of_the_backbone(rule: str) -> None:
    held = Held.of(backbone_and_head(), rule, 0.5, server_round=4, client=2, seed=1)
    assert held.outer.kept["hidden"].tolist() == held.inner.kept["hidden"].tolist()
    assert (held.outer.size, held.inner.size) == (3 * 4, 3 * 3 + 3)


@pytest.mark.parametrize("rule", ["nested", "rolling", "random"])
def test_what_travels_is_x_y_and_v_one_after_the_other(rule: str) -> None:
    problem = backbone_and_head()
    held = Held.of(problem, rule, 0.5, server_round=4, client=2, seed=1)
    joint = plan(problem.state_spec, rule, 0.5, 4, 2, 1)
    point = Point(torch.randn(24), torch.randn(21), torch.randn(21))
    assert torch.equal(joint.gather(torch.cat(point)), torch.cat(held.gather(point)))
    assert joint.size == held.num_values == held.outer.size + 2 * held.inner.size


def test_a_personal_y_does_not_travel() -> None:
    problem = backbone_and_head("personal")
    held = Held.of(problem, "nested", 0.5)
    assert plan(problem.state_spec, "nested", 0.5).size == held.num_values == held.outer.size


def test_x_and_y_must_agree_on_a_hidden_dimension() -> None:
    problem = backbone_and_head()
    other = WidthSpec({"hidden": 5}, {"head": (5,)}, {"head": (Axis("hidden"),)})
    with pytest.raises(ValueError, match="'hidden' has 6 units in x and 5 in y"):
        dataclasses.replace(problem, inner_spec=other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lower": "local"}, "'global' or 'personal', got 'local'"),
        ({"strong_convexity": -1.0}, "strong_convexity"),
        ({"outer_gradient_bound": 0.0}, "outer_gradient_bound"),
    ],
)
def test_bad_problems_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(backbone_and_head(), **change)  # type: ignore[arg-type]


def test_the_strong_convexity_term_is_added_once() -> None:
    task = quadratic(num_clients=1)
    batch = task.clients[0].inner(None)  # type: ignore[arg-type]
    x, y = torch.randn(2, 12, dtype=torch.float64)
    plain = Held.of(task.problem, "nested", 1.0).inner_loss(x, y, batch)
    ridged = Held.of(dataclasses.replace(task.problem, strong_convexity=0.3), "nested", 1.0).inner_loss(x, y, batch)
    torch.testing.assert_close(ridged - plain, 0.15 * y.square().sum())


def test_the_file_of_an_own_problem_is_read_again_once_it_changed(tmp_path: Path) -> None:
    own = tmp_path / "own.py"

    def build(ridge: float) -> BilevelProblem:
        own.write_text(
            "from dataclasses import replace\n"
            "from fl_mlmc.bilevel.tasks import hyper_representation\n"
            f"def problem(model): return replace(hyper_representation(model), strong_convexity={ridge})\n"
        )
        return build_problem(f"{own}:problem", "mlp(hidden=(4,))", (1, 2, 2), 2)

    first = build(0.25)
    assert build_problem(f"{own}:problem", "mlp(hidden=(4,))", (1, 2, 2), 2) is first
    assert (first.strong_convexity, build(0.75).strong_convexity) == (0.25, 0.75)
