"""What a run leaves behind, where and how often."""

from pydantic import Field

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

    def is_evaluated(self, server_round: int, num_rounds: int) -> bool:
        """Whether models are evaluated in a round of a run of so many."""
        return server_round % self.evaluate_every == 0 or server_round == num_rounds
