"""A study from its file to its figures: what is missing is run, then all that is there is compared."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from ..app.run_lock import writing
from .compare import Comparison, labels_of
from .crew import Crew
from .curves import Curve
from .progress import Watched
from .study import Study, Trial


def sweep(study: Study, jobs: int, console: Console, tell: Callable[[str], None]) -> dict[Trial, str]:
    """Run what is missing of `study`, `jobs` runs at a time; which runs did not get to their end, and why.

    `console` shows how it goes, `tell` hears what a person should know of. RunBusyError if it is going on already.
    """
    with writing(study.directory, seconds=0.0):
        missing = [trial for trial in study.trials if not trial.is_done]
        for trial in study.trials:
            if trial.is_done and (other := trial.stale()):
                tell(
                    f"{trial.name} was run with other files: {', '.join(other)}; delete {trial.directory} to repeat it"
                )
        if not missing:
            return {}
        with Watched(missing, len(study.trials) - len(missing), console) as told:
            ended = Crew(study.directory, jobs).conduct(missing, told)
    return {trial: status for trial, status in ended.items() if status != "completed"}


def compare_study(study: Study, metric: str = "") -> Comparison:
    """The figures of a study's completed runs by `metric`, or its own; ValueError if there is none.

    A method whose every run is missing is left out; it takes no part in the equal budgets.
    """
    curves = [
        Curve.read(trial.directory, trial.label, metric or study.metric) for trial in study.trials if trial.is_done
    ]
    there = {curve.label for curve in curves}
    return Comparison.of(curves, study.baseline if study.baseline in there else "", study.target)


def compare_runs(directories: Sequence[Path], metric: str = "") -> Comparison:
    """The figures of some runs, whatever made them: those that differ by their seed alone are one method."""
    labels = labels_of(directories)
    curves = [Curve.read(directory, labels[directory], metric) for directory in directories]
    metrics = {curve.metric for curve in curves}
    if len(metrics) > 1 and not metric:
        curves = [Curve.read(directory, labels[directory], curves[0].metric) for directory in directories]
    return Comparison.of(curves)
