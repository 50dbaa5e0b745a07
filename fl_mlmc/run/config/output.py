"""What a run leaves behind, where and how often."""

from pydantic import Field

from .section import Section


class OutputConfig(Section):
    """The run's directory, and when it is evaluated and saved."""

    evaluate_every: int = Field(1, ge=1, description="rounds between evaluations; the last is always evaluated")
    checkpoint_every: int = Field(1, ge=1, description="rounds between checkpoints; the last has always one")
    durable: bool = Field(True, description="logs and checkpoints outlive a power cut, not only the process")
    resume: bool = Field(False, description="go on with the run that runs-dir/run-name holds")
    runs_dir: str = Field("runs", description="the folder of all runs")
    run_name: str = Field("", description="the run's folder in it; empty: named by scenario and time")

    def is_evaluated(self, server_round: int, num_rounds: int) -> bool:
        """Whether models are evaluated in a round of a run of so many."""
        return server_round % self.evaluate_every == 0 or server_round == num_rounds
