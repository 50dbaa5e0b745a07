"""Data sets as memory-mappable arrays: loaded, split and shared out once, then only read.

`prepare` leaves in the cache, in the layout that `fl_mlmc.clients.data` reads,

    <data set>-<key>/meta.json, {train,test}_{features,labels}.npy
    <data set>-<key>/partitions/<partition>-<clients>-<key>/partition.json, order.npy, offsets.npy

so that all partitions of a data set share its arrays and clients need numpy alone.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fl_mlmc.clients.data import FORMAT
from fl_mlmc.data.partitions import By, parse_partition, partition_indices
from fl_mlmc.data.spec import Targets
from fl_mlmc.data.texts import parse_text_encoding
from fl_mlmc.data.wanted import Wanted

from .meta import digest
from .sources import Source, find_source

ENTRY = 2
"""The version of what a cache entry holds: since 2 it says a digest of its arrays."""


def prepare(
    dataset: str,
    data_dir: Path | None,
    partition: str,
    num_clients: int,
    seed: int,
    cache: Path | None = None,
    text: str = "hashed",
    *,
    targets: Targets = "classes",
    target_columns: tuple[str, ...] = (),
    feature_columns: tuple[str, ...] = (),
    test_share: float = 0.0,
) -> Path:
    """The directory for `FederatedData.open`, made on the first call and found in the cache afterwards.

    `data_dir` (train.parquet and test.parquet in a hub data set's columns, or a file or folder as `dataset` takes it)
    goes before `dataset` (`digits`, a file, a folder, a function "FILE.py:NAME" or a hub name). `text` is how texts
    become numbers, see `texts`; the rest is as in `Wanted`. Safe to call from several processes at once.
    """
    rule = parse_partition(partition)
    owner = rule.column if isinstance(rule, By) else ""
    wanted = Wanted(parse_text_encoding(text), targets, target_columns, feature_columns, owner, test_share)
    source = find_source(dataset, data_dir, wanted)
    cache = (cache or default_cache()).absolute()
    store, identity = cache / _slug(source.name), source.identity
    if identity is None:
        store = _by_content(store, source)
    else:
        store = store.with_name(f"{store.name}-{_key(identity)}")
        if not store.exists():
            with _published(store) as scratch:
                source.write(scratch)

    # Of what only the arrays tell, the cells of a column are not among these.
    cells = source.column(owner) if owner and identity is None else None
    key = (str(rule), num_clients, seed) + (() if cells is None else (cells.tolist(),))
    target = store / "partitions" / f"{_slug(str(rule))}-{num_clients}-{_key(*key)}"
    if not target.exists():
        values = np.load(store / "train_labels.npy") if not owner else source.column(owner) if cells is None else cells
        order, offsets = partition_indices(values, partition, num_clients, seed)
        link = {"format": FORMAT, "data": "../..", "partition": str(rule), "num_clients": num_clients, "seed": seed}
        with _published(target) as scratch:
            np.save(scratch / "order.npy", order)
            np.save(scratch / "offsets.npy", offsets)
            link["digest"] = digest("", scratch / "order.npy", scratch / "offsets.npy")
            (scratch / "partition.json").write_text(json.dumps(link, indent=1), encoding="utf-8")
    return target


def _by_content(store: Path, source: Source) -> Path:
    """The entry of a set that was written to see what it is; named by its digest."""
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{store.name}-", dir=store.parent) as written:
        source.write(Path(written))
        found = json.loads((Path(written) / "meta.json").read_text(encoding="utf-8"))["digest"]
        target = store.with_name(f"{store.name}-{_key(found)}")
        if not target.exists():
            with _published(target) as scratch:
                for path in Path(written).iterdir():
                    path.rename(scratch / path.name)
    return target


def default_cache() -> Path:
    """Where prepared sets lie: FL_MLMC_CACHE, or fl-mlmc in XDG_CACHE_HOME, or in .cache of the home folder.

    ValueError that names FL_MLMC_CACHE where nothing can be written there.
    """
    chosen, xdg = os.environ.get("FL_MLMC_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(chosen) if chosen else Path(xdg or Path.home() / ".cache") / "fl-mlmc"
    except RuntimeError:  # an unknown user has no home
        raise ValueError(f"this user has no home folder to keep prepared data in: {_CHOOSE}") from None
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"prepared data cannot be kept in {folder} ({error.strerror}): {_CHOOSE}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"prepared data cannot be kept in {folder} (no right to write there): {_CHOOSE}")
    return folder


_CHOOSE = "set FL_MLMC_CACHE to a folder that you may write; users who share one need the right to write in all of it"


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` in one step; where another process was faster, theirs stays."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except PermissionError as error:  # another user's, in a cache that is shared
        raise ValueError(f"prepared data cannot be kept in {target.parent} ({error.strerror}): {_CHOOSE}") from None
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp keeps others out, a shared cache should not
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:60]


def _key(*parts: object) -> str:
    return hashlib.blake2b(repr((ENTRY, *parts)).encode(), digest_size=6).hexdigest()
