import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.run.config import ConfigError, RunConfig

ROOT = Path(__file__).parents[4]


def test_the_app_declares_every_key_with_its_default() -> None:
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"] == RunConfig().to_flower()


@pytest.mark.parametrize("path", sorted((ROOT / "simulations/scenarios").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_scenario_is_a_valid_config(path: Path) -> None:
    RunConfig.from_flower(tomllib.loads(path.read_text()))


def test_plain_values_give_the_config_back() -> None:
    config = RunConfig(compressor='MLMC(TopK(count=3), probabilities="fixed")', tiers="a:0.5:0.25,b:1:0.75", quorum=3)
    assert RunConfig.from_flower(config.to_flower()) == config


def test_a_change_is_checked_like_the_rest() -> None:
    assert RunConfig().changed(num_rounds=3).num_rounds == 3
    with pytest.raises(ConfigError, match="num-rounds = 0"):
        RunConfig().changed(num_rounds=0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"num-round": 3},
            "unknown run-config key 'num-round'; did you mean 'num-rounds', '.*' or '.*'[?]$",
        ),
        ({"colour": 1}, "unknown run-config key 'colour'; did you mean '[a-z-]+', '[a-z-]+' or '[a-z-]+'[?]$"),
        ({"tiers": "a:0.5:0.5,b:1.0:0.4"}, "shares must add up to 1, they add up to 0.9"),
        ({"tiers": "a:0:1.0"}, r"width 0.0, a width lies in \(0, 1\]"),
        ({"tiers": "a:1.5:1.0"}, r"width 1.5, a width lies in \(0, 1\]"),
        ({"tiers": "a:1.0:1.0:bytes=-1"}, "has bytes -1.0, expected a number above 0"),
        (
            {"tiers": "a:1.0:1.0:bytes=400", "scheme": "ef21", "compressor": "TopK(fraction=0.1)"},
            "bytes=400, which its clients keep by a compressor of their own, and scheme ef21",
        ),
        ({"tiers": "a:half:1.0"}, "not of the form name:width:share"),
        ({"num-clients": 3, "clients-per-round": 4}, "clients-per-round is 4, more than num-clients, 3"),
        ({"compressor": "TopQ(fraction=0.1)"}, "unknown compressor 'TopQ'; known: .*MLMC.*TopK"),
        ({"compressor": "TopK(fration=0.1)"}, "no option 'fration'; its options: fraction"),
        ({"compressor": "TopK(fraction=0.1"}, "not of the form Name"),
        ({"model": "resnet1"}, "unknown model 'resnet1'; known: .*cnn"),
        ({"client-optimizer": "sdg"}, "unknown optimizer 'sdg'; known: .*sgd"),
        ({"width-rule": "nest"}, "unknown width rule 'nest'; known: .*nested"),
        ({"partition": "foo"}, "partition = 'foo': partition is 'foo', allowed: iid, dirichlet"),
        ({"text": "word"}, "unknown text encoding 'word'; known: characters, hashed, tokens"),
        ({"tier-assignment": "0-9:gateway"}, "tier-assignment = '0-9:gateway'"),
        ({"tier-assignment": "share"}, "not of the form FIRST-LAST:tier"),
        ({"problem": "hyper_clean"}, "unknown problem 'hyper_clean'; known: .*hyper_cleaning"),
        ({"problem": "mine.py:"}, "module:object"),
        ({"round-timeout": math.inf}, "round-timeout = inf.*finite"),
        ({"learning-rate": math.nan}, "learning-rate = nan"),
        ({"seed": 2**63}, "seed = 9223372036854775808.*less than"),
        ({"dp-noise": 1.0}, "give both or none, got 1 and 0"),
        ({"engine": "rocket"}, "engine = 'rocket'.*'flower'.*'local'"),
        ({"learning-rate": 0.0}, "learning-rate = 0.0.*greater than 0"),
        ({"quorum": 1.5}, "a share in"),
        ({"quorum": 21}, "quorum is 21, more than clients-per-round, 20"),
        ({"num-rounds": "many"}, "num-rounds = 'many'"),
    ],
)
def test_a_bad_config_names_what_was_seen_and_what_is_allowed(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_flower(raw)


@pytest.mark.parametrize(
    ("quorum", "sampled", "needed"), [(0.5, 20, 10), (0.5, 3, 2), (1.0, 7, 7), (3, 20, 3), (0, 20, 0), (0.01, 20, 1)]
)
def test_a_quorum_is_a_number_or_a_share(quorum: float, sampled: int, needed: int) -> None:
    assert RunConfig(quorum=quorum).cohort.least_replies(sampled) == needed


def test_every_key_lies_in_one_section_and_says_what_it_is() -> None:
    config = RunConfig()
    assert set(config.to_flower()) == set(RunConfig.keys())
    assert len(RunConfig.keys()) == len(set(RunConfig.keys()))
    assert RunConfig.type_of("num-clients") is int
    assert RunConfig.type_of("partition") is str
    assert RunConfig.type_of("colour") is None


def test_names_with_underscores_and_dashes_are_the_same_keys() -> None:
    assert RunConfig(num_rounds=3, dp_clip=1.0, dp_noise=2.0) == RunConfig(
        **{"num-rounds": 3, "dp-clip": 1.0, "dp-noise": 2.0}
    )
    assert RunConfig(engine="local").engine.name == "local"
