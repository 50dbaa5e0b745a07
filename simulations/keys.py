"""The run-config keys as a table: what `fl-mlmc keys` prints."""

import types
from typing import Any, Literal, Union, get_args, get_origin

from fl_mlmc.run.config import RunConfig

from .showing import Shown

NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def table(word: str = "") -> Shown:
    """Keys with `word` in their name or meaning, all unless given; ValueError if there is none."""
    rows = []
    for key, home in RunConfig.homes().items():
        meaning = home.field.description or ""
        if word.lower() in f"{key} {meaning}".lower():
            default = home.field.default
            shown = str(default).lower() if isinstance(default, bool) else f"{default!r}".replace("'", '"')
            rows.append([key, _kind(home.field.annotation), shown, meaning])
    if not rows:
        raise ValueError(f"no key has {word!r} in its name or meaning; `fl-mlmc keys` lists all")
    return Shown("", ["key", "type", "default", "meaning"], rows)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(map(_kind, get_args(annotation)))
    return NAMES[annotation]
