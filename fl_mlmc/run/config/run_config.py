"""The whole config: its sections, the flat keys that name their fields, and what must fit across sections."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ...own import absolute, references
from ...registry import rooted
from ...schemes import Scheme
from ...submodels.tier import tier_named
from .aggregation import AggregationConfig
from .cohort import CohortConfig
from .compression import CompressionConfig
from .data import DataConfig
from .engine import EngineConfig
from .fits import check_fits, check_metrics
from .output import OutputConfig
from .privacy import PrivacyConfig
from .section import ConfigError, Scalar, Section, dashed
from .time import TimeConfig
from .training import TrainingConfig

MAY_BE_OWN: Mapping[str, int] = {
    "dataset": 0,
    "model": 2,
    "objective": 0,
    "compressor": 0,
    "downlink-compressor": 0,
    "scheme": 0,
    "downlink-scheme": 0,
    "aggregation": 0,
    "client-optimizer": 2,
    "server-optimizer": 2,
    "learning-rate-schedule": 1,
    "server-learning-rate-schedule": 1,
    "width-rule": 0,
    "problem": 1,
}
"""Keys whose texts may name parts of the user's own: "module:object", "path/to/file.py:object" (`fl_mlmc.own`).

Each with the number of arguments that a run gives before those of the text (docs/own.md).
"""


class RunConfig(Section):
    """Everything that decides a run.

    Outside it is flat: `RunConfig(num_rounds=3, engine="local")`, or `from_flower({"num-rounds": 3, …})`. Inside,
    every key lies in its section: `config.cohort.num_clients`, `config.engine.name`.
    """

    seed: int = Field(
        0, ge=0, lt=2**63, description="every random draw of the run starts from it; the same seed gives the same bytes"
    )
    num_rounds: int = Field(20, ge=1, description="rounds of the run")
    data: DataConfig = Field(default_factory=lambda: DataConfig.model_validate({}))
    cohort: CohortConfig = Field(default_factory=lambda: CohortConfig.model_validate({}))
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}))
    compression: CompressionConfig = Field(default_factory=lambda: CompressionConfig.model_validate({}))
    aggregation: AggregationConfig = Field(default_factory=lambda: AggregationConfig.model_validate({}))
    privacy: PrivacyConfig = Field(default_factory=lambda: PrivacyConfig.model_validate({}))
    engine: EngineConfig = Field(default_factory=lambda: EngineConfig.model_validate({}))
    time: TimeConfig = Field(default_factory=lambda: TimeConfig.model_validate({}))
    output: OutputConfig = Field(default_factory=lambda: OutputConfig.model_validate({}))

    def __init__(self, **flat: Scalar | Path) -> None:
        """Keys by their names with dashes or underscores; pydantic's ValidationError if they do not fit."""
        nested: dict[str, Any] = {}
        for name, value in flat.items():
            key = dashed(name)
            home = _homes().get(key)
            held = nested.setdefault(home.section, {}) if home and home.section else nested
            held[key] = str(value) if isinstance(value, Path) else value
        super().__init__(**nested)

    @classmethod
    def keys(cls) -> list[str]:
        """All keys, dashed, in the order of the sections."""
        return list(_homes())

    @classmethod
    def homes(cls) -> Mapping[str, "Home"]:
        """Where every key lives, by the dashed key, in the order of the sections."""
        return _homes()

    @classmethod
    def type_of(cls, key: str) -> Any:
        """What the values of a key are; None for an unknown one."""
        home = _homes().get(dashed(key))
        return home.field.annotation if home else None

    @classmethod
    def from_flower(cls, raw: Mapping[str, Scalar]) -> Self:
        """Parse dashed keys and plain values; ConfigError names every key that does not fit."""
        for key in raw:
            if key not in _homes():
                near = difflib.get_close_matches(key, cls.keys(), n=3, cutoff=0.0)
                raise ConfigError(
                    f"unknown run-config key {key!r}; did you mean {near[0]!r}, {near[1]!r} or {near[2]!r}?"
                )
        try:
            return cls(**raw)
        except ValidationError as error:
            raise ConfigError("; ".join(map(_message, error.errors()))) from None

    def to_flower(self) -> dict[str, Scalar]:
        """The same config as dashed keys and plain values; `from_flower` reads it back."""
        flat: dict[str, Scalar] = {}
        for key, value in self.model_dump(by_alias=True).items():
            flat |= value if isinstance(value, dict) else {key: value}
        return flat

    def changed(self, **changes: Scalar | Path) -> Self:
        """A config with some keys replaced and all of it checked again; names with dashes or underscores."""
        named = {dashed(key): str(value) if isinstance(value, Path) else value for key, value in changes.items()}
        return self.from_flower({**self.to_flower(), **named})

    def rooted(self) -> Self:
        """The same, with the files of the user's own, and paths in their options, by absolute paths.

        For processes that stand elsewhere. ConfigError if there is no such file.
        """
        texts = {key: rooted(text, {}, key, MAY_BE_OWN[key]) for key, text in self.own_texts().items()}
        return self.changed(**{key: absolute(text) for key, text in texts.items()})

    def own_texts(self) -> dict[str, str]:
        """The texts that name parts of the user's own, by their keys."""
        flat = self.to_flower()
        return {key: str(flat[key]) for key in MAY_BE_OWN if references(str(flat[key]))}

    def resolved_scheme(self, size: int) -> Scheme:
        """The scheme for a model of `size` coordinates; ValueError if it does not admit the compressor."""
        return self.compression.resolved_scheme(size, self.cohort.num_clients)

    def threads_of(self, tier: str) -> int:
        """The threads that a client of `tier` computes with."""
        cpus = tier_named(self.cohort.tier_list, tier).cpus
        return max(1, int(self.engine.client_cpus if cpus is None else cpus))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_fits(
            *(self.cohort, self.training, self.compression, self.aggregation),
            *(self.privacy, self.engine, self.data, self.time),
        )
        check_metrics(self.training, self.output)
        return self


class Home(NamedTuple):
    """Where a key lives: its section, or "" for the run itself, and its field there, which holds type and meaning."""

    section: str
    field: FieldInfo


@cache
def _homes() -> Mapping[str, Home]:
    """Every key's home, in the order of the sections."""
    homes: dict[str, Home] = {}
    for name, field in RunConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            homes |= {inner.alias or dashed(own): Home(name, inner) for own, inner in kind.model_fields.items()}
        else:
            homes[field.alias or dashed(name)] = Home("", field)
    return homes


def _message(error: Mapping[str, Any]) -> str:
    key = str(error["loc"][-1]) if error["loc"] else ""
    text = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {text}" if key in _homes() and not isinstance(error["input"], dict) else text
