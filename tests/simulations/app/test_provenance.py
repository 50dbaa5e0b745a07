"""A run goes on with what it began with, or says what is other."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config, load_run
from fl_mlmc.simulations.app.server_app import serve
from fl_mlmc.simulations.cli import app

LABELS = [number % 2 for number in range(20)]
FILES = ("run.json", "rounds.jsonl", "clients.jsonl")


def put(folder: Path, split: str, labels: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    texts = [f"good film {number}" for number in range(len(labels))]
    parquet.write_table(pa.table({"text": texts, "label": labels}), folder / f"{split}.parquet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        put(tmp_path / "mine", split, LABELS)
    return tmp_path / "mine"


@pytest.fixture
def cut(small: RunConfig, data: Path) -> Path:
    """A run of six rounds that was interrupted after the third."""
    config = load_config(None, {**small.to_flower(), "data_dir": data, "num_rounds": 6, "tiers": "full:1.0:1.0"})

    def stop(row: Mapping[str, Any]) -> None:
        if row["round"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    return Path(config.output.runs_dir) / config.output.run_name


def run_json(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "run.json").read_text())


def edit(directory: Path, **facts: Any) -> None:
    (directory / "run.json").write_text(json.dumps({**run_json(directory), **facts}))


def flipped(data: Path, directory: Path) -> None:
    put(data, "train", [1 - label for label in LABELS])


def other_test_split(data: Path, directory: Path) -> None:
    put(data, "test", [1 - label for label in LABELS])


def more_rows(data: Path, directory: Path) -> None:
    put(data, "train", [*LABELS, 0, 1])


def other_code(data: Path, directory: Path) -> None:
    edit(directory, code_stamp="0" * 16)


def other_server_code(data: Path, directory: Path) -> None:
    edit(directory, server_code_stamp="0" * 16)


def other_config(data: Path, directory: Path) -> None:
    edit(directory, config={**run_json(directory)["config"], "learning-rate": 0.5})


def a_run_of_an_older_version(data: Path, directory: Path) -> None:
    kept = ("status", "config", "seed", "tiers", "num_parameters", "started", "versions")
    (directory / "run.json").write_text(json.dumps({key: run_json(directory)[key] for key in kept}))


GRAVE = {
    flipped: "the data: it was .*20 training and 20 test examples.*, it is .*20 training",
    other_test_split: "the data: it was ",
    more_rows: "the data: it was .*20 training and 20 test examples.*, it is .*22 training and 20 test examples",
    other_code: "the code of fl_mlmc and clients: its digest was 0000000000000000, it is ",
    other_server_code: "the code of simulations and strategies: its digest was 0000000000000000",
    other_config: "the config, run.json was edited: its digest was ",
    a_run_of_an_older_version: "the data: it was not noted",
}


@pytest.mark.parametrize(("change", "said"), GRAVE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_other_is_refused_unless_forced_and_then_noted(
    cut: Path, data: Path, change: Callable[[Path, Path], None], said: str
) -> None:
    change(data, cut)
    before = {name: (cut / name).read_bytes() for name in FILES}
    for go_on in (lambda: execute(load_run(cut)), lambda: serve(load_run(cut))):
        with pytest.raises(ConfigError, match=rf"(?s){cut} would go on with something else.*{said}.*--force"):
            go_on()
    assert {name: (cut / name).read_bytes() for name in FILES} == before

    told: list[str] = []
    assert len(execute(load_run(cut), force=True, tell=told.append).rounds) == 6
    assert any(line.startswith("other than when the run began: ") for line in told)
    after = run_json(cut)
    assert after["status"] == "completed"
    (note,) = after["resumed"]
    assert (note["after_round"], note["forced"]) == (3, True)
    assert all(f"other than when the run began: {text}" in told for text in note["differences"])


def test_a_forced_resume_is_what_the_next_one_is_compared_with(cut: Path, data: Path) -> None:
    def stop(row: Mapping[str, Any]) -> None:
        if row["round"] == 5:
            raise KeyboardInterrupt

    flipped(data, cut)
    with pytest.raises(KeyboardInterrupt):
        execute(load_run(cut), stop, force=True)
    assert len(execute(load_run(cut)).rounds) == 6
    assert len(run_json(cut)["resumed"]) == 1


def test_other_versions_are_said_and_noted(cut: Path) -> None:
    edit(cut, versions={**run_json(cut)["versions"], "torch": "1.0"})
    told: list[str] = []
    assert len(execute(load_run(cut), tell=told.append).rounds) == 6
    assert len(told) == 1
    assert "the version of torch: it was 1.0, it is " in told[0]
    assert run_json(cut)["resumed"][0]["forced"] is False


def test_the_same_data_at_another_time_and_place_is_the_same(cut: Path, data: Path, tmp_path: Path) -> None:
    moved = shutil.move(data, tmp_path / "moved")
    for path in Path(moved).iterdir():
        os.utime(path, (1, 1))
    with pytest.raises(FileNotFoundError, match=r"data-dir .* is not a directory"):
        execute(load_run(cut))
    told: list[str] = []
    assert len(execute(load_run(cut, {"data_dir": moved}), tell=told.append).rounds) == 6
    assert not told
    assert "resumed" not in run_json(cut)


def test_where_the_data_lies_is_all_that_a_resume_may_be_told(cut: Path) -> None:
    with pytest.raises(ConfigError, match=r"but for data-dir and dataset, .*; got learning-rate"):
        load_run(cut, {"learning_rate": 0.5, "data_dir": "x"})


def test_the_file_of_an_own_problem_counts(small: RunConfig, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("from fl_mlmc.bilevel.tasks import hyper_representation\n\nproblem = hyper_representation\n")
    changes = {"task": "bilevel", "scheme": "rabo", "problem": f"{own}:problem", "num_rounds": 3}
    config = load_config(None, {**small.to_flower(), "compressor": "Identity()", **changes})

    def stop(row: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(config, stop)
    directory = Path(config.output.runs_dir) / config.output.run_name
    own.write_text(own.read_text() + "# other\n")
    with pytest.raises(ConfigError, match=f"the file {own}: its digest was "):
        execute(load_run(directory))
    assert len(execute(load_run(directory), force=True).rounds) == 3


def test_the_command_refuses_with_code_2_and_goes_on_by_force(cut: Path, data: Path) -> None:
    flipped(data, cut)
    refused = CliRunner().invoke(app, ["run", "--resume", str(cut)])
    assert refused.exit_code == 2
    assert "the data: it was " in refused.output
    assert "--force" in refused.output
    forced = CliRunner().invoke(app, ["run", "--resume", str(cut), "--force"])
    assert forced.exit_code == 0, forced.output
    alone = CliRunner().invoke(app, ["run", "--force"])
    assert alone.exit_code == 2
    assert "--force is for --resume" in alone.output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "run.json cannot be read: "),
        ("[]", "run.json is not what a run left"),
        ('{"status": "running"}', "run.json has no config to resume"),
        ('{"status": "running", "config": {"num-round": 3}}', "run.json: unknown run-config key 'num-round'"),
    ],
)
def test_a_broken_run_json_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "run.json").write_text(content)
    done = CliRunner().invoke(app, ["run", "--resume", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{tmp_path}/{said}" in done.output.replace("\n", "")
