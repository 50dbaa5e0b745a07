"""How a federation stands: its nodes, their tiers, the last round."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .federation import NodeSettings
from .flower import wait_for_superlink
from .parts import Health
from .registrar import list_nodes, read_registered
from .supervise import Tell

LAST_RUN = "last-run"
"""The file in DIR/state that names the directory of the run submitted last."""


def status(directory: Path, tell: Tell) -> Iterator[str]:
    """The lines of a report, the server's parts first; DeployError if the SuperLink does not answer."""
    health = Health.read(directory)
    yield from health.lines(time.time()) if health else ["the server was never started"]
    wait_for_superlink(directory, seconds=5.0)
    names = {node.node_id: name for name, node in read_registered(directory).items()}
    run = last_run(directory)
    rows = _last_rows(run / "clients.jsonl") if run else []
    seen = {str(row["node"]): row for row in rows}
    yield f"{'node':<14} {'status':<12} {'since':<20} {'tier':<12} last part in a round"
    for node in list_nodes(directory, tell):
        node_id = node["node-id"]
        if node["status"] == "unregistered":
            continue
        row = seen.get(node_id)
        tier = row["tier"] if row else _declared_tier(directory, names.get(node_id, ""))
        since = node["online-at"] if node["status"] == "online" else node["offline-at"]
        part = f"round {row['round']}: {row['status']}" if row else "none"
        yield f"{names.get(node_id, node_id):<14} {node['status']:<12} {since[:19]:<20} {tier or '-':<12} {part}"
    if run is None:
        yield "no run was submitted yet"
        return
    yield f"last run {run}: {_run_status(run)}"
    if rounds := _last_rows(run / "rounds.jsonl"):
        last = rounds[-1]
        accuracy = f", accuracy {last['accuracy']:.4f}" if last.get("accuracy") is not None else ""
        yield (
            f"round {last['round']}: {last['num_ok']} of {last['num_sampled']} replies{accuracy}, "
            f"{last['uplink_bytes']:,} bytes up, {last['seconds']:.1f} s"
        )


def last_run(directory: Path) -> Path | None:
    """The directory of the run submitted last."""
    try:
        return Path((directory / "state" / LAST_RUN).read_text().strip())
    except FileNotFoundError:
        return None


def _declared_tier(directory: Path, name: str) -> str:
    path = directory / "devices" / name / "node.toml"
    return NodeSettings.read(path).tier if name and path.is_file() else ""


def _last_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a torn last line
                break
    return rows


def _run_status(run: Path) -> str:
    try:
        return str(json.loads((run / "run.json").read_text())["status"])
    except FileNotFoundError:
        return "not started"
