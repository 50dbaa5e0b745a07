"""Under the real `flwr run`: Flower's quickstart with the two lines, and each strategy of Flower's in turn."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.log import status_of
from fl_mlmc.simulations.app.superlink import LocalSuperLink
from tests.strategies.each_strategy.each.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "flower-quickstart"
EACH = Path(__file__).parent / "each_strategy"


def ran(link: LocalSuperLink, app: Path, settings: Path, nodes: int) -> Path:
    """The run's log, once the run has ended well."""
    run_id = link.submit(app, settings, f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus=2")
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
        logs = [ran(link, app, settings, 4) for app in (QUICKSTART, without)]
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_strategy_trains_over_compressed_updates(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("num-server-rounds = 2\n")
    with LocalSuperLink(tmp_path / "home", env={"PYTHONPATH": str(ROOT)}) as link:
        logs = ran(link, EACH, settings, 5)
    assert sorted(log.name for log in logs.iterdir()) == sorted([*STRATEGIES, "tiers"])
    for name in (*STRATEGIES, "tiers"):
        clients, rounds = read_clients(logs / name), read_rounds(logs / name)
        assert status_of(logs / name) == "completed", name
        assert clients["client"].tolist() == 2 * [0, 1, 2, 3, 4], name
        assert (clients["status"] == "ok").all(), name
        least = 8 if clients["compressor"][0].startswith("MLMC") else 4
        assert (clients["plain_bytes"] > least * clients["message_bytes"]).all(), name
        assert (rounds["update_norm"] > 0).all(), name
        assert rounds["eval_acc"].between(0, 1).all(), name
    tiers = read_clients(logs / "tiers").groupby("tier")
    assert dict(tiers["width"].first()) == {"gateway": 1.0, "phone": 0.5}
    assert (tiers["num_parameters"].first()["phone"] < tiers["num_parameters"].first()["gateway"] / 3).all()
    assert read_rounds(logs / "tiers")["coverage_min"].tolist() == [3, 3]
