"""Schedules as their formulas have them, and what is refused."""

import math
from pathlib import Path

import pytest

from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.training.schedules import factor_in


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("warmup(rounds=4)", [0.25, 0.5, 0.75, 1, 1, 1]),
        ("steps(at=(2, 4))", [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (
            "cosine(rounds=5, warmup=1)",
            [0.5, *((1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)), 0.1464466],
        ),
        ("cosine(rounds=2, floor=0.2)", [1, 0.6, 0.6, 0.6, 0.6, 0.6]),
    ],
)
def test_factors_are_those_of_the_formula(text: str, factors: list[float]) -> None:
    assert [factor_in(text, number) for number in range(1, 7)] == pytest.approx(factors, rel=1e-6)


def test_the_config_multiplies_the_rate_by_it(tmp_path: Path) -> None:
    own = tmp_path / "rates.py"
    own.write_text("def halved(server_round, every=1):\n    return 0.5 ** (server_round // every)\n")
    config = RunConfig(
        learning_rate=0.4,
        learning_rate_schedule=f"{own}:halved(every=2)",
        server_learning_rate=2.0,
        server_learning_rate_schedule="warmup(rounds=2)",
    )
    assert [config.training.learning_rate_in(number) for number in (1, 2, 4)] == [0.4, 0.2, 0.1]
    assert [config.aggregation.server_learning_rate_in(number) for number in (1, 2, 3)] == [1.0, 2.0, 2.0]
    assert set(config.own_texts()) == {"learning-rate-schedule"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"learning-rate-schedule": "cosine(rounds=3, warmup=3)"}, "warmup of a cosine"),
        ({"learning-rate-schedule": "cosine"}, "rounds"),
        ({"learning-rate-schedule": "sine(rounds=3)"}, "cosine"),
        ({"learning-rate-schedule": "steps(at=(0,))"}, "at of steps are rounds"),
        ({"learning-rate-schedule": "warmup(rounds=2)", "learning-rate-drops": "3"}, "leave one of them out"),
        ({"learning-rate-schedule": "warmup(rounds=2)", "task": "bilevel", "scheme": "rafbo"}, "is for task"),
        ({"server-learning-rate-schedule": "warmup(rounds=0)"}, "1 or more, got 0"),
        ({"early-stop": "reached('f2', 1)"}, "early-stop looks at 'f2'"),
        ({"early-stop": "patience('loss', evaluations=0)"}, "evaluations of 1 or more"),
        ({"keep-best": "auc"}, "keep-best looks at 'auc'"),
    ],
)
def test_what_is_none_is_refused_by_its_key(keys: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig.from_flower(keys)
    assert said in str(refused.value)
