"""What one run came to, in a few figures."""

from pathlib import Path

import pandas as pd
from rich.filesize import decimal

from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.protocol import printable
from fl_mlmc.strategies.rows import counted, judged_by

from .lab.tables import duration
from .showing import Shown

FLOAT_BYTES = 4
LONGEST_NAME = 80


def summarise(directory: Path) -> Shown:
    """Final accuracy, or another metric; bytes both ways against plain float32; bytes per tier; least coverage."""
    clients, rounds = read_clients(directory), read_rounds(directory)
    metric = judged_by([str(name) for name in rounds.columns if rounds[name].notna().any()])
    rows = []
    scored = rounds.dropna(subset=[metric])
    if len(scored):
        rows.append([f"final {metric}", f"{scored[metric].iloc[-1]:.4f}"])
    if f"clients_{metric}" in rounds and len(told := rounds.dropna(subset=[f"clients_{metric}"])):
        mean, worst = (told[f"clients_{metric}{end}"].iloc[-1] for end in ("", "_worst"))
        rows.append([f"{metric} at clients, mean and worst tenth", f"{mean:.4f}, {worst:.4f}"])
    rows += _bytes(clients)
    for (width, tier), group in clients.groupby(["width", "tier"]):
        total = int(group["payload_bytes"].sum())
        each = f"{decimal(total)}, {decimal(round(total / len(group)))} an update"
        rows.append([f"uplink of tier {printable(str(tier), LONGEST_NAME)} (width {width:g})", each])
    rows.append(["least coverage of a coordinate", counted(int(rounds["coverage_min"].min()), "client")])
    if "outer_never_held" in rounds and (missed := int(rounds["outer_never_held"].iloc[-1])):
        rows.append(["outer coordinates that no client ever held", f"{missed:,}"])
    dropped = int((clients["status"] != "ok").sum())
    if dropped:
        rows.append(["dropped replies", f"{dropped} of {len(clients)}"])
    if rounds["seconds"].notna().any():
        rows.append(["time", duration(float(rounds["seconds"].sum()))])
    return Shown(f"{directory.name}: {counted(len(rounds), 'round')}", ["", ""], rows)


def in_short(directory: Path) -> Shown:
    """The numbers that matter of a run that is over: how good it is, bytes up, down and both ways, time; and drops."""
    clients, rounds = read_clients(directory), read_rounds(directory)
    metric = judged_by([str(name) for name in rounds.columns if rounds[name].notna().any()])
    rows = []
    if len(scored := rounds[metric].dropna()):
        rows.append([f"final {metric}", f"{scored.iloc[-1]:.4f}"])
    rows += _bytes(clients)
    rows.append(["time", duration(float(rounds["seconds"].sum()))])
    if dropped := int((clients["status"] != "ok").sum()):
        rows.append(["dropped replies", f"{dropped} of {len(clients)}"])
    return Shown(f"{directory.name}: {counted(len(rounds), 'round')}", ["", ""], rows)


def _bytes(clients: pd.DataFrame) -> list[list[str]]:
    """Up, down and both; each with what the same messages are as plain float32, and how many times that is."""
    up, down = int(clients["payload_bytes"].sum()), int(clients["downlink_bytes"].fillna(0).sum())
    plain_up = int(uncompressed_bytes(clients).sum())
    plain_down = int(FLOAT_BYTES * clients["num_parameters"].where(clients["downlink_bytes"].fillna(0) > 0, 0).sum())
    return [
        [name, f"{decimal(sent)}; as float32 {decimal(plain)}, {plain / max(sent, 1):.1f} ×"]
        for name, sent, plain in (
            ("uplink", up, plain_up),
            ("downlink", down, plain_down),
            ("both ways", up + down, plain_up + plain_down),
        )
    ]


def uncompressed_bytes(clients: pd.DataFrame) -> pd.Series:
    """Bytes of the same updates as plain float32, a number for each client row; 0 for a dropped one."""
    return (FLOAT_BYTES * clients["num_parameters"]).where(clients["status"] == "ok", 0)
