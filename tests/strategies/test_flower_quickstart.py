"""Flower's quickstart with the two lines, under the real `flwr run`: bytes fall, and nothing else changes."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.log import status_of
from fl_mlmc.simulations.app.superlink import LocalSuperLink

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "flower-quickstart"
FEDERATION = "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2"


def ran(link: LocalSuperLink, app: Path, settings: Path) -> Path:
    """The run's log, once the run has ended well."""
    run_id = link.submit(app, settings, FEDERATION)
    deadline = time.monotonic() + 800
    while not link.state(run_id).is_finished:
        assert time.monotonic() < deadline, link.log(run_id)
        time.sleep(0.1)
    assert link.state(run_id).is_success, link.log(run_id)
    return link.home / "empty" / "runs" / str(run_id)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_lines_make_the_bytes_of_the_quickstart_fall_fifteen_times(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("num-server-rounds = 5\nfraction-train = 1.0\n")
    without = shutil.copytree(QUICKSTART, tmp_path / "without")
    client = without / "quickstart" / "client_app.py"
    client.write_text(client.read_text().replace('mods=[compressed("MLMC(TopK(fraction=0.05))")]', ""))
    with LocalSuperLink(tmp_path / "home", env={"PYTHONPATH": str(ROOT)}) as link:
        logs = [ran(link, app, settings) for app in (QUICKSTART, without)]
    ours, plain = map(read_clients, logs)
    assert (pd.concat([ours, plain])["status"] == "ok").all()
    assert set(plain["compressor"]) == {"none"}
    assert (ours["plain_bytes"] == plain["message_bytes"]).all()
    factor = plain["message_bytes"].sum() / ours["message_bytes"].sum()
    print(f"the quickstart's uplink falls {factor:.1f} times")
    assert factor >= 15
    for log in logs:
        rounds = read_rounds(log)
        assert status_of(log) == "completed"
        assert rounds["round"].tolist() == [1, 2, 3, 4, 5]
        assert rounds["accuracy"].iloc[-1] > 0.6
        assert rounds["eval_acc"].between(0, 1).all()
