"""The run config: parsed once at the edge, passed down in pieces. No function deep inside reads a config key."""

import difflib
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from .. import parse
from ..aggregation.private import epsilon
from ..aggregation.trimmed import parse_aggregation
from ..bilevel.method import METHODS, is_bilevel, parse_bilevel
from ..compression.compressors.base import Compressor
from ..models import parse_model
from ..schemes import Scheme, parse_scheme, resolve_scheme
from ..schemes.docofl import DoCoFL, parse_downlink
from ..submodels.rules import rule_named
from ..submodels.tier import Tier, assign_tiers, parse_tiers, tier_named
from ..training.optimizers import parse_optimizer
from .trust import check_trust

Scalar = bool | int | float | str


class ConfigError(ValueError):
    """A run config that cannot be run: names the key, the value seen and what is allowed."""


class RunConfig(BaseModel):
    """Everything that decides a run. Keys are the fields' names with dashes."""

    model_config = ConfigDict(
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        validate_default=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    seed: int = Field(0, ge=0)
    num_rounds: int = Field(20, ge=1)
    num_clients: int = Field(60, ge=1)
    clients_per_round: int = Field(20, ge=1)
    engine: Literal["ray", "flower", "local"] = "ray"
    client_cpus: float = Field(1.0, gt=0, description="processors that a client takes, and threads it computes with")
    client_gpus: float = Field(0.0, ge=0, description="GPUs that it takes; a fraction shares one")
    client_timeout: float = Field(0.0, ge=0, description="seconds until the ray engine gives up a client; 0: never")
    vectorize: bool = Field(False, description="train clients of one width at the same time, equal but for rounding")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dataset: str = Field("digits", min_length=1)
    data_dir: str = ""
    text: str = Field("hashed", description="how texts become numbers: hashed, tokens('DIRECTORY') or characters")
    partition: str = "iid"
    model: str = "cnn"
    tiers: str = "full:1.0:1.0"
    tier_assignment: str = Field("shares", description='"shares", "redrawn" every round, or "0-29:sensor,30:phone"')
    width_rule: str = "nested"
    least_coverage: int = Field(
        0, ge=0, description="clients of a cohort that must hold each coordinate; 0: as it falls"
    )
    coverage_warning: int = Field(10, ge=0, description="warn of what nobody held in so many rounds; 0: never")
    masked_cross_entropy: bool = False
    average_by_label: bool = False
    weighting: Literal["examples", "clients"] = Field(
        "examples", description="clients count in the mean by their examples, or all alike"
    )
    distill: bool = False
    compressor: str = "Identity()"
    downlink_compressor: str = "Identity()"
    downlink_scheme: str = Field("direct", description='or "docofl(ECUQ(bits=4), every=10, lead=2)"')
    scheme: str = "direct"
    local_steps: int = Field(0, ge=0, description="0: as many as local-epochs make")
    local_epochs: int = Field(5, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_drops: str = Field("", description='rounds after each of which it is a tenth, e.g. "150,250"')
    clip_norm: float = Field(0.0, ge=0, description="the largest norm of a minibatch's gradient; 0: any")
    task: Literal["classification", "bilevel"] = "classification"
    problem: str = Field(
        "hyper_representation", description="of a bilevel task: its name and options, or module:object"
    )
    outer_learning_rate: float = Field(0.3, gt=0, description="of the outer x; learning-rate is that of the inner y")
    multiplier_learning_rate: float = Field(0.0, ge=0, description="of v; 0: the learning-rate")
    outer_share: float = Field(0.5, gt=0, lt=1, description="of a client's examples, for the outer loss alone")
    client_optimizer: str = "sgd"
    server_optimizer: str = "sgd"
    server_learning_rate: float = Field(1.0, gt=0)
    evaluate_every: int = Field(1, ge=1)
    over_sampling: float = Field(
        0.0, ge=0, description="share of clients asked beyond clients-per-round; the round ends when enough replied"
    )
    quorum: int | float = Field(0.5, description="good replies a round needs: a whole number, or a share such as 0.5")
    round_timeout: float = Field(3600.0, gt=0, description="seconds to wait for a round's replies")
    max_update_norm: float = Field(0.0, ge=0, description="of a decoded update; a longer one is dropped; 0: any")
    max_examples: int = Field(2**31, ge=1, le=2**31, description="that a client may declare, and so its weight")
    aggregation: str = Field("mean", description='"mean", "median" or "trimmed-mean:SHARE", coordinate by coordinate')
    dp_clip: float = Field(0.0, ge=0, description="norm that updates are shortened to, for differential privacy")
    dp_noise: float = Field(0.0, ge=0, description="deviation of the noise on their sum, in units of dp-clip")
    dp_delta: float = Field(1e-5, gt=0, lt=1, description="the δ for which ε is logged")
    checkpoint_every: int = Field(1, ge=1)
    resume: bool = Field(False, description="go on with the run that runs-dir/run-name holds")
    runs_dir: str = "runs"
    run_name: str = ""

    @classmethod
    def from_flower(cls, raw: Mapping[str, Scalar]) -> Self:
        """Parse dashed keys and plain values; ConfigError names every key that does not fit."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"unknown run-config key {key!r}{hint} Known keys: {', '.join(known)}")
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            raise ConfigError("; ".join(map(_message, error.errors()))) from None

    def to_flower(self) -> dict[str, Scalar]:
        """The same config as dashed keys and plain values; `from_flower` reads it back."""
        return self.model_dump(by_alias=True)

    def changed(self, **changes: Scalar | Path) -> Self:
        """A config with some fields replaced and all of it checked again."""
        named = {
            key.replace("_", "-"): str(value) if isinstance(value, Path) else value for key, value in changes.items()
        }
        return self.from_flower({**self.to_flower(), **named})

    @cached_property
    def tier_list(self) -> tuple[Tier, ...]:
        """The tiers, parsed."""
        return parse_tiers(self.tiers)

    @cached_property
    def uplink(self) -> Compressor:
        """The compressor of client updates, parsed."""
        return parse(self.compressor)

    @cached_property
    def downlink(self) -> Compressor:
        """The compressor of the broadcast, parsed."""
        return parse(self.downlink_compressor)

    @cached_property
    def downlink_anchors(self) -> DoCoFL | None:
        """How anchors are made; None where the broadcast does without."""
        return parse_downlink(self.downlink_scheme)

    @property
    def cuts_models(self) -> bool:
        """Whether some clients hold a part of the model only."""
        return any(tier.width < 1 for tier in self.tier_list)

    def resolved_scheme(self, size: int) -> Scheme:
        """The scheme for a model of `size` coordinates; ValueError if it does not admit the compressor."""
        return resolve_scheme(self._message_scheme, self.uplink, size, self.num_clients)

    def threads_of(self, tier: str) -> int:
        """The threads that a client of `tier` computes with."""
        cpus = tier_named(self.tier_list, tier).cpus
        return max(1, int(self.client_cpus if cpus is None else cpus))

    @property
    def _message_scheme(self) -> str:
        # RABO and RAFBO say what an update is; how it travels is their option.
        return repr(parse_bilevel(self.scheme).uploads) if is_bilevel(self.scheme) else self.scheme

    @property
    def num_asked(self) -> int:
        """Clients that a round asks: clients-per-round and the over-sampling, at most all."""
        return min(math.ceil(self.clients_per_round * (1 + self.over_sampling) - 1e-9), self.num_clients)

    def learning_rate_in(self, server_round: int) -> float:
        """The clients' learning rate in a round."""
        return self.learning_rate * 0.1 ** sum(server_round > drop for drop in self._drops)

    @cached_property
    def _drops(self) -> tuple[int, ...]:
        return tuple(map(int, self.learning_rate_drops.split(","))) if self.learning_rate_drops else ()

    def least_replies(self, num_sampled: int) -> int:
        """Good replies that a round of so many sampled clients needs."""
        return self.quorum if isinstance(self.quorum, int) else max(1, -int(-self.quorum * num_sampled // 1))

    def epsilon(self, num_rounds: int) -> float:
        """The ε that so many rounds with dp-noise cost at dp-delta."""
        return epsilon(self.dp_noise, self.dp_delta, self.clients_per_round, self.num_clients, num_rounds)

    @field_validator("compressor", "downlink_compressor")
    @classmethod
    def _is_compressor(cls, text: str) -> str:
        return repr(parse(text))

    @field_validator("scheme")
    @classmethod
    def _is_scheme(cls, text: str) -> str:
        if is_bilevel(text):
            scheme = parse_bilevel(text).uploads
            if scheme.moves_itself or scheme.takes_minibatches or scheme.hears_back or scheme.num_messages > 1:
                raise ValueError(
                    f"uploads of a bilevel method is a scheme that sends what its client found, such as 'ef21' or "
                    f"'diana'; {scheme.name} asks for gradients of its own, or sends more than one message"
                )
        else:
            parse_scheme(text)
        return text

    @field_validator("downlink_scheme")
    @classmethod
    def _is_downlink_scheme(cls, text: str) -> str:
        parse_downlink(text)
        return text

    @field_validator("aggregation")
    @classmethod
    def _is_aggregation(cls, text: str) -> str:
        parse_aggregation(text)
        return text

    @field_validator("tiers")
    @classmethod
    def _are_tiers(cls, text: str) -> str:
        return ",".join(map(str, parse_tiers(text)))

    @field_validator("model")
    @classmethod
    def _is_model(cls, text: str) -> str:
        parse_model(text)
        return text

    @field_validator("client_optimizer", "server_optimizer")
    @classmethod
    def _is_optimizer(cls, text: str) -> str:
        parse_optimizer(text)
        return text

    @field_validator("width_rule")
    @classmethod
    def _is_rule(cls, name: str) -> str:
        rule_named(name)
        return name

    @field_validator("tier_assignment")
    @classmethod
    def _is_assignment(cls, text: str, info: ValidationInfo) -> str:
        if {"tiers", "num_clients", "seed"} <= info.data.keys():  # otherwise those are the mistake
            assign_tiers(parse_tiers(info.data["tiers"]), info.data["num_clients"], info.data["seed"], text)
        return text

    @field_validator("learning_rate_drops")
    @classmethod
    def _are_rounds(cls, text: str) -> str:
        if text and not all(part.strip().isdecimal() for part in text.split(",")):
            raise ValueError('it is a list of rounds such as "150,250"')
        return text

    @field_validator("quorum")
    @classmethod
    def _is_quorum(cls, value: int | float) -> int | float:
        if isinstance(value, bool) or value < 0 or (isinstance(value, float) and not 0 < value <= 1):
            raise ValueError(f"a whole number of replies, or a share in (0, 1], not {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients-per-round is {self.clients_per_round}, more than num-clients, {self.num_clients}"
            )
        if isinstance(self.quorum, int) and self.quorum > self.clients_per_round:
            raise ValueError(f"quorum is {self.quorum}, more than clients-per-round, {self.clients_per_round}")
        if self.over_sampling and self.engine != "flower":
            raise ValueError(
                f"over-sampling is for engine 'flower', where clients get lost; engine {self.engine!r} loses none"
            )
        if (self.task == "bilevel") != is_bilevel(self.scheme):
            raise ValueError(
                f"task 'bilevel' goes with scheme {', '.join(map(repr, METHODS))}, and these with it; got task "
                f"{self.task!r} and scheme {self.scheme!r}"
            )
        if self.task == "bilevel":
            self._fits_bilevel()
        if self.vectorize:
            self._fits_vectorized(parse_scheme(self._message_scheme))
        self._fits_scheme(parse_scheme(self._message_scheme))
        check_trust(self)
        if not (self.downlink.is_unbiased or self.downlink_anchors):
            raise ValueError(
                f"downlink-compressor {self.downlink!r} is biased: clients would train another model than the "
                "server's, and nothing corrects that. Take an unbiased one such as QSGD(levels=127) or Natural(), or "
                "downlink-scheme = 'docofl'"
            )
        return self

    def _fits_vectorized(self, scheme: Scheme) -> None:
        """Only the plain local training of many clients at once has a vectorised form."""
        obstacles = {
            f"engine {self.engine!r}; it takes 'ray'": self.engine != "ray",
            "task 'bilevel'": self.task == "bilevel",
            f"scheme {scheme.name!r}, whose clients do not train": scheme.moves_itself,
            f"width-rule {self.width_rule!r}": self.width_rule in ("ordered-dropout", "depth"),
        }
        if reasons := [reason for reason, holds in obstacles.items() if holds]:
            raise ValueError(f"vectorize = true does not go with {reasons[0]}")

    def _fits_scheme(self, scheme: Scheme) -> None:
        scheme.check_cohort(self.clients_per_round, self.num_clients)
        if scheme.moves_itself or scheme.takes_minibatches:
            self._fits_own_steps(scheme)
        if not scheme.has_memory:
            return
        if rule_named(self.width_rule).per_round or self.tier_assignment == "redrawn":
            key = "width-rule" if rule_named(self.width_rule).per_round else "tier-assignment"
            value = getattr(self, key.replace("-", "_"))
            raise ValueError(
                f"scheme {scheme.name} keeps client memory, a number for each coordinate that the client holds, and "
                f"with {key} = {value!r} these change from round to round: take coordinates that stay"
            )
        if self.average_by_label:
            raise ValueError(
                f"scheme {scheme.name} keeps client memory of all its coordinates, and average-by-label leaves some of "
                "what it sends out of the mean: client and server would no longer remember the same"
            )

    def _fits_own_steps(self, scheme: Scheme) -> None:
        """What would step beside a scheme that takes gradients is refused."""
        wanted: dict[str, Scalar] = {"client_optimizer": "sgd", "local_steps": 0}
        if scheme.moves_itself:
            wanted |= {"server_optimizer": "sgd", "server_learning_rate": 1.0}
        for name, needed in wanted.items():
            if (value := getattr(self, name)) != needed:
                raise ValueError(
                    f"scheme {scheme.name} takes gradients and says itself how many and how to step along them: "
                    f"{name.replace('_', '-')} stays {needed!r}, got {value!r}"
                )

    def _fits_bilevel(self) -> None:
        for key in ("masked_cross_entropy", "average_by_label", "distill"):
            if getattr(self, key):
                raise ValueError(
                    f"{key.replace('_', '-')} is for task 'classification'; a bilevel problem states its losses"
                )
        for key in ("learning_rate_drops", "clip_norm"):
            if getattr(self, key):
                raise ValueError(f"{key.replace('_', '-')} is for task 'classification'; a bilevel task has none")
        if self.client_optimizer != "sgd":
            raise ValueError(f"client-optimizer of a bilevel task is 'sgd', got {self.client_optimizer!r}")
        if self.width_rule in ("ordered-dropout", "depth"):
            raise ValueError(
                f"width-rule of a bilevel task is 'nested', 'rolling' or 'random', got {self.width_rule!r}"
            )


def _message(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    text = error["msg"].removeprefix("Value error, ")
    return f"{key} = {error['input']!r}: {text}" if key else text
