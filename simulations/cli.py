"""The `fl-mlmc` command."""

import shlex
import signal
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

import fl_mlmc
from fl_mlmc.deploy.cli import app as deployment
from fl_mlmc.own import references
from fl_mlmc.run.config import ConfigError, RunConfig, Scalar
from fl_mlmc.strategies.checkpoint import CHECKPOINT

from .app.launch import execute, load_config, load_run
from .app.places import OnDevices, Place, RunFailed, place_of
from .export import export
from .progress import Telling
from .report import draw, summarise
from .scaffold import SCENARIO, scaffold

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)
app.add_typer(deployment, name="deploy")

Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN_DIR", help="Go on with the run there.")]
Force = Annotated[bool, typer.Option("--force", help="Resume also with other data or code; run.json notes it.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a run-config key.")]


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
    try:
        made = scaffold(folder)
    except (OSError, ValueError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    for path in made:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
    told = f"cd {shlex.quote(str(folder))} && fl-mlmc run {SCENARIO}"
    console.print(f"try it   {told}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def run(
    scenario: Annotated[Path | None, typer.Argument(metavar="[SCENARIO.toml]", help="Run-config keys in TOML.")] = None,
    settings: Settings = None,
    resume: Resume = None,
    ray_address: Annotated[str, typer.Option(metavar="ADDRESS", help="Run on the Ray cluster there.")] = "",
    force: Force = False,
) -> None:
    """Run a scenario to its end, and exit with 0 only if it got there."""

    def place(config: RunConfig) -> Place:
        return place_of(config, in_flower=True, ray_address=ray_address)

    _run(scenario, settings, resume, force, ["run"], place)


@deployment.command("run")
def run_on_devices(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `init` made.")],
    scenario: Annotated[Path | None, typer.Argument(metavar="[SCENARIO.toml]", help="Run-config keys in TOML.")] = None,
    settings: Settings = None,
    resume: Resume = None,
    force: Force = False,
) -> None:
    """Submit the app to the running server and follow it to its end; Ctrl-C stops the run."""
    command = ["deploy", "run", str(directory)]
    _run(scenario, settings, resume, force, command, lambda _: OnDevices(directory, _tell), {"engine": "flower"})


def _run(
    scenario: Path | None,
    settings: list[str] | None,
    resume: Path | None,
    force: bool,
    command: Sequence[str],
    place: Callable[[RunConfig], Place],
    given: Mapping[str, Scalar] | None = None,
) -> None:
    """Run what was asked for; `command` is what goes on with such a run, but for --resume."""
    signal.signal(signal.SIGTERM, _end)
    try:
        if resume is not None and scenario:
            raise ConfigError("--resume goes on with the run's own config: leave out the scenario")
        if force and resume is None:
            raise ConfigError("--force is for --resume")
        changes = dict(map(parse_setting, settings or []))
        config = load_run(resume, changes) if resume else load_config(scenario, {**changes, **(given or {})})
        with Telling(config.num_rounds, config.engine.name, console) as told:
            result = execute(config, told.advance, place(config), force=force, tell=_tell)
    except (ConfigError, ValueError, OSError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except RunFailed as error:
        errors.print(f"[red]run failed:[/] {escape(error.reason)}", highlight=False, soft_wrap=True)
        errors.print(f"log: {error.directory}", highlight=False, soft_wrap=True, markup=False)
        if (error.directory / CHECKPOINT).exists():
            again = shlex.join(["fl-mlmc", *command, "--resume", str(error.directory)])
            errors.print(f"go on: {again}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("interrupted; everything that this run started is stopped")
        raise typer.Exit(130) from None
    console.print(summarise(result.directory))
    picture = draw([result.directory], result.directory / "report.png")
    console.print(f"run      {result.directory}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"picture  {picture}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(help="Where the PNG goes; by default into the first run.")] = None,
) -> None:
    """Sum up runs, and draw accuracy against rounds and bytes, all runs in one picture."""
    try:
        for directory in runs:
            console.print(summarise(directory))
        picture = draw(runs, out or runs[0] / "report.png")
    except (OSError, ValueError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    console.print(f"picture  {picture}", highlight=False, soft_wrap=True, markup=False)


@app.command("export")
def export_model(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run whose model is meant.")],
    to: Annotated[Path, typer.Option(help="The file: NAME.safetensors, or NAME.pt for a state_dict.")],
    tier: Annotated[str, typer.Option(help="The tier whose submodel is meant; the whole model unless given.")] = "",
) -> None:
    """Write a run's trained model, cut to a tier, to a file that plain torch loads."""
    try:
        about = export(directory, to, tier)
    except (OSError, ValueError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    shape = f"inputs {about.input_shape}, {about.num_classes} classes, width {about.width:g}"
    console.print(f"model    {to}: {about.model}, {shape}", highlight=False, soft_wrap=True, markup=False)
    if to.suffix == ".safetensors":
        trusted = ", own=True" if references(about.model) else ""
        told = f'from fl_mlmc.models import load_exported; module = load_exported("{to}"{trusted})'
    else:
        told = f'module.load_state_dict(torch.load("{to}", weights_only=True))'
    console.print(f"load it  {told}", highlight=False, soft_wrap=True, markup=False)


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
    from .theory import PROBLEMS, compare, summaries

    try:
        with Progress(*Progress.get_default_columns(), console=errors, transient=True) as progress:
            bar = progress.add_task("rows", total=None)
            table = compare(
                problems or list(PROBLEMS),
                out,
                max_rounds,
                jobs,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except (OSError, ValueError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    for shown in summaries(table):
        console.print(shown)
    console.print(f"tables and pictures  {out}", highlight=False, soft_wrap=True, markup=False)


def _tell(line: str) -> None:
    errors.print(line, highlight=False, soft_wrap=True, markup=False)


def _end(number: int, frame: object) -> None:
    # A plain SIGTERM would leave without ending what the run started.
    raise SystemExit(128 + number)


def parse_setting(text: str) -> tuple[str, Scalar]:
    """("num_rounds", 5) from "num-rounds=5"; a value for a text key is taken as it stands; ConfigError without "="."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
    if RunConfig.type_of(key.strip()) in (None, bool, int, float, int | float):
        try:
            return key.strip().replace("-", "_"), tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    return key.strip().replace("-", "_"), value.strip("\"'")


if __name__ == "__main__":
    app()
