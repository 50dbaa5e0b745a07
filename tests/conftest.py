import inspect
from pathlib import Path

import pytest
import torch

from fl_mlmc.run.config import RunConfig

torch.set_num_threads(1)  # layers as small as in tests only wait for each other on several threads


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rows of sweeps that only `make test-all` runs."""
    for item in items:
        for sweep in item.iter_markers("sweep"):
            quick = sweep.kwargs["quick"]
            names = inspect.signature(quick).parameters
            if not quick(*(item.callspec.params[name] for name in names)):  # type: ignore[attr-defined]
                item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data is shared by the tests of one session, and by nobody else."""
    monkeypatch.setenv("FL_MLMC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def small(tmp_path: Path) -> RunConfig:
    """A run of a second: digits on six clients, a tiny perceptron, in this process."""
    return RunConfig(
        num_rounds=2,
        num_clients=6,
        clients_per_round=4,
        engine="local",
        model="mlp(hidden=(16,))",
        tiers="small:0.5:0.5,full:1.0:0.5",
        compressor="MLMC(TopK(fraction=0.1))",
        local_steps=2,
        device="cpu",
        runs_dir=str(tmp_path / "runs"),
        run_name="small",
    )
