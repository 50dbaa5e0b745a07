"""Commands whose arguments keep their explanations.

click 8.5 has a `help` of arguments of its own, and sets that of typer's (up to 0.20 at least) to None. It is put back
from where the command was written.
"""

import inspect
from typing import Any, get_args, get_type_hints

from click import Command, Context
from typer.core import TyperGroup
from typer.models import ArgumentInfo


class Explained(TyperGroup):
    """A group whose commands, and those of groups within it, explain their arguments."""

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """The command of that name, explained."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _explain(command)
        return command


def _explain(command: Any) -> None:
    for within in getattr(command, "commands", {}).values():
        _explain(within)
    if command.callback is None:
        return
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    for parameter in command.params:
        if parameter.param_type_name == "argument" and not getattr(parameter, "help", None):
            said = (part for part in get_args(hints[parameter.name]) if isinstance(part, ArgumentInfo))
            parameter.help = next((part.help for part in said), None)
