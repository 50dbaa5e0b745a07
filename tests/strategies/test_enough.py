"""Early stop and the best model, in runs: what is kept, and that a resume decides as the run would have."""

import json
from pathlib import Path

import torch

from fl_mlmc.frames import read_rounds
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import read_run
from fl_mlmc.run.stopping import Patience
from fl_mlmc.simulations.app.launch import execute, load_run
from fl_mlmc.simulations.export import export
from fl_mlmc.strategies.checkpoint import load_state
from fl_mlmc.strategies.enough import BEST, Judge


def test_a_run_stops_by_its_metric_and_keeps_its_best_model(small: RunConfig, tmp_path: Path) -> None:
    rates = {"learning_rate_schedule": "steps(at=(3,), factor=1e-9)", "checkpoint_every": 50}
    config = small.changed(num_rounds=50, early_stop="patience('loss', evaluations=2)", keep_best="loss", **rates)
    run = execute(config).directory
    losses = read_rounds(run)["loss"].tolist()
    best = losses.index(min(losses)) + 1
    assert len(losses) < 50
    assert read_run(run)["status"] == "completed"
    assert read_run(run)["stopped"] == "loss was not better in 2 evaluations"
    kept, last = load_state(run / BEST), load_state(run / "checkpoint")
    assert kept is not None
    assert last is not None
    assert (kept.server_round, last.server_round) == (best, len(losses))
    export(run, tmp_path / "best.pt", is_best=True)
    parts = torch.load(tmp_path / "best.pt", weights_only=True).values()
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts]), kept.vector)

    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**header, "status": "running"}))  # killed before it could say so
    execute(load_run(run))
    assert read_rounds(run)["loss"].tolist() == losses, "no round was added"


def test_a_judge_restored_from_the_log_is_the_one_that_wrote_it(tmp_path: Path) -> None:
    rows = [{"round": number, "loss": loss} for number, loss in enumerate([0.5, None, 0.4, 0.4, 0.4], start=1)]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, restored = (Judge(Patience("loss", 2), "loss", lambda _: False) for _ in range(2))
    told = [whole.add(row) for row in rows]
    assert told == [True, False, True, False, False]
    restored.restore(tmp_path, 4)
    assert restored.reason == ""
    assert not restored.add(rows[4])
    assert restored.reason == whole.reason != ""


def test_the_servers_rate_follows_its_schedule(small: RunConfig) -> None:
    """With a factor of (almost) 0 after the first round the model stays, whatever clients send."""
    config = small.changed(num_rounds=3, server_learning_rate_schedule="steps(at=(1,), factor=1e-12)")
    losses = read_rounds(execute(config).directory)["loss"].tolist()
    assert losses[1] == losses[2] == losses[0]
