"""What a device needs: installed size of clients/requirements-edge.txt, and the peak memory of a round for each tier.

    python benchmarks/edge.py [--venv DIR]

makes a virtual environment from that file and our wheel (or takes DIR, if it holds one), builds the app's bundle, and
runs one round of the client app from it in a fresh process for each tier, on digits out of a CSV file.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations.app.bundle import stage_app
from fl_mlmc.simulations.app.prepare import prepare_data

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "clients" / "requirements-edge.txt"
TIERS = {"sensor": 0.25, "phone": 0.5, "gateway": 1.0}
MODELS = ("mlp(hidden=(64,))", "cnn(conv=(64, 128), dense=256)")

ROUND = r"""
import json, re, sys
from pathlib import Path

def peak_kib():  # of this process alone: ru_maxrss begins with that of the process that started it
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

import flwr.supernode.cli.flwr_clientapp  # what the process of a real round has loaded
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

bundle, data, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path.insert(0, bundle)
before = peak_kib()
for name in ("run_id", "node_id", "task_id"):
    setattr(TaskIdentity, name, 1)

from fl_mlmc.clients.client_app import app
from fl_mlmc.clients.data import parse_meta
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.run.config import RunConfig
from fl_mlmc.models import build_model
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.submodels import plan
from fl_mlmc.compression.wire import encode_payload

assert Path(sys.modules["fl_mlmc.clients"].__file__).is_relative_to(bundle), "the app does not come from the bundle"
config = RunConfig.from_flower(asked["config"])
spec, _, _ = parse_meta(json.loads(asked["meta"]))
model = build_model(config.training.model, spec.input_shape, spec.num_classes)
own = plan(model.spec, "nested", asked["width"])
payload = encode_payload(Payload(own.size, (DenseBlock(own.gather(model.initial(0))),)))
task = TrainTask(1, 0, asked["tier"], asked["width"], "", data_meta=asked["meta"]).to_config()
arrays = ArrayRecord({"payload": Array("float32", (own.size,), "fl_mlmc.payload/1", payload)})
message = Message(RecordDict({"arrays": arrays, "config": ConfigRecord(task)}), dst_node_id=1, message_type="train")
message.metadata.__dict__["_message_id"] = "1"
reply = app(message, Context(1, 1, {"data-path": data}, RecordDict(), config.to_flower()))
sent = reply.content["config"]
assert "failure" not in sent, sent["failure"]
peak = peak_kib()
unwanted = [name for name in ("ray", "pandas", "datasets", "sklearn", "matplotlib", "pyarrow") if name in sys.modules]
print(json.dumps({
    "peak_bytes": 1024 * peak, "start_bytes": 1024 * before, "num_parameters": own.size, "unwanted": unwanted,
    "payload_bytes": len(reply.content["arrays"]["payload"].data), "num_examples": sent["num-examples"],
}))
"""


@dataclass(frozen=True)
class EdgeRound:
    """One round on a device."""

    tier: str
    num_parameters: int
    peak_bytes: int
    start_bytes: int
    payload_bytes: int
    num_examples: int
    unwanted: Sequence[str]


def make_environment(directory: Path) -> Path:
    """A virtual environment of the edge requirements alone, made unless it is there; its Python."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "-r", str(REQUIREMENTS)], check=True)
        # The node's own command, without what a server needs beside it.
        subprocess.run([*command, "--no-deps", str(ROOT)], check=True)
    return python


def build_bundle(directory: Path) -> Path:
    """The app as devices get it: built on the server by `flwr build`, and unpacked; the folder."""
    app = stage_app(directory / "fl-mlmc")
    env = {**os.environ, "FLWR_HOME": str(directory / "home"), "FLWR_DISABLE_UPDATE_CHECK": "1"}
    env |= {"FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-c", "from flwr.cli.app import app; app()", "build"]
    subprocess.run(command, cwd=app, env=env, check=True, capture_output=True)
    (bundle,) = directory.rglob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(directory / "bundle")
    return directory / "bundle"


def write_examples(path: Path, config: RunConfig) -> str:
    """The first client's examples as CSV; the data set's description."""
    data = FederatedData.open(prepare_data(config))
    meta = json.loads(data.meta)
    features, labels = data.client(0)
    raw = (features.reshape(len(labels), -1) * meta["std"][0] + meta["mean"][0]).round().astype(int)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *(f"pixel{index}" for index in range(raw.shape[1]))])
        writer.writerows([label, *row] for label, row in zip(labels.tolist(), raw.tolist(), strict=True))
    return data.meta


def run_round(python: Path, bundle: Path, examples: Path, config: RunConfig, meta: str, tier: str) -> EdgeRound:
    """One round of a tier in a process of its own."""
    asked = {"config": config.to_flower(), "meta": meta, "tier": tier, "width": TIERS[tier]}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", ROUND, str(bundle), str(examples), json.dumps(asked)]
    done = subprocess.run(command, cwd=examples.parent, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the round failed:\n{done.stderr}")
    return EdgeRound(tier=tier, **json.loads(done.stdout.splitlines()[-1]))


def edge_config(model: str) -> RunConfig:
    """A run of three devices as docs/deploy.md has it."""
    tiers = ",".join(
        f"{name}:{width}:{share}" for (name, width), share in zip(TIERS.items(), (0.34, 0.33, 0.33), strict=True)
    )
    return RunConfig(
        engine="flower",
        num_clients=3,
        clients_per_round=3,
        model=model,
        tiers=tiers,
        device="cpu",
        compressor="MLMC(TopK(fraction=0.1))",
        run_name="edge",
    )


def installed_bytes(directory: Path) -> dict[str, int]:
    """Bytes below site-packages by top-level folder or file, largest first."""
    (packages,) = directory.glob("lib/python*/site-packages")
    sizes = {
        entry.name: sum(
            path.stat().st_size for path in (entry.rglob("*") if entry.is_dir() else [entry]) if path.is_file()
        )
        for entry in packages.iterdir()
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="where the environment is, or is made; by default a temporary folder")
    chosen = parser.parse_args().venv
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-edge-") as scratch:
        environment = (chosen or Path(scratch) / "venv").absolute()
        python = make_environment(environment)
        sizes = installed_bytes(environment)
        largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in list(sizes.items())[:6])
        print(f"installed: {sum(sizes.values()) / 1e6:.0f} MB ({largest})")
        bundle = build_bundle(Path(scratch))
        columns = "{:<32} {:<8} {:>10} {:>8} {:>14} {:>14}"
        print(columns.format("model", "tier", "parameters", "peak MB", "without app MB", "payload bytes"))
        for model in MODELS:
            config = edge_config(model)
            meta = write_examples(Path(scratch) / "own.csv", config)
            for tier in TIERS:
                seen = run_round(python, bundle, Path(scratch) / "own.csv", config, meta, tier)
                megabytes = [f"{size / 1e6:.0f}" for size in (seen.peak_bytes, seen.start_bytes)]
                print(columns.format(model, tier, f"{seen.num_parameters:,}", *megabytes, f"{seen.payload_bytes:,}"))


if __name__ == "__main__":
    main()
