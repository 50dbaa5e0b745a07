"""The engines against each other, and ours against the hardware. The figures of docs/performance.md.

    python benchmarks/engines.py [noop] [fedavg] [scale] [population] [memory] [--data DIR] [--pfl PYTHON]

DIR holds cifar10/ and fashion_mnist/, each with train.parquet and test.parquet. PYTHON is that of an environment with
pfl (see pfl_fedavg.py): part fedavg then runs it too. Ratios come from runs that follow one
another on one machine, so that they mean something on a busy one; the seconds do not.
"""

import argparse
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import build_model
from fl_mlmc.run.rng import stream
from fl_mlmc.simulations import run
from fl_mlmc.simulations.app.launch import load_config
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.heap import keep_heap
from fl_mlmc.simulations.engines.processors import processors
from fl_mlmc.training.local import train

NUM_NOOP = 1_000
FEDAVG = Path(__file__).with_name("fedavg.toml")
LOGISTIC: dict[str, Any] = {
    "num_rounds": 4,
    "model": "mlp(hidden=())",
    "tiers": "sensor:0.25:0.5,phone:0.5:0.3,gateway:1.0:0.2",
    "compressor": "MLMC(TopK(fraction=0.05))",
    "local_steps": 5,
    "evaluate_every": 1_000,
    "device": "cpu",
}


def main() -> None:
    parts = {"noop": noop, "fedavg": fedavg, "scale": scale, "population": population, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pfl", type=Path, metavar="PYTHON", help="python of an environment that has pfl")
    parser.add_argument("--flower-noop", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flower_noop:
        return _flower_noop(arguments.flower_noop)
    print(f"{processors()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    for name in arguments.parts or parts:
        parts[name](arguments.data)
        if name == "fedavg" and arguments.pfl:
            against_pfl(arguments.data, arguments.pfl)
    return None


def noop(data: Path) -> None:
    """Transport alone: every client sends back what it got."""
    from fl_mlmc.simulations.engines.ray.grid import RayGrid
    from fl_mlmc.simulations.engines.ray.session import ray_session

    for num_parameters in (1_000, 100_000):
        command = [sys.executable, __file__, "--flower-noop", str(num_parameters)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        flower = float(said.split("round seconds")[-1])
        with ray_session(), RayGrid(_echo(), NUM_NOOP, {}) as grid:
            ray = _round_seconds(grid, list(range(1, NUM_NOOP + 1)), num_parameters, rounds=7)
        _print(f"no-op, {NUM_NOOP} clients, {num_parameters} parameters", flower, ray, "flower / ray")


def fedavg(data: Path) -> None:
    """Flower's FedAvg example as pfl states it, against Flower's engine and against training alone."""
    settings = {"data_dir": data / "cifar10"}
    seconds = []
    for _ in range(3):  # by turns, since the machine's speed drifts
        seconds.append(
            (_pure_training(settings), *(_best_round(engine, settings, FEDAVG) for engine in ("ray", "flower")))
        )
        print("training alone {:.3f} s a round, ray {:.3f}, flower {:.3f}".format(*seconds[-1]), flush=True)
    pure, ray, flower = map(min, zip(*seconds, strict=True))
    _print("FedAvg on CIFAR-10, 50 clients a round", flower, ray, "flower / ray")
    _print("FedAvg on CIFAR-10, training alone on as many processes", pure, ray, "training / ray")


def against_pfl(data: Path, python: Path) -> None:
    """The same task in pfl, which has a process a processor as we do and no server beside them."""
    settings = {"data_dir": data / "cifar10"}
    partition = prepare_data(load_config(FEDAVG, settings))
    workers = f"--nproc-per-node={processors()} --master-addr=127.0.0.1 --master-port={_free_port()}".split()
    script = str(Path(__file__).with_name("pfl_fedavg.py"))
    command = [str(python), "-m", "torch.distributed.run", *workers, script, str(partition)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PFL_PYTORCH_DEVICE": "cpu"}
    seconds = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        seconds.append((float(done.stdout.split("round seconds")[-1]), _best_round("ray", settings, FEDAVG)))
    pfl, ray = map(min, zip(*seconds, strict=True))
    _print("FedAvg on CIFAR-10, 50 clients a round, in pfl and ours", pfl, ray, "pfl / ray")


def scale(data: Path) -> None:
    """Time a client from 100 to 10,000 of them, and the memory of all processes."""
    settings = {**LOGISTIC, "data_dir": data / "fashion_mnist"}
    for num_clients in (100, 1_000, 10_000):
        with _Memory() as memory:
            seconds = _best_round("ray", {**settings, "num_clients": num_clients, "clients_per_round": num_clients})
        each = f"{seconds / num_clients * 1e3:.2f} ms a client, peak {memory.peak / 1e9:.2f} GB"
        print(f"logistic regression, {num_clients} clients: {seconds:.2f} s a round, {each}", flush=True)


def population(data: Path) -> None:
    """What a large population costs, a thousand of it sampled."""
    settings = {**LOGISTIC, "data_dir": data / "fashion_mnist", "clients_per_round": 1_000}
    small, large = (_best_round("ray", {**settings, "num_clients": number}) for number in (1_000, 1_000_000))
    _print("1,000 clients a round of 1,000,000 and of 1,000", large, small, "large / small")


def memory(data: Path) -> None:
    """The memory of all processes over 500 rounds."""
    changes = {"num_rounds": 500, "num_clients": 1_000, "clients_per_round": 20, "data_dir": data / "fashion_mnist"}
    with _Memory() as used:
        _best_round("ray", {**LOGISTIC, **changes})
    tail = np.array(used.samples[len(used.samples) // 4 :]) / 1e6
    slope, _ = np.polyfit(np.linspace(0, 375, len(tail)), tail, 1)
    print(f"500 rounds: {tail.mean():.0f} MB, slope {slope:+.3f} MB a round, deviation {tail.std():.1f} MB", flush=True)


def _print(what: str, first: float, second: float, ratio: str) -> None:
    print(f"{what}: {first:.3f} s and {second:.3f} s a round, {ratio} = {first / second:.2f}", flush=True)


def _best_round(engine: str, settings: dict[str, Any], scenario: Path | None = None) -> float:
    with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as folder:
        rounds = run(scenario, **{**settings, "engine": engine, "runs_dir": folder, "run_name": engine}).rounds
    return float(rounds["seconds"].iloc[1:].min())  # the first round starts the workers; others share the machine


def _pure_training(settings: dict[str, Any]) -> float:
    """Seconds for a round's clients on one single-threaded process a processor that does nothing but train.

    The best of twelve on end, as engines are measured by their best round.
    """
    config = load_config(FEDAVG, {**settings, "engine": "local"})
    directory, workers = prepare_data(config), processors()
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    barrier = context.Barrier(workers)
    processes = [
        context.Process(target=_train_some, args=(settings, directory, barrier, queue)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    ends = [np.array(queue.get()) for _ in processes]
    for process in processes:
        process.join()
    together = np.sort(np.concatenate(ends))
    together = together[together <= min(own[-1] for own in ends)]
    return float(np.diff(together[:: config.cohort.clients_per_round]).min())


def _train_some(settings: dict[str, Any], directory: Path, barrier: Any, queue: Any) -> None:
    torch.set_num_threads(1)
    keep_heap()
    config = load_config(FEDAVG, {**settings, "engine": "local"})
    data = FederatedData.open(directory)
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    module = model.build(model.spec.units)
    barrier.wait()
    ends = []
    for client in range(12 * config.cohort.clients_per_round // processors()):
        features, labels = map(torch.from_numpy, data.client(client % data.num_clients))
        train(module, features, labels, config.training, stream(0, client))
        ends.append(time.monotonic())
    queue.put(ends)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _echo() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"model": message.content["model"]}), reply_to=message)

    return app


def _messages(nodes: list[int], data: bytes) -> Iterator[Message]:
    for node in nodes:
        content = RecordDict({"model": ArrayRecord({"flat": Array("float32", (len(data) // 4,), "raw", data)})})
        content["config"] = ConfigRecord({"client": node})
        yield Message(content, dst_node_id=node, message_type="train")


def _round_seconds(grid: Grid, nodes: list[int], num_parameters: int, rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        data = np.zeros(num_parameters, np.float32).tobytes()
        start = time.perf_counter()
        assert sum(reply.has_content() for reply in grid.send_and_receive(_messages(nodes, data))) == len(nodes)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _flower_noop(num_parameters: int) -> None:
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < NUM_NOOP:
            time.sleep(0.1)
        print("round seconds", _round_seconds(grid, nodes, num_parameters, rounds=3), flush=True)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"_node_ip_address": "127.0.0.1"}}
    run_simulation(server, _echo(), NUM_NOOP, backend_config=resources)


class _Memory:
    """Watches what this process and all below it use; pages that they share count once (PSS)."""

    def __enter__(self) -> "_Memory":
        self.samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        return max(self.samples)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.samples.append(sum(map(_own_bytes, _family(os.getpid()))))


def _family(root: int) -> set[int]:
    """A process and all below it (Linux)."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has ended
        return 0


if __name__ == "__main__":
    main()
