"""What a client reads: its own rows out of memory-mapped arrays that `fl_mlmc.simulations.data.datasets` wrote once.

A partition directory holds partition.json, order.npy and offsets.npy: client c owns the rows
order[offsets[c] : offsets[c + 1]] of the train split. partition.json points, by a relative path, to the data
directory that all partitions of one data set share: meta.json and {train,test}_{features,labels}.npy, raw and
compact (uint8 pixels in channels-first order, float16 vectors, int32 tokens; a user's own numbers in float32; labels
as `fl_mlmc.data.spec` says of each kind of targets). Normalisation happens here, on the few rows that are asked for,
so 1,000,000 clients cost no more to open than one. meta.json and partition.json hold digests of the arrays beside
them, made when they were written.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.data.spec import DTYPES, TARGET_DTYPES, TARGETS, DataSpec

FORMAT = 1
PARTITION = "partition.json"

T = TypeVar("T")

Labels = NDArray[Any]
"""Targets as a loss gets them: int64 (n,) of classes, int64 (n, length) of tokens, float32 (n, numbers) of others."""

Examples = tuple[NDArray[np.float32], Labels]


class LocalData(Protocol):
    """The examples of one or more clients."""

    @property
    def spec(self) -> DataSpec:
        """The shape and kind of an example, and the classes."""
        ...

    def client(self, client: int) -> Examples:
        """float32 (n, *input_shape), normalised, and their labels."""
        ...

    def client_labels(self, client: int) -> Labels:
        """Those of all the client's examples."""
        ...

    def client_features(self, client: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (len(rows), *input_shape), normalised."""
        ...


@dataclass(frozen=True, eq=False)
class FederatedData:
    """One data set shared out among clients, opened from a partition directory."""

    directory: Path
    spec: DataSpec
    _mean: NDArray[np.float32]
    _std: NDArray[np.float32]
    _splits: dict[str, tuple[NDArray[Any], Labels]]
    _order: NDArray[np.int64]
    _offsets: NDArray[np.int64]

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """The data of the partition directory that `prepare` left.

        FileNotFoundError if a file is missing, ValueError if one cannot be used.
        """
        directory = Path(directory).absolute()
        store = _store_of(directory)
        spec, mean, std = _read(store / "meta.json", parse_meta)
        splits = {split: _load_split(store, split, spec) for split in ("train", "test")}
        order, offsets = (_load(directory / f"{name}.npy", np.int64) for name in ("order", "offsets"))
        num_rows = len(splits["train"][1])
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(order) or np.max(order, initial=-1) >= num_rows:
            raise _malformed(
                directory / "offsets.npy",
                f"offsets that run from {offsets[:1]} to {offsets[-1:]} over {len(order)} assigned rows of {num_rows}",
            )
        return cls(directory, spec, mean, std, splits, order, offsets)

    def __reduce__(self) -> tuple[Callable[[Path], Self], tuple[Path]]:
        # A memory map pickles as a copy of the whole array; the receiver opens its own instead.
        return self.open, (self.directory,)

    @property
    def meta(self) -> str:
        """The data set's description as JSON, for clients with examples of their own: `parse_meta` reads it."""
        spec = self.spec
        return json.dumps(
            {
                "input_shape": spec.input_shape,
                "class_names": spec.class_names,
                "kind": spec.kind,
                "mean": self._mean.tolist(),
                "std": self._std.tolist(),
                **extras(spec),
            }
        )

    @property
    def digest(self) -> str:
        """Of all that clients train and the server evaluates on and of who owns which rows, as `prepare` noted it.

        ValueError where nothing is noted.
        """
        digests = [
            _read(path, lambda content: str(content["digest"]))
            for path in (_store_of(self.directory) / "meta.json", self.directory / PARTITION)
        ]
        return blake2b("".join(digests).encode(), digest_size=16).hexdigest()

    @property
    def num_train(self) -> int:
        """Examples of the train split."""
        return len(self._splits["train"][1])

    @property
    def num_test(self) -> int:
        """Examples of the test split."""
        return len(self._splits["test"][1])

    @property
    def num_clients(self) -> int:
        """Clients that the train split is shared out among."""
        return len(self._offsets) - 1

    def client_size(self, client: int) -> int:
        """How many train examples the client has."""
        start, stop = self._bounds(client)
        return stop - start

    def client(self, client: int) -> Examples:
        """The client's train examples: float32 (n, *input_shape), normalised, and their labels."""
        start, stop = self._bounds(client)
        return self._examples("train", np.asarray(self._order[start:stop]))

    def client_labels(self, client: int) -> Labels:
        """The labels of the client's train examples."""
        start, stop = self._bounds(client)
        return self._labels("train", self._order[start:stop])

    def client_features(self, client: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (len(rows), *input_shape): the features of some of the client's train examples, by their places."""
        start, stop = self._bounds(client)
        return self._features("train", self._order[start:stop][rows])

    def train(self) -> Examples:
        """The whole train split in its stored order, whoever owns it."""
        return self._examples("train", slice(None))

    def test(self) -> Examples:
        """The whole test split: float32 (n, *input_shape), normalised, and its labels."""
        return self._examples("test", slice(None))

    def _bounds(self, client: int) -> tuple[int, int]:
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client} asked for, {self.directory} holds clients 0 to {self.num_clients - 1}")
        start, stop = self._offsets[client : client + 2]
        return int(start), int(stop)

    def _examples(self, split: str, rows: NDArray[np.int64] | slice) -> Examples:
        return self._features(split, rows), self._labels(split, rows)

    def _labels(self, split: str, rows: NDArray[np.int64] | slice) -> Labels:
        return np.array(self._splits[split][1][rows], dtype=TARGET_DTYPES[self.spec.targets][1])

    def _features(self, split: str, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        return normalised(self._splits[split][0][rows].astype(np.float32), self._mean, self._std)


def normalised(values: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """`values` (n, …), (x − mean) / std by channel, in place; a vector is one channel."""
    channels = values.reshape(len(values), len(mean), -1)
    channels -= mean[:, None]
    channels /= std[:, None]
    return values


def files_of(directory: Path) -> tuple[Path, list[Path]]:
    """The data directory that a partition directory points to, and all files that `FederatedData.open` reads."""
    directory = directory.resolve()
    store = _store_of(directory)
    splits = [store / f"{split}_{part}.npy" for split in ("train", "test") for part in ("features", "labels")]
    return store, [
        *splits,
        store / "meta.json",
        *(directory / name for name in ("order.npy", "offsets.npy", PARTITION)),
    ]


def _store_of(directory: Path) -> Path:
    return (directory / _read(directory / PARTITION, lambda link: str(link["data"]))).resolve()


def parse_meta(meta: dict[str, Any]) -> tuple[DataSpec, NDArray[np.float32], NDArray[np.float32]]:
    """What a data set is, and the mean and deviation of each channel, float32 (channels,).

    ValueError, KeyError or TypeError if `meta` is not what `FederatedData.meta` gives.
    """
    names = tuple(map(str, meta["class_names"]))
    shape, columns = tuple(map(int, meta["input_shape"])), tuple(map(str, meta.get("columns", ())))
    spec = DataSpec(shape, len(names), names, meta["kind"], meta.get("targets", "classes"), columns)
    dims = {"image": 3, "vector": 1, "tokens": 1, "array": len(shape)}
    if dims.get(spec.kind) != len(shape) or spec.targets not in TARGETS:
        raise ValueError(f"kind {spec.kind!r} with input shape {shape} and targets {spec.targets!r}")
    if columns and (spec.kind, shape) != ("vector", (len(columns),)):
        raise ValueError(f"{len(columns)} columns for {spec.kind!r} with input shape {shape}")
    mean, std = (np.asarray(meta[name], dtype=np.float32) for name in ("mean", "std"))
    channels = shape[0] if spec.kind == "image" else len(columns) or 1
    if mean.shape != (channels,) or std.shape != (channels,):
        raise ValueError(f"mean of shape {mean.shape} and std of shape {std.shape} for {channels} channels")
    return spec, mean, std


def extras(spec: DataSpec) -> dict[str, Any]:
    """What `parse_meta` needs to hear of a set that is not of classes, or is a table; nothing of any other."""
    told: dict[str, Any] = {"targets": spec.targets} if spec.targets != "classes" else {}
    return told | ({"columns": spec.columns} if spec.columns else {})


def _load_split(store: Path, split: str, spec: DataSpec) -> tuple[NDArray[Any], Labels]:
    features = _load(store / f"{split}_features.npy", *DTYPES[spec.kind])
    labels = _load(store / f"{split}_labels.npy", TARGET_DTYPES[spec.targets][0])
    if labels.shape[1:] != spec.target_shape:
        raise _malformed(
            store / f"{split}_labels.npy", f"shape {labels.shape} where each is of shape {spec.target_shape}"
        )
    if features.shape != (len(labels), *spec.input_shape):
        raise _malformed(
            store / f"{split}_features.npy",
            f"shape {features.shape} for {len(labels)} labels and input shape {spec.input_shape}",
        )
    return features, labels


def _load(path: Path, *dtypes: type[np.generic]) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _missing(path) from None
    except (ValueError, EOFError) as error:
        raise _malformed(path, str(error)) from error
    if array.dtype not in dtypes or array.ndim == 0:
        due = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        raise _malformed(path, f"{array.dtype} of shape {array.shape} where {due} is due")
    return np.asarray(array)  # still mapped; every slice of a memmap costs microseconds of bookkeeping


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except ValueError as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        seen = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise _malformed(path, f"format {seen!r} where {FORMAT} is due")
    try:
        return parse(content)
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, f"{type(error).__name__}: {error}") from error


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{path} does not exist: expected what `fl_mlmc.simulations.data.datasets.prepare` returned. "
        f"Prepare the data on this machine, or copy the whole data directory with its partitions/ here"
    )


def _malformed(path: Path, seen: str) -> ValueError:
    return ValueError(f"{path} cannot be used: {seen}. Delete {path.parent} and prepare the data again")
