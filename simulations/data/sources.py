"""Where data sets come from: scikit-learn, a user's files and folders, the Hugging Face hub. One class each."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_mlmc import own
from fl_mlmc.clients.tables import READERS, DataError, Table, read_parquet
from fl_mlmc.data.wanted import Wanted

from .array_files import ARRAY_SUFFIXES, array_splits, is_array_folder
from .meta import write_meta
from .own_data import OwnData
from .splits import TEST_SPLITS, Split, Splits, train_and_test, write_splits
from .tables import hub_table

# datasets, flwr_datasets and scikit-learn are imported where they are used: with what they pull in they take two
# seconds, and a run whose data is in the cache needs none of them.
if TYPE_CHECKING:
    from flwr_datasets import FederatedDataset

SPLITS = ("train", "test")


class Source(Protocol):
    """Where a data set comes from. Equal identities promise equal arrays."""

    @property
    def name(self) -> str:
        """How users call it."""
        ...

    @property
    def identity(self) -> str | None:
        """All that its arrays depend on, as text; None where only the arrays themselves tell."""
        ...

    def write(self, directory: Path) -> None:
        """Leave meta.json and the arrays of both splits in `directory`."""
        ...

    def column(self, name: str) -> NDArray[Any]:
        """The named column of the train split, (rows,), for `by:COLUMN`."""
        ...


def find_source(dataset: str, data_dir: Path | None, wanted: Wanted) -> Source:
    """`data_dir` if there is one; else what `dataset` names: a built-in set, a file, folder or function, a hub's set.

    FileNotFoundError if `dataset` is a path that is nothing of these.
    """
    if data_dir is not None:
        path = Path(data_dir).absolute()
        is_pair = not path.is_dir() or any((path / f"{split}.parquet").exists() for split in SPLITS)
        if path.is_file():
            return File(path, wanted)
        return ParquetFolder(path, wanted) if is_pair or not any(path.iterdir()) else Folder(path, wanted)
    if dataset == Digits.name:
        if wanted.targets != "classes":
            raise DataError(f"dataset {dataset!r} is of classes; take objective 'cross_entropy'")
        return Digits()
    if own.references(dataset):
        return OwnData(dataset, wanted)
    path = Path(dataset).expanduser().absolute()
    if path.is_dir():
        return Folder(path, wanted)
    if path.is_file() and path.suffix.lower() in (*READERS, *ARRAY_SUFFIXES):
        return File(path, wanted)
    is_path = dataset.startswith(("/", "~", "./", "../")) or path.suffix.lower() in (*READERS, *ARRAY_SUFFIXES)
    if path.exists() or is_path:
        seen = "is a file of no kind that is read" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"dataset {dataset} ({path}) {seen}; expected a folder with a train and a test split, or a file that ends "
            f"in {', '.join((*READERS, *ARRAY_SUFFIXES))}"
        )
    return Hub(dataset, wanted)


@dataclass(frozen=True)
class Digits:
    """scikit-learn's 1,797 handwritten digits, 8 by 8 grey pixels; a fifth of each class is the test split."""

    name = "digits"
    identity = "digits"

    def write(self, directory: Path) -> None:
        """Images of shape (1, 8, 8), uint8 of 0 to 16: 1,437 to train and 360 to test."""
        for split, (pixels, labels) in self._splits().items():
            np.save(directory / f"{split}_features.npy", pixels)
            np.save(directory / f"{split}_labels.npy", labels)
        write_meta(directory, "image", tuple("0123456789"))

    def column(self, name: str) -> NDArray[Any]:
        """int64 labels; DataError for any other name than "label"."""
        if name != "label":
            raise DataError(f"digits has no column {name!r}; columns seen: image, label")
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
    wanted: Wanted

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.directory.name

    @property
    def identity(self) -> str:
        """Path, size and times of both files, and the text encoding."""
        return f"{self.directory.resolve()} {_stamps(self._files().values())} {self.wanted.identity}"

    def write(self, directory: Path) -> None:
        """FileNotFoundError if a file is missing, DataError if one cannot be used."""
        write_splits(directory, *self._split(), self.wanted)

    def column(self, name: str) -> NDArray[Any]:
        """A column of train.parquet as keys; errors as in `write`."""
        return self._split()[0].keys(name)

    def _split(self) -> "tuple[Split, Split]":
        files = self._files()
        if len(files) == len(SPLITS) and not self.wanted.test_share:
            return read_parquet(files["train"]), read_parquet(files["test"])
        splits: Splits = {split: partial(read_parquet, path) for split, path in files.items()}
        return train_and_test(f"data-dir {self.directory}", splits, self.wanted)

    def _files(self) -> dict[str, Path]:
        if not self.directory.is_dir():
            raise FileNotFoundError(
                f"data-dir {self.directory} is not a directory; expected a folder that holds train.parquet "
                f"and test.parquet"
            )
        files = {split: self.directory / f"{split}.parquet" for split in SPLITS}
        if self.wanted.test_share and not files["test"].exists():
            del files["test"]
        missing = [path.name for path in files.values() if not path.is_file()]
        if missing:
            seen = ", ".join(sorted(path.name for path in self.directory.iterdir())) or "nothing"
            raise FileNotFoundError(
                f"data-dir {self.directory} lacks {' and '.join(missing)} (it holds: {seen}); expected "
                f"train.parquet and test.parquet, as Dataset.to_parquet writes them"
            )
        return files


@dataclass(frozen=True)
class Folder:
    """A folder that Hugging Face's `load_dataset` takes, or that `save_to_disk` left: tables, images by class, ….

    The library finds the files of each split. CSV, Parquet and Arrow go through our reader, other kinds through the
    library's own.
    """

    directory: Path
    wanted: Wanted

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.directory.name

    @property
    def identity(self) -> str:
        """Path, size and times of all files in it, and the text encoding."""
        return f"folder {self.directory.resolve()} {_stamps(_files_below(self.directory))} {self.wanted.identity}"

    def write(self, directory: Path) -> None:
        """DataError where there is no train split, no labelled test split, or a file that cannot be used."""
        with self._splits() as splits:
            write_splits(directory, *train_and_test(f"dataset {self.directory}", splits, self.wanted), self.wanted)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the train split as keys; errors as in `write`."""
        with self._splits() as splits:
            return train_and_test(f"dataset {self.directory}", splits, self.wanted)[0].keys(name)

    @contextmanager
    def _splits(self) -> "Iterator[Splits]":
        # The library's own cache would know files by path and time alone.
        with tempfile.TemporaryDirectory(prefix="fl-mlmc-") as cache:
            try:
                found = self._found(cache)
            except DataError:
                raise
            except Exception as error:  # whatever the library makes of the user's files
                reason = error.__cause__ or error
                raise DataError(
                    f"dataset {self.directory} cannot be read ({type(reason).__name__}: {reason}). Expected a folder "
                    "that `datasets.load_dataset` takes, such as train/CLASS/*.png and test/CLASS/*.png, or "
                    f"train.csv and test.csv"
                ) from error
            yield found

    def _found(self, cache: str) -> "Splits":
        from datasets import Dataset, load_dataset, load_dataset_builder, load_from_disk

        if is_array_folder(self.directory):
            return array_splits(self.directory)
        if any((self.directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
            saved = load_from_disk(str(self.directory))
            saved = {"train": saved} if isinstance(saved, Dataset) else saved
        else:
            config = load_dataset_builder(str(self.directory), cache_dir=cache).config
            files = {str(split): [Path(file) for file in files] for split, files in config.data_files.items()}
            endings = {file.suffix.lower() for split in files.values() for file in split}
            if endings <= READERS.keys() and getattr(config, "sep", ",") == ",":
                return {split: partial(_table, paths) for split, paths in files.items()}
            saved = load_dataset(str(self.directory), cache_dir=cache)
        return {split: partial(hub_table, f"{self.directory} ({split} split)", rows) for split, rows in saved.items()}


@dataclass(frozen=True)
class File:
    """One CSV, Parquet or Arrow file, of which `test-share` divides the rows; or .npy and .npz, which may hold both."""

    path: Path
    wanted: Wanted

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name

    @property
    def identity(self) -> str:
        """Path, size and times, and what is wanted of it."""
        return f"file {self.path.resolve()} {_stamps([self.path])} {self.wanted.identity}"

    def write(self, directory: Path) -> None:
        """DataError where there is no test split to be had, or the file cannot be used."""
        write_splits(directory, *self._split(), self.wanted)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the training rows as keys; errors as in `write`."""
        return self._split()[0].keys(name)

    def _split(self) -> "tuple[Split, Split]":
        suffix = self.path.suffix.lower()
        if suffix in ARRAY_SUFFIXES:
            splits: Splits = array_splits(self.path)
        elif suffix in READERS:
            splits = {"train": partial(READERS[suffix], self.path)}
        else:
            raise DataError(
                f"{self.path} is of no kind that is read: a folder, or a file that ends in "
                f"{', '.join((*READERS, *ARRAY_SUFFIXES))}"
            )
        return train_and_test(str(self.path), splits, self.wanted)


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub, fetched through flwr-datasets; needs the network once."""

    name: str
    wanted: Wanted

    @property
    def identity(self) -> str:
        """The name and the text encoding: a set of the hub is taken not to change."""
        return f"hub {self.name} {self.wanted.identity}"

    def write(self, directory: Path) -> None:
        """ValueError if it cannot be fetched, DataError where it lacks a split or a cell cannot be used."""
        write_splits(directory, *self._split(), self.wanted)

    def column(self, name: str) -> NDArray[Any]:
        """A column of the train split as keys; errors as in `write`."""
        return self._split()[0].keys(name)

    def _split(self) -> "tuple[Split, Split]":
        return train_and_test(f"dataset {self.name!r}", self._splits(), self.wanted)

    def _splits(self) -> "Splits":
        fetched, splits = self._fetched(), {}
        for split in ("train", *TEST_SPLITS):
            with suppress(ValueError):  # flwr-datasets' answer to a split that is not there
                splits[split] = partial(hub_table, f"{self.name} ({split} split)", fetched.load_split(split))
        return splits

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


def _table(files: Sequence[Path]) -> Table:
    """Files of one split, one after the other."""
    return Table(tuple(part for file in files for part in READERS[file.suffix.lower()](file).parts))


def _files_below(directory: Path) -> Iterator[Path]:
    """All files in a folder, sorted; folders that links point to are gone through once."""
    seen = set()
    for parent, folders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(parent, file) for file in sorted(files))


def _stamps(paths: Iterable[Path]) -> str:
    """Path, size and times of files: what a change of content cannot leave as it was."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        stat = path.stat()
        digest.update(repr((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)).encode())
    return digest.hexdigest()
