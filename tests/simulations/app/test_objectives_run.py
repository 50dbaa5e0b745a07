"""Numbers, flags and characters train on every engine, and equally."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.launch import RunResult, run

RNG = np.random.default_rng(0)


def numbers(folder: Path) -> dict[str, object]:
    x = RNG.normal(size=(120, 3))
    frame = pd.DataFrame(x, columns=list("abc")).assign(y=x @ [2, -1, 0.5], z=x[:, 0] - x[:, 2])
    frame.to_csv(folder / "set.csv", index=False)
    return {"dataset": folder / "set.csv", "targets": "y, z", "objective": "mse", "test-share": 0.2}


def flags(folder: Path) -> dict[str, object]:
    x = RNG.normal(size=(120, 3))
    np.savez(folder / "set.npz", features=x, targets=np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], axis=1))
    return {"dataset": folder / "set.npz", "objective": "bce", "test-share": 0.2}


def characters(folder: Path) -> dict[str, object]:
    texts = ["to be or not to be that is the question"[start:] for start in range(20)] * 6
    users = [f"user{number % 6}" for number in range(120)]
    pd.DataFrame({"text": texts, "user": users}).to_parquet(folder / "train.parquet")
    pd.DataFrame({"text": texts[:20], "user": users[:20]}).to_parquet(folder / "test.parquet")
    lstm = "char_lstm(embedding=4, hidden=(16,))"
    return {
        "data-dir": folder,
        "objective": "next_token",
        "text": "characters(length=12)",
        "model": lstm,
        "partition": "by:user",
        "client-optimizer": "adam",
        "learning-rate": 0.03,
    }


Write = Callable[[Path], dict[str, object]]


def ran(small: RunConfig, changes: dict[str, object], **more: object) -> RunResult:
    plain = {
        "learning-rate": 0.1,
        "local-steps": 5,
        "evaluate-clients": 0.2,
        "num-rounds": 4,
        "compressor": "Identity()",
    }
    return run(None, quiet=True, **{**small.to_flower(), **plain, **changes, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [numbers, flags, characters])
def test_they_learn_in_this_process(small: RunConfig, tmp_path: Path, write: Write) -> None:
    done = ran(small, write(tmp_path))
    assert (done.clients["status"] == "ok").all()
    assert done.rounds["loss"].iloc[-1] < 0.9 * done.rounds["loss"].iloc[0]
    assert done.rounds["clients_loss"].iloc[-1] < 0.95 * done.rounds["clients_loss"].iloc[0]
    assert (done.rounds["clients_evaluated"] == 4).all()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ["ray", "flower"])
@pytest.mark.parametrize("write", [numbers, flags, characters])
def test_they_learn_alike_on_the_other_engines(small: RunConfig, tmp_path: Path, write: Write, engine: str) -> None:
    changes = write(tmp_path)
    here, there = (ran(small, changes, **{"engine": where, "run-name": where}) for where in ("local", engine))
    for name in here.rounds.columns:
        if name.startswith(("loss", "clients_", "mae", "accuracy", "perplexity")):
            np.testing.assert_allclose(there.rounds[name], here.rounds[name], rtol=1e-5, err_msg=name)
