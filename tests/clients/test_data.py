"""What clients read, from a directory written here by hand: the layout is a promise to devices."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from fl_mlmc.clients.data import DataSpec, FederatedData

PIXELS = np.arange(6 * 2 * 3 * 3, dtype=np.uint8).reshape(6, 2, 3, 3)
LABELS = np.array([0, 1, 0, 1, 1, 0])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Six 2x3x3 images for three clients: rows 4, 0, 2 / 1 / 5, 3."""
    meta = {
        "format": 1,
        "kind": "image",
        "input_shape": [2, 3, 3],
        "class_names": ["no", "yes"],
        "mean": [10.0, 20.0],
        "std": [2.0, 4.0],
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for split, rows in {"train": slice(None), "test": slice(4)}.items():
        np.save(tmp_path / f"{split}_features.npy", PIXELS[rows])
        np.save(tmp_path / f"{split}_labels.npy", LABELS[rows])
    partition = tmp_path / "partitions" / "mine"
    partition.mkdir(parents=True)
    (partition / "partition.json").write_text(json.dumps({"format": 1, "data": "../.."}))
    np.save(partition / "order.npy", np.array([4, 0, 2, 1, 5, 3]))
    np.save(partition / "offsets.npy", np.array([0, 3, 4, 6]))
    return partition


def test_spec_says_what_a_model_must_know(directory: Path) -> None:
    assert FederatedData.open(directory).spec == DataSpec((2, 3, 3), 2, ("no", "yes"), "image")


def test_a_client_gets_its_own_rows_normalised_by_channel(directory: Path) -> None:
    features, labels = FederatedData.open(directory).client(0)
    rows = [4, 0, 2]
    expected = (PIXELS[rows].astype(np.float32) - np.float32([[[10]], [[20]]])) / np.float32([[[2]], [[4]]])
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(labels, LABELS[rows])
    assert (features.dtype, labels.dtype) == (np.float32, np.int64)


def test_a_client_reads_single_rows_as_it_reads_all(directory: Path) -> None:
    data = FederatedData.open(directory)
    features, labels = data.client(0)
    np.testing.assert_array_equal(data.client_features(0, np.array([2, 0])), features[[2, 0]])
    np.testing.assert_array_equal(data.client_labels(0), labels)
    with pytest.raises(IndexError):
        data.client_features(2, np.array([2]))


def test_clients_cover_the_train_split(directory: Path) -> None:
    data = FederatedData.open(directory)
    sizes = [data.client_size(client) for client in range(data.num_clients)]
    assert sizes == [3, 1, 2] == [len(data.client(client)[1]) for client in range(data.num_clients)]
    features, labels = data.train()
    np.testing.assert_array_equal(features[[4, 0, 2, 1, 5, 3]], np.concatenate([data.client(c)[0] for c in range(3)]))
    np.testing.assert_array_equal(labels, LABELS)


def test_the_test_split_is_normalised_as_the_train_split(directory: Path) -> None:
    data = FederatedData.open(directory)
    np.testing.assert_array_equal(data.test()[0], data.train()[0][:4])


def test_what_a_client_got_is_its_own_copy(directory: Path) -> None:
    data = FederatedData.open(directory)
    for read in (lambda: data.client(0), data.test):
        features, labels = read()
        features[:], labels[:] = 7, 7
        assert not (read()[0] == 7).all()
        assert not (read()[1] == 7).any()


def test_vectors_are_one_channel(directory: Path) -> None:
    store = directory.parents[1]
    meta = json.loads((store / "meta.json").read_text())
    meta |= {"kind": "vector", "input_shape": [18], "mean": [1.0], "std": [2.0]}
    (store / "meta.json").write_text(json.dumps(meta))
    for split, rows in {"train": slice(None), "test": slice(4)}.items():
        np.save(store / f"{split}_features.npy", PIXELS.reshape(6, 18)[rows].astype(np.float16))
    features, _ = FederatedData.open(directory).client(1)
    np.testing.assert_array_equal(features, (PIXELS.reshape(6, 18)[[1]].astype(np.float32) - 1) / 2)


@pytest.mark.parametrize("client", [-1, 3])
def test_an_unknown_client_is_an_error_that_names_the_known_ones(directory: Path, client: int) -> None:
    data = FederatedData.open(directory)
    with pytest.raises(IndexError, match=rf"client {client} asked for.*clients 0 to 2"):
        data.client(client)


def test_a_pickle_carries_the_directory_and_not_the_arrays(directory: Path) -> None:
    data = FederatedData.open(directory)
    pickled = pickle.dumps(data)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).client(2)[0], data.client(2)[0])


def test_data_and_partition_can_be_moved_together(directory: Path, tmp_path: Path) -> None:
    expected = FederatedData.open(directory).client(0)[0]
    moved = shutil.copytree(directory.parents[1], tmp_path / "elsewhere")
    shutil.rmtree(directory)
    np.testing.assert_array_equal(FederatedData.open(moved / "partitions" / "mine").client(0)[0], expected)


def test_a_million_clients_are_only_mapped(directory: Path) -> None:
    num_clients = 1_000_000
    store = directory.parents[1]
    np.save(store / "train_features.npy", np.zeros((num_clients, 2, 3, 3), np.uint8))
    np.save(store / "train_labels.npy", np.zeros(num_clients, np.int64))
    np.save(directory / "order.npy", np.arange(num_clients)[::-1].copy())
    np.save(directory / "offsets.npy", np.arange(num_clients + 1))
    data = FederatedData.open(directory)
    assert data.num_clients == num_clients
    assert data.client_size(999_999) == 1
    assert isinstance(data._offsets.base, np.memmap)
    assert isinstance(data._order.base, np.memmap)


@pytest.mark.parametrize(
    "name", ["partition.json", "order.npy", "offsets.npy", "../../meta.json", "../../test_labels.npy"]
)
def test_a_missing_file_is_named_with_the_remedy(directory: Path, name: str) -> None:
    path = (directory / name).resolve()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"does not exist.*[Pp]repare") as caught:
        FederatedData.open(directory)
    assert str(path) in str(caught.value)


def test_a_missing_directory_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist.*[Pp]repare"):
        FederatedData.open(tmp_path / "nowhere")


MALFORMED_JSON = {
    "not JSON": ("meta.json", "{"),
    "not a table": ("meta.json", "[]"),
    "another format": ("meta.json", '{"format": 2}'),
    "a key is missing": ("meta.json", '{"format": 1}'),
    "no link": ("partitions/mine/partition.json", '{"format": 1}'),
}


@pytest.mark.parametrize(("name", "text"), MALFORMED_JSON.values(), ids=MALFORMED_JSON)
def test_malformed_json_is_named_with_the_remedy(directory: Path, name: str, text: str) -> None:
    path = directory.parents[1] / name
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cannot be used.*Delete.*prepare the data again") as caught:
        FederatedData.open(directory)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"kind": "sound"}, {"kind": "vector"}, {"mean": [1.0]}, {"std": 3}, {"input_shape": 5}]
)
def test_meta_that_contradicts_itself_is_refused(directory: Path, change: dict[str, object]) -> None:
    path = directory.parents[1] / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="cannot be used"):
        FederatedData.open(directory)


MALFORMED_ARRAYS = {
    "labels too short": ("train_labels.npy", LABELS[:5]),
    "features of another shape": ("test_features.npy", PIXELS[:4, :, :2]),
    "features of another type": ("train_features.npy", PIXELS.astype(np.float64)),
    "labels of another type": ("train_labels.npy", LABELS.astype(np.int32)),
    "order too short": ("partitions/mine/order.npy", np.arange(5)),
    "more owned rows than there are": ("partitions/mine/order.npy", np.arange(7)),
    "offsets from 1": ("partitions/mine/offsets.npy", np.array([1, 3, 4, 6])),
    "no client": ("partitions/mine/offsets.npy", np.array([0])),
    "a scalar": ("partitions/mine/offsets.npy", np.int64(3)),
    "pickled objects": ("partitions/mine/order.npy", np.array([None, {}])),
}


@pytest.mark.parametrize(("name", "array"), MALFORMED_ARRAYS.values(), ids=MALFORMED_ARRAYS)
def test_malformed_arrays_are_refused(directory: Path, name: str, array: np.ndarray) -> None:
    np.save(directory.parents[1] / name, array)
    with pytest.raises(ValueError, match=r"cannot be used.*prepare the data again"):
        FederatedData.open(directory)


@pytest.mark.parametrize("length", [0, 5, 100, 130])
def test_a_torn_array_is_refused(directory: Path, length: int) -> None:
    path = directory / "order.npy"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="cannot be used"):
        FederatedData.open(directory)


def test_reading_data_needs_numpy_alone() -> None:
    module = sys.modules[FederatedData.__module__]
    imported = {name for name, value in vars(module).items() if hasattr(value, "__spec__")}
    assert imported <= {"json", "np"}
