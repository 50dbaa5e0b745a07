"""The `fl-mlmc` command.

Modules that take long to import are imported where they are used: `--help` and the first words of a run come at once.
"""

import json
import shlex
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

import fl_mlmc
from fl_mlmc.deploy.cli import app as deployment

from .explained import Explained

if TYPE_CHECKING:
    from fl_mlmc.run.config import RunConfig, Scalar

    from .app.places import Place
    from .lab.compare import Comparison
    from .lab.study import Study

app = typer.Typer(cls=Explained, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)
app.add_typer(deployment, name="deploy")

Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN_DIR", help="Go on with the run there.")]
Force = Annotated[bool, typer.Option("--force", help="Resume also with other data or code; run.json notes it.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a run-config key.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but what went wrong.")]
Scenario = Annotated[Path | None, typer.Argument(metavar="[SCENARIO.toml]", help="Run-config keys in TOML.")]


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"fl-mlmc {fl_mlmc.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Federated learning with multilevel Monte Carlo compression on unequal clients."""


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; its name is the study's.")],
) -> None:
    """Make a study of your own: model, data, scenario and README, as a folder that runs as it stands."""
    with _reporting():
        from .scaffold import SCENARIO, scaffold

        made = scaffold(folder)
    for path in made:
        _say(str(path))
    _say(f"try it   cd {shlex.quote(str(folder))} && fl-mlmc run {SCENARIO}")


@app.command()
def run(
    scenario: Scenario = None,
    settings: Settings = None,
    resume: Resume = None,
    ray_address: Annotated[str, typer.Option(metavar="ADDRESS", help="Run on the Ray cluster there.")] = "",
    force: Force = False,
    quiet: Quiet = False,
    json_out: Json = False,
) -> None:
    """Run a scenario to its end, and exit with 0 only if it got there."""

    def place(config: "RunConfig") -> "Place":
        from .app.places import place_of

        return place_of(config, in_flower=True, ray_address=ray_address)

    _run(scenario, settings, resume, force, ["run"], place, {}, quiet, json_out)


@deployment.command("run")
def run_on_devices(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `init` made.")],
    scenario: Scenario = None,
    settings: Settings = None,
    resume: Resume = None,
    force: Force = False,
    quiet: Quiet = False,
    json_out: Json = False,
) -> None:
    """Submit the app to the running server and follow it to its end; Ctrl-C stops the run."""

    def place(config: "RunConfig") -> "Place":
        from .app.places import OnDevices

        return OnDevices(directory, (lambda _: None) if quiet else _tell)

    command = ["deploy", "run", str(directory)]
    _run(scenario, settings, resume, force, command, place, {"engine": "flower"}, quiet, json_out)


def _run(
    scenario: Path | None,
    settings: list[str] | None,
    resume: Path | None,
    force: bool,
    command: Sequence[str],
    place: "Callable[[RunConfig], Place]",
    given: "Mapping[str, Scalar]",
    quiet: bool,
    json_out: bool,
) -> None:
    """Run what was asked for; `command` is what goes on with such a run, but for --resume."""
    signal.signal(signal.SIGTERM, _end)
    told_to = _console_for(quiet, json_out)
    with _reporting():
        with _starting(told_to, "torch and Flower"):
            from fl_mlmc.run.config import ConfigError

            from .app import launch
            from .app.places import RunFailed
            from .forecast import forecast
            from .progress import Telling
        if resume is not None and scenario:
            raise ConfigError("--resume goes on with the run's own config: leave out the scenario")
        if force and resume is None:
            raise ConfigError("--force is for --resume")
        changes = dict(map(parse_setting, settings or []))
        config = launch.load_run(resume, changes) if resume else launch.load_config(scenario, {**changes, **given})
        if resume is None:
            with _starting(told_to, "data and model"):
                planned = forecast(config)
            for line in planned.lines(told_to.width if told_to.is_terminal else None):
                told_to.print(line, highlight=False, soft_wrap=True, markup=False)
        try:
            with Telling(config.num_rounds, config.engine.name, told_to) as told:
                result = launch.execute(config, told.advance, place(config), force=force, tell=_tell)
        except RunFailed as error:
            _tell_failure(error, command)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            errors.print("interrupted; everything that this run started is stopped")
            _tell_how_to_go_on(Path(config.output.runs_dir) / config.output.run_name, command)
            raise typer.Exit(130) from None
    _tell_end(result.directory, told_to, json_out)


def _tell_failure(error: Any, command: Sequence[str]) -> None:
    errors.print(f"[red]run failed:[/] {escape(error.reason)}", highlight=False, soft_wrap=True)
    _tell(f"log: {error.directory}")
    _tell_how_to_go_on(error.directory, command)


def _tell_how_to_go_on(directory: Path, command: Sequence[str]) -> None:
    """The command that goes on with a run that was cut off, if it has a checkpoint."""
    from fl_mlmc.strategies.checkpoint import CHECKPOINT

    if (directory / CHECKPOINT).exists():
        _tell(f"go on: {shlex.join(['fl-mlmc', *command, '--resume', str(directory)])}")


def _tell_end(directory: Path, told_to: Console, json_out: bool) -> None:
    """The numbers that matter of a run that is over, its picture, and what to try next."""
    from .lab.picture import draw
    from .lab.sweep import compare_runs
    from .report import in_short

    comparison = compare_runs([directory])
    picture = draw(comparison, directory / "report.png")
    if json_out:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
        return
    in_short(directory).print(told_to)
    for name, told in (
        ("run", str(directory)),
        ("picture", str(picture)),
        ("next", shlex.join(["fl-mlmc", "report", str(directory), "--html", "report.html"])),
    ):
        told_to.print(f"{name:<8} {told}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="A scenario and its axes: a grid, or a zip.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, where memory is free for them.")] = 1,
    quiet: Quiet = False,
    json_out: Json = False,
) -> None:
    """Run what is missing of a study and compare its methods; started again, it goes on where it was cut off."""
    signal.signal(signal.SIGTERM, _end)
    told_to = _console_for(quiet, json_out)
    with _reporting():
        with _starting(told_to, "torch and Flower"):
            from .lab.study import Study
            from .lab.sweep import compare_study
            from .lab.sweep import sweep as conduct
        plan = Study.read(study)
        try:
            failures = conduct(plan, jobs, told_to, _tell)
        except KeyboardInterrupt:
            _tell(f"interrupted; what is done stays done. Go on: {shlex.join(['fl-mlmc', 'sweep', str(study)])}")
            raise typer.Exit(130) from None
        comparison = compare_study(plan) if any(trial.is_done for trial in plan.trials) else None
    if comparison is not None and json_out:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
    elif comparison is not None:
        _print_tables(comparison, told_to)
        told = shlex.join(["fl-mlmc", "report", str(study), "--html", "report.html"])
        for line in (f"runs     {plan.directory}", f"next     {told}"):
            told_to.print(line, highlight=False, soft_wrap=True, markup=False)
    for trial, status in failures.items():
        _tell(f"failed   {trial.name}: {status}\n         log: {trial.directory}")
    if failures:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR… | STUDY.toml", help="Run directories, or one study.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The picture, .png, .pdf or .svg; by default report.png in the first run."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with all figures too, one file to send on.")] = None,
    metric: Annotated[str, typer.Option(help="The column that runs are judged by; their own unless given.")] = "",
    json_out: Json = False,
) -> None:
    """Sum up runs or a study: tables, a picture, and a page that opens without a network."""
    with _reporting():
        with _starting(errors, "tables and pictures"):
            from .lab.picture import draw
            from .lab.study import Study, is_study
            from .lab.sweep import compare_runs, compare_study
            from .report import summarise
        study = Study.read(runs[0]) if len(runs) == 1 and is_study(runs[0]) else None
        comparison = compare_study(study, metric) if study else compare_runs(runs, metric)
        page = _write_page(comparison, study, html) if html else None
        if json_out:
            typer.echo(json.dumps(comparison.to_json(), indent=2))
            return
        for directory in [] if study else runs:
            summarise(directory).print(console)
        if len(comparison.curves) > 1:
            _print_tables(comparison, console)
        picture = draw(comparison, out or (study.directory if study else runs[0]) / "report.png")
    _say(f"picture  {picture}")
    if page:
        _say(f"page     {page}")


def _write_page(comparison: "Comparison", study: "Study | None", target: Path) -> Path:
    from .lab.page import write_page

    name = study.name if study else ", ".join(curve.directory.name for curve in comparison.curves[:3])
    return write_page(comparison, target, f"{name}: {len(comparison.curves)} runs" if study else name)


def _print_tables(comparison: "Comparison", told_to: Console) -> None:
    from .lab.tables import tables

    for shown in tables(comparison):
        shown.print(told_to)


@app.command()
def watch(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run that goes on, here or on devices.")],
    once: Annotated[bool, typer.Option("--once", help="Say how it stands, and leave.")] = False,
) -> None:
    """Follow a run from another terminal: rounds, time left, accuracy, bytes, drops and memory."""
    with _reporting():
        from .lab.watch import follow

        try:
            status = follow(directory, console, once)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
    if status.startswith("failed"):
        raise typer.Exit(1)


@app.command()
def keys(
    word: Annotated[str, typer.Argument(metavar="[WORD]", help="Only keys with it in their name or meaning.")] = "",
    json_out: Json = False,
) -> None:
    """List the run-config keys: type, default and meaning."""
    with _reporting():
        from .keys import table

        found = table(word)
    if json_out:
        typer.echo(json.dumps([dict(zip(found.columns, row, strict=True)) for row in found.rows], indent=2))
        return
    found.print(console)


@app.command("export")
def export_model(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run whose model is meant.")],
    to: Annotated[Path, typer.Option(help="The file: NAME.safetensors, or NAME.pt for a state_dict.")],
    tier: Annotated[str, typer.Option(help="The tier whose submodel is meant; the whole model unless given.")] = "",
    best: Annotated[
        bool, typer.Option("--best", help="The best model, of a run with keep-best, not the last.")
    ] = False,
) -> None:
    """Write a run's trained model, cut to a tier, to a file that plain torch loads."""
    with _reporting():
        from fl_mlmc.own import references

        from .export import export

        about = export(directory, to, tier, best)
    _say(
        f"model    {to}: {about.model}, inputs {about.input_shape}, {about.num_classes} classes, width {about.width:g}"
    )
    if to.suffix == ".safetensors":
        trusted = ", own=True" if references(about.model) else ""
        told = f'from fl_mlmc.models import load_exported; module = load_exported("{to}"{trusted})'
    else:
        told = f'module.load_state_dict(torch.load("{to}", weights_only=True))'
    _say(f"load it  {told}")


@app.command()
def theory(
    problems: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROBLEM…]", help="quadratic, breast-cancer, digits, homogeneous, clock."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where tables and pictures go.")] = Path("runs/theory"),
    max_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds at most for each method; homogeneous and clock have their own.")
    ] = 200_000,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time; one a processor unless given.")] = None,
) -> None:
    """Check theorems by running: measured rate, bound, floor and bits of every scheme on convex problems."""
    with _reporting():
        from .theory import PROBLEMS, compare, summaries

        with Progress(*Progress.get_default_columns(), console=errors, transient=True) as progress:
            bar = progress.add_task("rows", total=None)
            table = compare(
                problems or list(PROBLEMS),
                out,
                max_rounds,
                jobs,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
    for shown in summaries(table):
        console.print(shown)
    _say(f"tables and pictures  {out}")


def parse_setting(text: str) -> "tuple[str, Scalar]":
    """("num_rounds", 5) from "num-rounds=5"; a value for a text key is taken as it stands; ConfigError without "="."""
    from fl_mlmc.run.config import ConfigError, RunConfig

    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
    if RunConfig.type_of(key.strip()) in (None, bool, int, float, int | float):
        try:
            return key.strip().replace("-", "_"), tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    return key.strip().replace("-", "_"), value.strip("\"'")


@contextmanager
def _reporting() -> Iterator[None]:
    """What a person can mend is told in one line, and ends the command with 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


@contextmanager
def _starting(told_to: Console, what: str) -> Iterator[None]:
    """Say what is waited for, before it takes a while: a spinner in a terminal, a line in a pipe."""
    if told_to.is_terminal:
        with told_to.status(f"loading {what}"):
            yield
    else:
        told_to.print(f"loading {what}", highlight=False)
        told_to.file.flush()
        yield


def _console_for(quiet: bool, json_out: bool) -> Console:
    """Where a command talks: on stderr where stdout is for JSON, and nowhere if it is to be quiet."""
    if quiet:
        return Console(quiet=True)
    return errors if json_out else console


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _tell(line: str) -> None:
    errors.print(line, highlight=False, soft_wrap=True, markup=False)


def _end(number: int, frame: object) -> NoReturn:
    # A plain SIGTERM would leave without ending what the run started.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    app()
