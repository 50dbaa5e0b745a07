from pathlib import Path

import pytest

from fl_mlmc.run.config import RunConfig


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
