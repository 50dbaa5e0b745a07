"""Data sets as memory-mappable arrays: loaded, split and shared out once, then only read.

`prepare` leaves in the cache, in the layout that `clients.data` reads,

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.data import FORMAT
from fl_mlmc.data.partitions import By, parse_partition, partition_indices
from fl_mlmc.data.texts import TextEncoding, parse_text_encoding

from .tables import Table, hub_table, no_column, parquet_table, write_meta, write_tables

# flwr_datasets and scikit-learn are imported where they are used: with what they pull in they take two
# seconds, and a run whose data is in the cache needs neither.
if TYPE_CHECKING:
    from flwr_datasets import FederatedDataset

SPLITS = ("train", "test")


def prepare(
    dataset: str,
    data_dir: Path | None,
    partition: str,
    num_clients: int,
    seed: int,
    cache: Path | None = None,
    text: str = "hashed",
) -> Path:
    """The directory for `FederatedData.open`, made on the first call and found in the cache afterwards.

    `data_dir` (train.parquet and test.parquet in a hub data set's columns) goes before `dataset` (`digits`
    or a hub name). `text` is how texts become numbers, see `texts`. Safe to call from several processes at once.
    """
    rule = parse_partition(partition)
    source = _source(dataset, data_dir, parse_text_encoding(text))
    cache = (cache or default_cache()).absolute()

    store = cache / f"{_slug(source.name)}-{_key(source.identity)}"
    if not store.exists():
        with _published(store) as scratch:
            source.write(scratch)

    target = store / "partitions" / f"{_slug(str(rule))}-{num_clients}-{_key(str(rule), num_clients, seed)}"
    if not target.exists():
        values = source.column(rule.column) if isinstance(rule, By) else np.load(store / "train_labels.npy")
        order, offsets = partition_indices(values, partition, num_clients, seed)
        link = {"format": FORMAT, "data": "../..", "partition": str(rule), "num_clients": num_clients, "seed": seed}
        with _published(target) as scratch:
            np.save(scratch / "order.npy", order)
            np.save(scratch / "offsets.npy", offsets)
            (scratch / "partition.json").write_text(json.dumps(link, indent=1), encoding="utf-8")
    return target


def default_cache() -> Path:
    if chosen := os.environ.get("FL_MLMC_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fl-mlmc"


class Source(Protocol):
    """Where a data set comes from. Equal identities promise equal arrays."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def write(self, directory: Path) -> None:
        """Leave meta.json and the arrays of both splits in `directory`."""
        ...

    def column(self, name: str) -> NDArray[Any]:
        """The named column of the train split, for `by:COLUMN`."""
        ...


def _source(dataset: str, data_dir: Path | None, encoding: TextEncoding) -> Source:
    if data_dir is not None:
        return ParquetFolder(Path(data_dir).absolute(), encoding)
    return Digits() if dataset == Digits.name else Hub(dataset, encoding)


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 by 8 grey pixels; a fifth of each class is the test split."""

    name = "digits"
    identity = "digits"

    def write(self, directory: Path) -> None:
        for split, (pixels, labels) in self._splits().items():
            np.save(directory / f"{split}_features.npy", pixels)
            np.save(directory / f"{split}_labels.npy", labels)
        write_meta(directory, "image", tuple("0123456789"))

    def column(self, name: str) -> NDArray[Any]:
        if name != "label":
            raise no_column(name, ["image", "label"])
        return self._splits()["train"][1]

    def _splits(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        pixels, labels = digits.images[:, None].astype(np.uint8), digits.target.astype(np.int64)
        # The split is part of the data set: it must not move with the seed of a run.
        rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
        return {split: (pixels[part], labels[part]) for split, part in zip(SPLITS, rows, strict=True)}


@dataclass(frozen=True)
class ParquetFolder:
    """A folder holding train.parquet and test.parquet."""

    directory: Path
    encoding: TextEncoding

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def identity(self) -> str:
        stats = [path.stat() for path in self._files().values()]
        return f"{self.directory.resolve()} {[(stat.st_mtime_ns, stat.st_size) for stat in stats]} {self.encoding}"

    def write(self, directory: Path) -> None:
        train, test = (parquet_table(split, path) for split, path in self._files().items())
        write_tables(directory, train, test, self.encoding)

    def column(self, name: str) -> NDArray[Any]:
        return parquet_table("train", self._files()["train"]).values(name)

    def _files(self) -> dict[str, Path]:
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"data-dir {self.directory} is not a directory; expected a folder that holds train.parquet "
                f"and test.parquet"
            )
        files = {split: self.directory / f"{split}.parquet" for split in SPLITS}
        missing = [path.name for path in files.values() if not path.is_file()]
        if missing:
            seen = ", ".join(sorted(path.name for path in self.directory.iterdir())) or "nothing"
            raise FileNotFoundError(
                f"data-dir {self.directory} lacks {' and '.join(missing)} (it holds: {seen}); expected "
                f"train.parquet and test.parquet, as Dataset.to_parquet writes them"
            )
        return files


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub, fetched through flwr-datasets; needs the network once."""

    name: str
    encoding: TextEncoding

    @property
    def identity(self) -> str:
        return f"hub {self.name} {self.encoding}"

    def write(self, directory: Path) -> None:
        fetched = self._fetched()
        train = hub_table("train", fetched.load_split("train"))
        # The hub withholds some test labels (they are -1, as in SST-2): validation is the test split then.
        tests = (self._as_test(fetched, name) for name in ("test", "validation"))
        test = next((table for table in tests if table and table.is_labelled()), None)
        if test is None:
            raise ValueError(
                f"dataset {self.name!r} has no labelled test or validation split. Divide its train split into "
                f"train.parquet and test.parquet, and point data-dir to their folder"
            )
        write_tables(directory, train, test, self.encoding)

    def column(self, name: str) -> NDArray[Any]:
        return hub_table("train", self._fetched().load_split("train")).values(name)

    def _as_test(self, fetched: "FederatedDataset", name: str) -> Table | None:
        try:
            return hub_table("test", fetched.load_split(name))
        except ValueError:  # flwr-datasets' answer to a split that is not there
            return None

    def _fetched(self) -> "FederatedDataset":
        from flwr_datasets import FederatedDataset

        fetched = FederatedDataset(dataset=self.name, partitioners={}, shuffle=False)
        try:
            fetched.load_split("train")
        except Exception as error:  # whatever the network, the hub or the data set's own files raise
            raise ValueError(
                f"dataset {self.name!r} is not built in (built in: {Digits.name}) and could not be fetched from "
                f"the hub ({type(error).__name__}: {error}). Check the name and the network, or point data-dir "
                f"to a folder that holds train.parquet and test.parquet"
            ) from error
        return fetched


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` in one step; where another process was faster, theirs stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
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
    return hashlib.blake2b(repr((FORMAT, *parts)).encode(), digest_size=6).hexdigest()
