"""The `flower` engine: whatever Grid Flower hands over, its own simulation or nodes of a federation."""

from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid

from fl_mlmc.strategies.device_grid import DeviceGrid


def is_simulation(grid: Grid) -> bool:
    """Whether Flower's own simulation handed the grid over."""
    return isinstance(grid, InMemoryGrid)


def flowers_grid(grid: Grid | None) -> Grid:
    """The grid to run on; ValueError where Flower handed none over."""
    if grid is None:
        raise ValueError("engine 'flower' needs Flower: use `flwr run` or `fl-mlmc run`")
    # Flower's simulation passes messages on in memory: nothing is uploaded there, so nothing can stall.
    return grid if is_simulation(grid) else DeviceGrid(grid)
