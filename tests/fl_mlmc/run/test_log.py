import json
import os
from pathlib import Path

import pandas as pd
import pytest

from fl_mlmc.frames import CLIENT_COLUMNS, ROUND_COLUMNS, read_clients, read_rounds
from fl_mlmc.run.log import RoundLog, Written


def test_rows_come_back_as_frames_with_the_promised_columns(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path / "run", {"seed": 3})
    log.append_clients([{"round": 1, "client": 0, "status": "ok"}, {"round": 1, "client": 4, "level": 2}])
    log.append_round({"round": 1, "accuracy": 0.5, "extra": 7})
    clients, rounds = read_clients(tmp_path / "run"), read_rounds(tmp_path / "run")
    assert list(clients["client"]) == [0, 4]
    assert list(clients.columns) == list(CLIENT_COLUMNS)
    assert list(rounds.columns) == [*ROUND_COLUMNS, "extra"]
    assert json.loads((tmp_path / "run/run.json").read_text())["seed"] == 3


def test_what_is_not_a_number_is_logged_as_null(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path, {})
    log.append_round({"round": 1, "loss": float("nan"), "update_norm": float("inf")})
    assert json.loads((tmp_path / "rounds.jsonl").read_text()) == {"round": 1, "loss": None, "update_norm": None}
    assert pd.isna(read_rounds(tmp_path)["loss"].iloc[0])


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path, {})
    log.append_round({"round": 1})
    with open(tmp_path / "rounds.jsonl", "a") as file:
        file.write('{"round": 2, "accu')
    assert list(read_rounds(tmp_path)["round"]) == [1]


@pytest.mark.parametrize("line", ["garbage", "[1]", "", "{"])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    RoundLog.create(tmp_path / "run", {}).append_round({"round": 1})
    with (tmp_path / "run" / "rounds.jsonl").open("a") as file:
        file.write(line + "\n" + '{"round": 2}\n')
    with pytest.raises(ValueError, match=f"{tmp_path}/run/rounds.jsonl line 2 is no row of a log: "):
        read_rounds(tmp_path / "run")


def test_several_runs_get_a_run_column(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RoundLog.create(tmp_path / name, {}).append_round({"round": 1})
    assert list(read_rounds(tmp_path / "a", tmp_path / "b")["run"]) == ["a", "b"]
    assert list(read_rounds([tmp_path / "a", tmp_path / "b"])["run"]) == ["a", "b"]


def test_an_empty_run_has_frames_without_rows(tmp_path: Path) -> None:
    RoundLog.create(tmp_path, {})
    assert len(read_clients(tmp_path)) == 0
    assert list(read_rounds(tmp_path).columns) == list(ROUND_COLUMNS)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RoundLog.create(tmp_path, {})
    with pytest.raises(FileExistsError, match="already holds a run"):
        RoundLog.create(tmp_path, {})


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rounds\.jsonl does not exist; a run directory holds"):
        read_rounds(tmp_path)


def test_the_end_is_recorded(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path, {"seed": 1})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "running"
    log.finish("failed: it rained")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed: it rained"


def test_a_log_that_lost_rows_is_refused_and_not_filled_up(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path / "run", {})
    log.append_clients([{"round": 1, "client": 0}])
    written = log.written()
    path = tmp_path / "run" / "clients.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    seen = rf"clients.jsonl has {len(whole) - 3} bytes, .*counted {len(whole)}: rows .* lost"
    with pytest.raises(ValueError, match=seen):
        RoundLog.resume(tmp_path / "run", written)
    assert path.read_bytes() == whole[:-3]
    path.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        RoundLog.resume(tmp_path / "run", written)


def test_a_log_with_other_bytes_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path / "run", {})
    log.append_clients([{"round": 1, "client": 0}])
    log.append_round({"round": 1, "loss": 0.5})
    written = log.written()
    log.append_clients([{"round": 2, "client": 1}])
    path = tmp_path / "run" / "rounds.jsonl"
    whole, others = path.read_bytes(), (tmp_path / "run" / "clients.jsonl").read_bytes()
    path.write_bytes(whole.replace(b"0.5", b"0.4"))
    with pytest.raises(ValueError, match=rf"rounds.jsonl begins with {len(whole)} other bytes .* damaged. Put the"):
        RoundLog.resume(tmp_path / "run", written)
    assert (tmp_path / "run" / "clients.jsonl").read_bytes() == others
    path.write_bytes(whole)
    resumed = RoundLog.resume(tmp_path / "run", written)
    assert resumed.written() == written
    resumed.append_clients([{"round": 2, "client": 1}])
    assert resumed.written() == log.written()


def test_a_checkpoint_without_digests_is_held_to_the_length_alone(tmp_path: Path) -> None:
    log = RoundLog.create(tmp_path / "run", {})
    log.append_round({"round": 1})
    RoundLog.resume(tmp_path / "run", {"rounds.jsonl": Written(5)})
    assert (tmp_path / "run" / "rounds.jsonl").stat().st_size == 5


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_log_is_synced_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda at: (synced.append(Path(f"/proc/self/fd/{at}").resolve().name), fsync(at)))
    log = RoundLog.create(tmp_path / "run", {}, durable=durable)
    log.append_round({"round": 1})
    begun = set(synced)
    log.sync()
    if durable:
        assert begun == {"run", "run.json.partial", tmp_path.name}
        assert set(synced) == begun | {"clients.jsonl", "rounds.jsonl"}
    else:
        assert not synced
