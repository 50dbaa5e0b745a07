"""FedProx, FedNova, adaptive servers and SCAFFOLD in runs with tiers and a compressor, and where they are FedAvg."""

from pathlib import Path

import numpy as np
import pytest

from fl_mlmc.frames import read_clients
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.simulations.app.launch import execute, load_config


def final(config: RunConfig, name: str, **changes: object) -> np.ndarray:
    """The last model of `config` with some keys changed, flat."""
    config = config.changed(run_name=name, **changes)
    arrays = execute(load_config(None, config.to_flower())).arrays.values()
    rows = read_clients(Path(config.output.runs_dir) / name)
    assert set(rows["status"]) == {"ok"}
    return np.concatenate([array.ravel() for array in arrays])


def test_a_pull_draws_clients_to_the_server_and_is_nothing_in_a_first_step(small: RunConfig) -> None:
    config = small.changed(num_rounds=1)
    start = final(config, "start", learning_rate=1e-12)
    plain, pulled = final(config, "plain"), final(config, "pulled", proximal=5.0)
    assert np.linalg.norm(pulled - start) < 0.9 * np.linalg.norm(plain - start)
    once = config.changed(local_steps=1)
    np.testing.assert_array_equal(final(once, "one"), final(once, "one-pulled", proximal=5.0))


def test_fednova_is_fedavg_where_steps_are_equal_and_not_where_they_are_not(small: RunConfig) -> None:
    config = small.changed(partition="dirichlet:0.3")
    np.testing.assert_allclose(final(config, "nova", weighting="fednova"), final(config, "avg"), rtol=1e-4, atol=1e-6)
    uneven = config.changed(local_steps=0, local_epochs=1)
    nova, avg = final(uneven, "uneven", weighting="fednova"), final(uneven, "uneven-avg")
    assert np.linalg.norm(nova - avg) > 1e-3 * np.linalg.norm(avg)


def test_adaptive_servers_and_scaffold_run_with_tiers_and_a_compressor(small: RunConfig) -> None:
    for number, server in enumerate(["fedavgm", "fedadam", "fedyogi", "fedadagrad"]):
        vector = final(small, f"server-{number}", server_optimizer=server, server_learning_rate=0.01)
        assert np.isfinite(vector).all()
    assert np.isfinite(final(small, "scaffold", scheme="scaffold(0.1, 3)", local_steps=0)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "scaffold(0.1, 3)", "compressor": "TopK(fraction=0.1)"}, "needs an unbiased compressor"),
        ({"scheme": "scaffold(0.1, 3)", "width_rule": "rolling"}, "scheme scaffold keeps client memory"),
        ({"scheme": "scaffold(0.1, 3)", "local_steps": 4}, "local-steps stays 0, got 4"),
        ({"scheme": "scaffold(0.1, 3)", "downlink_scheme": "docofl"}, "broadcasts a control variate too"),
        ({"scheme": "scaffold(0.1, 3)", "proximal": 0.1}, "takes gradients at points of its own choice"),
        ({"task": "bilevel", "scheme": "rafbo", "proximal": 0.1}, "proximal is for task 'classification'"),
        ({"proximal": -1.0}, "proximal = -1.0"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(
    small: RunConfig, changes: dict[str, object], message: str
) -> None:
    base = small.changed(local_steps=0, tiers="full:1:1") if "scheme" in changes else small
    with pytest.raises(ConfigError, match=message):
        execute(load_config(None, base.changed(**changes).to_flower()))
