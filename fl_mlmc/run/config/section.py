"""What a section of the run config is: some of its keys, each with its meaning, its bounds and its check."""

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str
"""A value of a run config, as TOML and Flower hold it."""


class ConfigError(ValueError):
    """A run config that cannot be run: names the key, the value seen and what is allowed."""


def dashed(name: str) -> str:
    """The key of a field."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Some keys of a run config. A key is its field's name with dashes, unless the field says otherwise.

    A validator stands under the field that it checks, and raises ValueError.
    """

    model_config = ConfigDict(
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        alias_generator=dashed,
    )
