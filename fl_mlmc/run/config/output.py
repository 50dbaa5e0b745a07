"""What a run leaves behind, where and how often."""

from functools import cached_property

from pydantic import Field, field_validator

from ..stopping import Stop, parse_stop
from .section import Section


class OutputConfig(Section):
    """The run's directory, and when it is evaluated and saved."""

    evaluate_every: int = Field(1, ge=1, description="rounds between evaluations; the last round is always evaluated")
    checkpoint_every: int = Field(1, ge=1, description="rounds between checkpoints; the last round always has one")
    durable: bool = Field(True, description="write logs and checkpoints so that they survive a power cut")
    resume: bool = Field(
        False, description="go on with the run in runs-dir/run-name; the command sets it with --resume"
    )
    runs_dir: str = Field("runs", description="the folder that holds all runs")
    run_name: str = Field("", description="the folder of this run in it; empty: named by scenario and time")

    early_stop: str = Field(
        "", description="end before the last round: reached('accuracy', 0.95) or patience('loss', evaluations=10)"
    )

    @field_validator("early_stop")
    @classmethod
    def _is_rule(cls, text: str) -> str:
        parse_stop(text)
        return text

    keep_best: str = Field(
        "", description="metric whose best model is kept beside the last, such as accuracy; empty: only the last is"
    )

    @cached_property
    def stop_rule(self) -> Stop | None:
        """The rule of early-stop, parsed; None if there is none."""
        return parse_stop(self.early_stop)

    def is_evaluated(self, server_round: int, num_rounds: int) -> bool:
        """Whether models are evaluated in a round of a run of so many."""
        return server_round % self.evaluate_every == 0 or server_round == num_rounds
