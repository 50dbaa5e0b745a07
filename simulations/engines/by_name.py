"""The engines by the names that the run config has for them. An engine is its own file and one row here."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from flwr.serverapp import Grid

from fl_mlmc.clients.client_app import app as client_app
from fl_mlmc.clients.client_app import train_together
from fl_mlmc.run.config import RunConfig

from .flower import flowers_grid
from .local import LocalGrid
from .needs import Needs

Opened = AbstractContextManager[Grid]
"""A Grid that is ready inside its `with` block."""


def open_engine(config: RunConfig, data: Path, flowers: Grid | None) -> Opened:
    """The Grid of the config's engine; `data` is the prepared set, `flowers` what Flower handed over, if it did."""
    return ENGINES[config.engine.name](config, data, flowers)


def _local(config: RunConfig, data: Path, flowers: Grid | None) -> Opened:
    return nullcontext(LocalGrid(client_app, config.cohort.num_clients, config.to_flower()))


@contextmanager
def _ray(config: RunConfig, data: Path, flowers: Grid | None):  # type: ignore[no-untyped-def]
    from .ray.grid import RayGrid  # Ray takes a second to import
    from .ray.session import ray_ready

    engine, cohort = config.engine, config.cohort
    needs = Needs.of_config(engine, cohort.tier_list)
    at_once = train_together if engine.vectorize else None
    with (
        ray_ready(flowers),
        RayGrid(
            client_app, cohort.num_clients, config.to_flower(), needs, engine.client_timeout, data, at_once
        ) as grid,
    ):
        yield grid


def _flower(config: RunConfig, data: Path, flowers: Grid | None) -> Opened:
    return nullcontext(flowers_grid(flowers))


ENGINES: Mapping[str, Callable[[RunConfig, Path, Grid | None], Opened]] = {
    "local": _local,
    "ray": _ray,
    "flower": _flower,
}
