"""Which Ray a run computes on: Flower's, a cluster that is joined, or a private one."""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from flwr.serverapp import Grid
from ray._private import ray_constants

from ..flower import is_simulation
from ..processors import processors
from .guard import ended_with_us

MOST_BYTES = 25
"""Of the folder in which Ray's sockets lie."""


@contextlib.contextmanager
def ray_ready(flowers: Grid | None) -> Iterator[None]:
    """Have Ray: Flower's where Flower runs us, the one this process is connected to, or else a private one.

    ValueError where Flower runs us on real nodes.
    """
    if flowers is not None:
        if not is_simulation(flowers):
            raise ValueError("engine 'ray' simulates clients; nodes of a federation are reached with engine 'flower'")
        _wait_for_flowers_ray()
    with contextlib.nullcontext() if ray.is_initialized() else ray_session(cpus=processors()):
        yield


@contextlib.contextmanager
def ray_session(
    address: str = "", code: Path | None = None, cpus: int | None = None, gpus: int | None = None
) -> Iterator[None]:
    """Ray for this process: the cluster at `address`, or a private one on loopback that ends with the block.

    A cluster's machines get the folder `code` and import from it. A private Ray counts the machine's processors and
    GPUs itself unless told how many to use.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    with tempfile.TemporaryDirectory(prefix="fl-ray-", dir=_short(), ignore_cleanup_errors=True) as scratch:
        if address:
            joined: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            ray.init(address, runtime_env={"working_dir": str(code)} if code else None, **quiet)
        else:
            own: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "_node_ip_address": "127.0.0.1"}
            joined = ended_with_us(lambda: _start(_temp_dir=scratch, **own, **quiet))
        with joined:
            try:
                yield
            finally:
                ray.shutdown()


def _start(**options: Any) -> None:
    with loopback_only():
        ray.init("local", include_dashboard=False, **options)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Have the Ray that starts inside bind 127.0.0.1, as it does on laptops, and not the network card."""
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before[0]
        os.environ.pop(name)
        if before[1] is not None:
            os.environ[name] = before[1]


def _short() -> str:
    """A folder for Ray's sockets: the usual one (RAY_TMPDIR, TMPDIR), or /tmp where that leaves no room for a name.

    A socket's path holds 107 bytes, of which Ray takes up to 80.
    """
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(usual)) <= MOST_BYTES:
        return usual
    if os.access("/tmp", os.W_OK | os.X_OK):
        return "/tmp"
    raise ValueError(
        f"Ray's sockets need a short folder: {usual} has {len(os.fsencode(usual))} bytes, {MOST_BYTES} leave room, and "
        "/tmp cannot be written. Set RAY_TMPDIR to a shorter one"
    )


def _wait_for_flowers_ray(seconds: float = 60.0) -> None:
    # The ServerApp starts beside Flower's simulation engine, which may still be at it.
    deadline = time.monotonic() + seconds
    while not ray.is_initialized():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Flower's simulation engine has not started Ray in {seconds:g} s")
        time.sleep(0.05)
