"""`fl-mlmc deploy …`; on devices, which have no `fl-mlmc`, `python -m fl_mlmc.deploy …`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .federation import DEFAULT_PORT, DeployError, add_node, node_name, parse_nodes
from .federation import init as init_folder
from .serve import read_node, run_node, serve
from .status import status as report
from .units import KINDS
from .units import unit as unit_text

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `init` made.")]


@app.callback()
def main() -> None:
    """A federation of real devices: TLS, keys for every node, and one small opening to the network."""


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for keys and state.")],
    host: Annotated[list[str], typer.Option(help="IP address or name that devices reach this machine by; several.")],
    node: Annotated[
        list[str] | None, typer.Option(metavar="CLIENT[:TIER]", help="Make keys for this device; several.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Where the gate listens for devices.")] = f"0.0.0.0:{DEFAULT_PORT}",
    control_port: Annotated[int, typer.Option(help="Where the SuperLink listens, on loopback.")] = 9444,
) -> None:
    """Create the certificate authority, the server's certificate and the nodes' keys."""
    with _reporting():
        nodes = parse_nodes(node or [])
        names = [node_name(client) for client in nodes]
        init_folder(directory.absolute(), host, listen, control_port, nodes)
        keys = ", ".join(names) or "no device yet"
        typer.echo(f"made {directory}: CA, server certificate for {', '.join(host)}, keys for {keys}")
        for name in names:
            _say_where(directory, name)


@app.command()
def add(
    directory: Directory, node: Annotated[list[str], typer.Argument(metavar="CLIENT[:TIER]", help="Such as 3:phone.")]
) -> None:
    """Make keys for more devices; a running server lets them in. Delete nodes/client-N.pub to bar one."""
    with _reporting():
        for client, tier in parse_nodes(node).items():
            add_node(directory.absolute(), client, tier)
            _say_where(directory, node_name(client))


@app.command()
def server(
    directory: Directory,
    expose_control_api: Annotated[
        bool, typer.Option("--expose-control-api", help="Without the gate: let the network reach the Control API.")
    ] = False,
) -> None:
    """Run the SuperLink with TLS and node authentication on loopback, and the gate that devices reach."""
    with _reporting():
        serve(directory.absolute(), _tell, expose_control_api)


@app.command()
def node(
    directory: Annotated[Path, typer.Argument(metavar="DEVICE_DIR", help="The device's folder, devices/client-N.")],
    data_path: Annotated[str | None, typer.Option(help="A .csv or .parquet file, or a folder of images.")] = None,
    tier: Annotated[str | None, typer.Option(help='One of the run\'s tiers, or "auto" to measure.')] = None,
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the server is.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="DIR", help="The weights of a model that adapts some.")] = None,
    uplink_budget: Annotated[int | None, typer.Option(metavar="BYTES", help="Most that a round's update has.")] = None,
    port: Annotated[int | None, typer.Option(help="A free port on loopback; one for each node of a machine.")] = None,
) -> None:
    """Run a node, and run it again when it ends. Options win over DEVICE_DIR/node.toml."""
    with _reporting():
        given = {"tier": tier, "server": server, "uplink_budget": uplink_budget, "port": port}
        paths = {"data_path": data_path, "weights": weights}
        settings = read_node(directory.absolute())
        settings = replace(settings, **{name: value for name, value in {**given, **paths}.items() if value is not None})  # type: ignore[arg-type]
        rooted = {name: str(Path(path).expanduser().absolute()) for name in paths if (path := getattr(settings, name))}
        settings = replace(settings, **rooted)  # type: ignore[arg-type]
        run_node(directory.absolute(), settings, _tell)


@app.command()
def status(directory: Directory) -> None:
    """Show how the server's parts fare, the nodes, their tiers and the last round."""
    with _reporting():
        for line in report(directory.absolute(), _tell):
            typer.echo(line)


@app.command()
def unit(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The server's or the device's folder.")],
    user: Annotated[str, typer.Option(help="Who runs it; you by default.")] = "",
) -> None:
    """Print a systemd unit that runs the server or a node at boot."""
    with _reporting():
        if kind not in KINDS:
            raise DeployError(f"a unit is for {' or '.join(KINDS)}, not {kind!r}")
        typer.echo(unit_text(kind, directory, user), nl=False)


def _say_where(directory: Path, name: str) -> None:
    typer.echo(f"move {directory / 'devices' / name} onto the device of {name}")


def _tell(line: str) -> None:
    with suppress(OSError):  # a terminal that is gone must not take the server along
        typer.echo(line, err=True)


@contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except (DeployError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
