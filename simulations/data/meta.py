"""What a cache entry says of its arrays: meta.json."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_mlmc.clients.data import FORMAT, extras
from fl_mlmc.clients.tables import PIECE_ROWS
from fl_mlmc.data.spec import DataSpec, Kind, Targets


def write_meta(
    directory: Path,
    kind: Kind,
    class_names: Sequence[str],
    targets: Targets = "classes",
    columns: Sequence[str] = (),
    is_raw: bool = False,
) -> None:
    """meta.json, with the mean and deviation of each channel over the train features already written, and a digest.

    Channels are those of images, or the `columns` of a table; others have one. `is_raw`: the numbers are a user's own
    and stay as they are. The digest is of all that clients train and the server evaluates on: equal digests promise
    equal arrays.
    """
    features = np.load(directory / "train_features.npy", mmap_mode="r")
    num_channels = features.shape[1] if kind == "image" else len(columns) or 1
    if kind == "tokens" or is_raw:  # names, or what somebody has normalised as he likes
        mean, std = np.zeros(num_channels), np.ones(num_channels)
    else:
        mean, std = _moments(features, num_channels)
    shape, names = features.shape[1:], tuple(class_names)
    meta = {
        "format": FORMAT,
        "kind": kind,
        "input_shape": list(shape),
        "class_names": list(names),
        "mean": mean.tolist(),
        "std": np.where(std > 0, std, 1.0).tolist(),
        **extras(DataSpec(shape, len(names), names, kind, targets, tuple(columns))),
    }
    arrays = [directory / f"{split}_{part}.npy" for split in ("train", "test") for part in ("features", "labels")]
    meta["digest"] = digest(json.dumps(meta), *arrays)
    (directory / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def digest(text: str, *files: Path) -> str:
    """A digest of a text and of files' bytes."""
    total = hashlib.blake2b(text.encode(), digest_size=16)
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def _moments(features: NDArray[Any], num_channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total, squares = np.zeros(num_channels), np.zeros(num_channels)
    for start in range(0, len(features), PIECE_ROWS):
        piece = features[start : start + PIECE_ROWS].astype(np.float64)
        piece = piece.reshape(len(piece), num_channels, -1)
        total += piece.sum(axis=(0, 2))
        squares += np.einsum("ncp,ncp->c", piece, piece)
    count = features.size / num_channels
    return total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
