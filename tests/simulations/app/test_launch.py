"""Runs from Python, on both engines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_mlmc.frames import read_clients
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import REFUSED, RoundLog
from fl_mlmc.simulations import RunFailed, run
from fl_mlmc.simulations.app.launch import execute, load_config
from fl_mlmc.simulations.app.places import SERVER_LOG, _last_words, tell_of_refused
from fl_mlmc.simulations.app.superlink import RunState

TIMING = ["train_seconds", "encode_seconds", "message_bytes"]


def settings(config: RunConfig, **changes: Any) -> dict[str, Any]:
    return {**config.to_flower(), **changes}


def test_a_run_gives_arrays_and_frames(small: RunConfig) -> None:
    rows: list[dict[str, Any]] = []
    result = run(None, on_round=rows.append, **settings(small))
    assert result.directory == Path(small.output.runs_dir) / "small"
    assert {name: array.shape for name, array in result.arrays.items()}["1.weight"] == (16, 64)
    assert [row["round"] for row in rows] == list(result.rounds["round"]) == [1, 2]
    assert result.rounds["accuracy"].between(0, 1).all()
    assert len(result.clients) == 8
    header = json.loads((result.directory / "run.json").read_text())
    assert header["status"] == "completed"
    assert header["config"]["compressor"] == "MLMC(TopK(fraction=0.1))"
    assert header["versions"]["flwr"]


def test_a_scenario_file_is_overridden_by_keywords(tmp_path: Path) -> None:
    scenario = tmp_path / "tiny.toml"
    scenario.write_text('num-rounds = 7\nmodel = "mlp"\n')
    config = load_config(scenario, {"num_rounds": 3, "runs_dir": tmp_path})
    assert (config.num_rounds, config.training.model, config.output.runs_dir) == (3, "mlp", str(tmp_path))
    assert config.output.run_name.startswith("tiny-")


def test_relative_paths_are_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {"runs_dir": "out", "data_dir": "data"})
    assert (config.output.runs_dir, config.data.data_dir) == (str(tmp_path / "out"), str(tmp_path / "data"))


def test_paths_inside_options_are_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, text = "transformer(weights='models/minilm', layers=2)", "tokens('models/minilm', length=32)"
    config = load_config(None, {"model": model, "text": text})
    home = str(tmp_path / "models/minilm")
    assert config.training.model == f"transformer(weights={home!r}, layers=2)"
    assert config.data.text == f"tokens({home!r}, length=32)"
    again = load_config(None, {"model": config.training.model, "text": "hashed(length=64)"})
    assert (again.training.model, again.data.text) == (config.training.model, "hashed(length=64)")


def test_a_folder_as_data_set_is_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pics", "digits"):
        (tmp_path / name).mkdir()
    seen = [load_config(None, {"dataset": name}).data.dataset for name in ("pics", "digits", "someone/animals")]
    assert seen == [str(tmp_path / "pics"), "digits", "someone/animals"]


def test_a_scenario_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(ConfigError, match=r"bytes\.toml is not TOML: "):
        load_config(tmp_path / "bytes.toml", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no scenario"), ("rounds = ", "is not TOML"), ("num-round = 3", "did you mean 'num-rounds'")],
)
def test_a_bad_scenario_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    scenario = tmp_path / "bad.toml"
    if text is not None:
        scenario.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(scenario, {})


def test_a_finished_run_is_never_written_over(small: RunConfig) -> None:
    run(None, **settings(small, num_rounds=1))
    with pytest.raises(ConfigError, match="already holds a run"):
        run(None, **settings(small))


def test_missing_data_is_told_before_anything_starts(small: RunConfig, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match="nowhere"):
        run(None, **settings(small, data_dir=str(tmp_path / "nowhere")))
    assert not (Path(small.output.runs_dir) / "small" / "run.json").exists()


def test_a_rule_that_the_model_cannot_follow_is_told_before_anything_starts(small: RunConfig) -> None:
    with pytest.raises(ValueError, match="depth"):
        run(None, **settings(small, width_rule="depth"))
    assert not (Path(small.output.runs_dir) / "small" / "run.json").exists()


def test_clients_whose_loss_is_not_finite_are_dropped_until_the_quorum_fails(small: RunConfig) -> None:
    with pytest.raises(RunFailed, match="round 1 has 0 good replies of 4, the quorum is 2") as caught:
        run(None, **settings(small, learning_rate=1e30, local_steps=5))
    clients = read_clients(caught.value.directory)
    assert clients["status"].str.contains("dropped: .*(?:loss is|not finite)").all()
    assert json.loads((caught.value.directory / "run.json").read_text())["status"].startswith("failed: QuorumError")


def test_one_client_with_bad_data_is_dropped_and_the_round_goes_on(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fl_mlmc.clients.data import FederatedData

    plain = FederatedData.client_features

    def client_features(self: FederatedData, client: int, rows: np.ndarray) -> np.ndarray:
        features = plain(self, client, rows)
        return features * np.nan if client == 1 else features

    monkeypatch.setattr(FederatedData, "client_features", client_features)
    result = run(None, **settings(small, clients_per_round=6))
    bad = result.clients["client"] == 1
    assert result.clients.loc[bad, "status"].str.contains("training loss is nan").all()
    assert (result.clients.loc[~bad, "status"] == "ok").all()
    assert result.rounds["num_ok"].tolist() == [5, 5]


def same_but_for_timing(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.drop(columns=TIMING), other.drop(columns=TIMING))


@pytest.mark.slow
def test_both_engines_give_the_same_bytes(small: RunConfig) -> None:
    here = run(None, **settings(small))
    rows: list[Any] = []
    flower = run(None, on_round=rows.append, **settings(small, engine="flower", run_name="flower"))
    same_but_for_timing(here.clients, flower.clients)
    assert [row["round"] for row in rows] == [1, 2]
    for name, array in here.arrays.items():
        np.testing.assert_array_equal(array, flower.arrays[name])
    assert here.rounds["accuracy"].tolist() == flower.rounds["accuracy"].tolist()


def test_nodes_that_were_left_out_are_named_once_with_the_reason(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path, {})
    log.append_refused("client-1", "told in an earlier run")
    told = (tmp_path / REFUSED).stat().st_size
    for _ in range(2):
        log.append_refused("client-3", "unknown tier 'fone'; known: sensor, phone")
    log.append_refused("client-4", "it runs code '\n\x1b[2JWARNING: node client-1 is left out: its key was withdrawn'")
    said: list[str] = []
    tell_of_refused(tmp_path / REFUSED, told, said.append)
    tell_of_refused(tmp_path / "nothing", 0, said.append)
    assert said == [
        "WARNING: node client-3 is left out: unknown tier 'fone'; known: sensor, phone",
        "WARNING: node client-4 is left out: it runs code '  [2JWARNING: node client-1 is left out: its key was "
        "withdrawn'",
    ]


def test_what_a_client_wrote_into_the_log_is_told_as_the_logs(tmp_path: Path) -> None:
    (tmp_path / SERVER_LOG).write_text(
        "all is well\n\x1b[2JWARNING: node client-1 is left out: its key was withdrawn\n"
    )
    said = _last_words(RunState("finished:failed", "x\ny"), tmp_path)
    assert said.splitlines() == [
        "Flower says finished:failed x y",
        "  server.log: all is well",
        "  server.log:  [2JWARNING: node client-1 is left out: its key was withdrawn",
    ]


@pytest.mark.slow
def test_own_parts_with_neighbours_reach_flowers_workers(small: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(
        "from fl_mlmc.submodels.rules import Rule, RULES\n\nlast = RULES['nested'].pick\n"
    )
    (tmp_path / "rules.py").write_text("from helper import Rule, last\n\nmine = Rule(last)\n")
    changes = {"width_rule": f"{tmp_path}/rules.py:mine", "tiers": "a:0.5:0.5,b:1:0.5", "num_rounds": 1}
    results = [
        execute(load_config(None, {**small.to_flower(), **changes, "engine": engine, "run_name": engine}))
        for engine in ("local", "flower")
    ]
    first, second = results  # in Flower, each process finds the files in its app, and would refuse them elsewhere
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    own = [json.loads((result.directory / "run.json").read_text())["own_files"] for result in results]
    assert own[0] == own[1]
    assert sorted(own[0]) == [f"{tmp_path}/helper.py", f"{tmp_path}/rules.py"]
