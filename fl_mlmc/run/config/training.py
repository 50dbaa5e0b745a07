"""What clients train, and how: the model, the task and its losses, the steps."""

from functools import cached_property
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from ...bilevel.problems import check_problem
from ...models import parse_model
from ...training.objectives import Objective, parse_objective
from ...training.optimizers import parse_optimizer
from .section import Section


class TrainingConfig(Section):
    """A client's local training, or its part in a bilevel problem."""

    model: str = Field("cnn", description="the model and its options")

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

    metrics: str = Field("", description='what models are judged by, e.g. "f1,auc"; empty: the usual of the objective')

    @field_validator("metrics")
    @classmethod
    def _are_metrics(cls, text: str, info: ValidationInfo) -> str:
        if "objective" in info.data:  # otherwise that is the mistake
            parse_objective(info.data["objective"]).chosen(text)
        return text

    masked_cross_entropy: bool = Field(False, description="leave classes that a client has not out of its loss")
    distill: bool = Field(False, description="narrow widths learn from the widest too (FjORD, DepthFL)")
    local_steps: int = Field(0, ge=0, description="0: as many as local-epochs make")
    local_epochs: int = Field(5, ge=1, description="passes over a client's examples in a round")
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    learning_rate_drops: str = Field("", description='rounds after each of which it is a tenth, e.g. "150,250"')

    @field_validator("learning_rate_drops")
    @classmethod
    def _are_rounds(cls, text: str) -> str:
        if text and not all(part.strip().isdecimal() for part in text.split(",")):
            raise ValueError('it is a list of rounds such as "150,250"')
        return text

    clip_norm: float = Field(0.0, ge=0, description="the largest norm of a minibatch's gradient; 0: any")
    client_optimizer: str = "sgd"

    @field_validator("client_optimizer")
    @classmethod
    def _is_optimizer(cls, text: str) -> str:
        parse_optimizer(text)
        return text

    task: Literal["classification", "bilevel"] = "classification"
    problem: str = Field(
        "hyper_representation", description="of a bilevel task: its name and options, or module:object"
    )

    @field_validator("problem")
    @classmethod
    def _is_problem(cls, text: str) -> str:
        check_problem(text)
        return text

    outer_learning_rate: float = Field(0.3, gt=0, description="of the outer x; learning-rate is that of the inner y")
    multiplier_learning_rate: float = Field(0.0, ge=0, description="of v; 0: the learning-rate")
    outer_share: float = Field(0.5, gt=0, lt=1, description="of a client's examples, for the outer loss alone")

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

    def learning_rate_in(self, server_round: int) -> float:
        """The clients' learning rate in a round."""
        return self.learning_rate * 0.1 ** sum(server_round > drop for drop in self._drops)

    @cached_property
    def _drops(self) -> tuple[int, ...]:
        return tuple(map(int, self.learning_rate_drops.split(","))) if self.learning_rate_drops else ()
