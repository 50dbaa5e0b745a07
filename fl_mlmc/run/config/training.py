"""What clients train, and how: the model, the task and its losses, the steps."""

import math
from functools import cached_property
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from ...bilevel.problems import check_problem
from ...models import parse_model
from ...training.objectives import Objective, parse_objective
from ...training.optimizers import parse_optimizer
from ...training.schedules import factor_in
from .section import Section


class TrainingConfig(Section):
    """A client's local training, or its part in a bilevel problem."""

    model: str = Field("cnn", description="the model and its options: mlp, cnn, resnet18, transformer or char_lstm")

    @field_validator("model")
    @classmethod
    def _is_model(cls, text: str) -> str:
        parse_model(text)
        return text

    objective: str = Field("cross_entropy", description="what clients minimise: cross_entropy, mse, bce or next_token")

    @field_validator("objective")
    @classmethod
    def _is_objective(cls, text: str) -> str:
        parse_objective(text)
        return text

    metrics: str = Field(
        "", description="what the log says of a model, such as f1,auc; empty: the first of the objective"
    )

    @field_validator("metrics")
    @classmethod
    def _are_metrics(cls, text: str, info: ValidationInfo) -> str:
        if "objective" in info.data:  # otherwise that is the mistake
            parse_objective(info.data["objective"]).chosen(text)
        return text

    masked_cross_entropy: bool = Field(
        False, description="leave classes out of the loss that a client has no example of"
    )
    distill: bool = Field(False, description="narrow widths learn from the widest, too (FjORD, DepthFL)")
    local_steps: int = Field(
        0, ge=0, description="minibatches that a client trains on in a round; 0: as many as local-epochs make"
    )
    local_epochs: int = Field(5, ge=1, description="passes over a client's examples in a round")
    batch_size: int = Field(16, ge=1, description="examples in a minibatch")
    learning_rate: float = Field(0.1, gt=0, description="step of a client; of the inner y in a bilevel task")
    learning_rate_drops: str = Field(
        "", description="rounds after each of which the learning rate falls to a tenth, such as 150,250"
    )

    @field_validator("learning_rate_drops")
    @classmethod
    def _are_rounds(cls, text: str) -> str:
        if text and not all(part.strip().isdecimal() for part in text.split(",")):
            raise ValueError('it is a list of rounds such as "150,250"')
        return text

    learning_rate_schedule: str = Field(
        "constant", description="the factor of the learning rate in a round: constant, warmup, cosine or steps"
    )

    @field_validator("learning_rate_schedule")
    @classmethod
    def _is_schedule(cls, text: str, info: ValidationInfo) -> str:
        factor_in(text, 1)
        if text != "constant" and info.data.get("learning_rate_drops"):
            raise ValueError(
                f"learning-rate-drops = {info.data['learning_rate_drops']!r} is a schedule too: leave one of them out"
            )
        return text

    proximal: float = Field(
        0.0, ge=0, description="μ of FedProx, which adds μ/2 ‖x − x_server‖² to a client's loss; 0: plain training"
    )
    clip_norm: float = Field(
        0.0, ge=0, description="longest gradient of a minibatch; longer ones are shortened to it; 0: any length"
    )
    client_optimizer: str = Field("sgd", description="how a client steps: sgd, adam, adamw, adagrad or rmsprop")

    @field_validator("client_optimizer")
    @classmethod
    def _is_optimizer(cls, text: str) -> str:
        parse_optimizer(text)
        return text

    task: Literal["classification", "bilevel"] = Field(
        "classification", description="train one model by its objective, or solve a bilevel problem"
    )
    problem: str = Field("hyper_representation", description="the problem of a bilevel task, with its options")

    @field_validator("problem")
    @classmethod
    def _is_problem(cls, text: str) -> str:
        check_problem(text)
        return text

    outer_learning_rate: float = Field(0.3, gt=0, description="step of the outer x of a bilevel task")
    multiplier_learning_rate: float = Field(
        0.0, ge=0, description="step of the multiplier v of a bilevel task; 0: the learning-rate"
    )
    outer_share: float = Field(
        0.5, gt=0, lt=1, description="share of a client's examples that only the outer loss sees"
    )

    @property
    def is_bilevel(self) -> bool:
        """Whether clients step a bilevel problem."""
        return self.task == "bilevel"

    @cached_property
    def parsed_objective(self) -> Objective:
        """The objective, parsed."""
        return parse_objective(self.objective)

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """The columns of an evaluation: "loss", then the metrics."""
        return "loss", *self.parsed_objective.chosen(self.metrics)

    def num_steps(self, num_examples: int) -> int:
        """Local steps of a client with so many examples: local-steps, or those of local-epochs."""
        return self.local_steps or self.local_epochs * math.ceil(num_examples / self.batch_size)

    def learning_rate_in(self, server_round: int) -> float:
        """The clients' learning rate in a round."""
        if self.learning_rate_schedule != "constant":
            return self.learning_rate * factor_in(self.learning_rate_schedule, server_round)
        return self.learning_rate * 0.1 ** sum(server_round > drop for drop in self._drops)

    @cached_property
    def _drops(self) -> tuple[int, ...]:
        return tuple(map(int, self.learning_rate_drops.split(","))) if self.learning_rate_drops else ()
