"""`fl-mlmc keys`, and what every command's help says."""

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.cli import app


def test_keys_are_listed_with_type_default_and_meaning() -> None:
    every = json.loads(CliRunner().invoke(app, ["keys", "--json"]).stdout)
    assert [row["key"] for row in every] == RunConfig.keys()
    assert all(row["type"] and row["default"] and row["meaning"] for row in every)
    some = CliRunner().invoke(app, ["keys", "learning-rate"])
    assert some.exit_code == 0
    assert "server-learning-rate" in some.output
    assert "num-clients" not in some.output
    none = CliRunner().invoke(app, ["keys", "nosuchword"])
    assert none.exit_code == 2
    assert "no key has 'nosuchword'" in none.output


@pytest.mark.parametrize("name", ["new", "run", "sweep", "report", "watch", "keys", "export", "theory"])
def test_every_positional_argument_is_explained(name: str) -> None:
    group: Any = typer.main.get_command(app)
    command = group.get_command(typer.Context(group), name)
    unsaid = [parameter.name for parameter in command.params if not getattr(parameter, "help", "x")]
    assert unsaid == []
    shown = " ".join(CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output.split())
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            assert parameter.help in shown
