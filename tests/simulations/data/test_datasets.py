import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flwr_datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.simulations.data.datasets import default_cache, prepare

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = [0, 1, 2] * 4
TEXTS = [f"a {word} film number {i}" for i in range(4) for word in ("good", "bad", "dull")]

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Writes train.parquet and test.parquet: the columns given, and their first six rows."""

    def write(columns: dict[str, list], features: Features | None = None, **test: list) -> Path:
        directory = tmp_path / "made-up"
        directory.mkdir(exist_ok=True)
        held_out = {name: cells[:6] for name, cells in columns.items()} | test
        for split, rows in {"train": columns, "test": held_out}.items():
            Dataset.from_dict(rows, features=features).to_parquet(directory / f"{split}.parquet")
        return directory

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def images(pixels: np.ndarray, **columns: list) -> tuple[dict[str, list], Features]:
    rows = {"img": [Pillow.fromarray(image) for image in pixels], "label": LABELS, **columns}
    kinds = {"img": Image(), "label": ClassLabel(names=["cat", "dog", "emu"])}
    return rows, Features(kinds | dict.fromkeys(columns, Value("string")))


def opened(directory: Path, cache: Path, partition: str = "iid", num_clients: int = 3, seed: int = 0) -> FederatedData:
    return FederatedData.open(prepare("made-up", directory, partition, num_clients, seed, cache))


def unnormalised(data: FederatedData) -> np.ndarray:
    meta = json.loads((data.directory / "../../meta.json").read_text())
    channels = (-1, *[1] * (len(data.spec.input_shape) - 1))
    return data.train()[0] * np.reshape(meta["std"], channels) + np.reshape(meta["mean"], channels)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_digits_are_grey_images_split_by_class(cache: Path) -> None:
    data = FederatedData.open(prepare("digits", None, "dirichlet:0.5", 60, 1, cache))
    assert data.spec.input_shape == (1, 8, 8)
    assert (data.spec.kind, data.spec.class_names) == ("image", tuple("0123456789"))
    assert sum(data.client_size(client) for client in range(60)) == 1437
    features, labels = data.test()
    assert features.shape == (360, 1, 8, 8)
    assert np.bincount(labels).min() >= 34
    train = data.train()[0]
    assert abs(train.mean()) < 1e-5
    assert abs(train.std() - 1) < 1e-5


def test_digits_can_be_divided_by_label(cache: Path) -> None:
    data = FederatedData.open(prepare("digits", None, "by:label", 10, 0, cache))
    assert [set(data.client(client)[1]) for client in range(10)] == [{client} for client in range(10)]
    with pytest.raises(ValueError, match="no column 'writer'; columns seen: image, label"):
        prepare("digits", None, "by:writer", 10, 0, cache)


def test_the_test_split_does_not_move_with_the_seed_or_the_partition(cache: Path) -> None:
    one, other = (FederatedData.open(prepare("digits", None, *rest, cache)) for rest in (("iid", 9, 1), ("iid", 8, 2)))
    np.testing.assert_array_equal(one.test()[0], other.test()[0])


@pytest.mark.parametrize(("pixels", "channels"), [(GREY, 1), (COLOUR, 3)], ids=["grey", "colour"])
def test_image_columns_keep_their_pixels(folder: Folder, cache: Path, pixels: np.ndarray, channels: int) -> None:
    data = opened(folder(*images(pixels)), cache)
    assert data.spec.input_shape == (channels, 5, 4)
    assert data.spec.class_names == ("cat", "dog", "emu")
    expected = pixels.reshape(12, 5, 4, channels).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(unnormalised(data), expected, atol=1e-3)
    np.testing.assert_array_equal(data.train()[1], LABELS)
    np.testing.assert_allclose(data.train()[0].std(axis=(0, 2, 3)), 1, rtol=1e-5)
    assert len(data.test()[1]) == 6


def test_grey_images_among_coloured_ones_become_coloured(folder: Folder, cache: Path) -> None:
    rows, features = images(GREY)
    rows["img"][7] = Pillow.fromarray(COLOUR[7])
    data = opened(folder(rows, features), cache)
    assert data.spec.input_shape == (3, 5, 4)
    pixels = unnormalised(data)
    np.testing.assert_allclose(pixels[7], COLOUR[7].transpose(2, 0, 1), atol=1e-3)
    np.testing.assert_allclose(pixels[0], np.stack([GREY[0]] * 3), atol=1e-3)


def test_a_constant_image_is_not_divided_by_zero(folder: Folder, cache: Path) -> None:
    data = opened(folder(*images(np.full_like(GREY, 9))), cache)
    np.testing.assert_array_equal(data.train()[0], 0)


def test_texts_become_hashed_words(folder: Folder, cache: Path) -> None:
    data = opened(folder({"text": [*TEXTS[:-1], TEXTS[0]], "label": LABELS}), cache)
    assert (data.spec.kind, data.spec.input_shape) == ("vector", (2048,))
    vectors = unnormalised(data)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2)
    np.testing.assert_allclose(vectors[0], vectors[-1], atol=1e-4)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.1


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["no", "yes", "maybe"] * 4, ("maybe", "no", "yes")),
        ([3, 7, 5] * 4, ("3", "5", "7")),
        ([True, False, True] * 4, ("False", "True")),
    ],
    ids=["strings", "numbers", "booleans"],
)
def test_labels_of_other_types_become_sorted_classes(
    folder: Folder, cache: Path, labels: list, names: tuple[str, ...]
) -> None:
    data = opened(folder({"text": TEXTS, "label": labels}), cache)
    assert data.spec.class_names == names
    assert [data.spec.class_names[label] for label in data.train()[1]] == [str(label) for label in labels]


def test_the_only_class_column_is_the_label_whatever_its_name(folder: Folder, cache: Path) -> None:
    features = Features({"text": Value("string"), "character": ClassLabel(names=["x", "y", "z"])})
    assert opened(folder({"text": TEXTS, "character": LABELS}, features), cache).spec.class_names == ("x", "y", "z")


def test_a_known_text_column_goes_before_others(folder: Folder, cache: Path) -> None:
    first = opened(folder({"title": TEXTS[::-1], "text": TEXTS, "label": LABELS}), cache).train()[0]
    second = opened(folder({"text": TEXTS, "label": LABELS}), cache).train()[0]
    np.testing.assert_array_equal(first, second)


def test_by_a_column_gives_each_writer_its_own_rows(folder: Folder, cache: Path) -> None:
    writers = ["ann", "bob", "bob", "cy"] * 3
    directory = folder(*images(GREY, writer=writers))
    data = opened(directory, cache, "by:writer", 3)
    assert [data.client_size(client) for client in range(3)] == [3, 6, 3]
    np.testing.assert_array_equal(data.client(0)[0], data.train()[0][::4])
    with pytest.raises(ValueError, match="3 distinct values in column 'writer', num-clients is 5"):
        opened(directory, cache, "by:writer", 5)
    with pytest.raises(ValueError, match="no column 'author'; columns seen: img, label, writer"):
        opened(directory, cache, "by:author", 3)


def test_a_second_call_writes_nothing(cache: Path) -> None:
    first = prepare("digits", None, "iid", 5, 0, cache)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert prepare("digits", None, "iid", 5, 0, cache) == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_partitions_share_the_arrays_of_their_data_set(cache: Path) -> None:
    settings = [("iid", 5, 0), ("iid", 5, 1), ("iid", 6, 0), ("shards:2", 5, 0)]
    made = {prepare("digits", None, *setting, cache) for setting in settings}
    assert len(made) == len(settings)
    assert len(list(cache.rglob("train_features.npy"))) == 1


def test_two_spellings_of_a_partition_are_one(cache: Path) -> None:
    assert len({prepare("digits", None, text, 9, 0, cache) for text in ("dirichlet:1", " dirichlet:1.00 ")}) == 1


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    one, other = (prepare("digits", None, "dirichlet:0.5", 60, 7, tmp_path / name) for name in "ab")
    assert contents(one.parents[1]) == contents(other.parents[1])


def test_a_changed_folder_is_prepared_again(folder: Folder, cache: Path) -> None:
    first = prepare("x", folder({"text": TEXTS, "label": LABELS}), "iid", 3, 0, cache)
    directory = folder({"text": TEXTS[::-1], "label": LABELS})
    os.utime(directory / "train.parquet", ns=(1, 1))  # a coarse clock might give both the same time
    assert prepare("x", directory, "iid", 3, 0, cache) != first


def test_several_callers_at_once_agree_and_leave_no_scratch(cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: prepare("digits", None, "iid", 5, 0, cache), range(4)))
    assert len(made) == 1
    assert FederatedData.open(made.pop()).num_clients == 5
    assert not list(cache.rglob(".*"))


def test_a_failure_leaves_nothing_that_looks_finished(folder: Folder, cache: Path) -> None:
    directory = folder({"text": TEXTS, "other": LABELS})
    for _ in range(2):
        with pytest.raises(ValueError, match="no label column"):
            opened(directory, cache)
    assert list(cache.iterdir()) == []


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FL_MLMC_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("FL_MLMC_CACHE")
    assert default_cache() == tmp_path / "xdg" / "fl-mlmc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "fl-mlmc"


def test_a_missing_data_dir_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data-dir .*nowhere is not a directory; expected .*train.parquet"):
        opened(tmp_path / "nowhere", cache)


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet"])
def test_a_missing_parquet_file_is_named_beside_what_was_seen(folder: Folder, cache: Path, name: str) -> None:
    directory = folder({"text": TEXTS, "label": LABELS})
    (directory / name).rename(directory / "rows.parquet")
    with pytest.raises(FileNotFoundError, match=f"lacks {name} .it holds: rows.parquet, .*; expected train.parquet"):
        opened(directory, cache)


def test_a_file_that_is_not_parquet_is_named(folder: Folder, cache: Path) -> None:
    directory = folder({"text": TEXTS, "label": LABELS})
    (directory / "test.parquet").write_text("label,text\n")
    with pytest.raises(ValueError, match=r"test.parquet cannot be read as Parquet"):
        opened(directory, cache)


BAD_TABLES = {
    "no label": ({"text": TEXTS, "stars": LABELS}, {}, "no label column; columns seen: text, stars. Expected"),
    "no feature": ({"stars": [None] * 12, "label": LABELS}, {}, "no feature column; columns seen: stars, label"),
    "two features": (
        {"a": TEXTS, "b": TEXTS, "n": LABELS, "label": LABELS},
        {},
        "several feature columns: a, b; expected .*features = 'a', or the numbers, features = 'n'",
    ),
    "empty split": (
        {"text": TEXTS, "label": LABELS},
        {"text": [], "label": []},
        "test.parquet is empty; expected at least one row",
    ),
    "empty cells": (
        {"text": [None, *TEXTS[1:]], "label": LABELS},
        {},
        "train.parquet column 'text' row 0 is empty; expected a value in each row",
    ),
    "real labels": (
        {"text": TEXTS, "label": [0.5] * 12},
        {},
        "train.parquet column 'label' holds double; expected class",
    ),
    "new class": (
        {"text": TEXTS, "label": LABELS},
        {"label": [0, 1, 2, 3, 4, 0]},
        r"test split holds \[3, 4\], which are not among the 3 classes",
    ),
}


@pytest.mark.parametrize(("columns", "test", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_used_says_why(
    folder: Folder, cache: Path, columns: dict[str, list], test: dict[str, list], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        opened(folder(columns, **test), cache)


def test_a_column_that_the_test_split_lacks_is_named(folder: Folder, cache: Path) -> None:
    directory = folder({"text": TEXTS, "label": LABELS})
    Dataset.from_dict({"text": TEXTS}).to_parquet(directory / "test.parquet")
    with pytest.raises(ValueError, match=r"test.parquet has no column 'label'; columns seen: text"):
        opened(directory, cache)


def test_other_class_names_in_the_test_split_are_refused(folder: Folder, cache: Path) -> None:
    rows, features = images(GREY)
    directory = folder(rows, features)
    features["label"] = ClassLabel(names=["emu", "dog", "cat"])
    Dataset.from_dict(rows, features=features).to_parquet(directory / "test.parquet")
    with pytest.raises(
        ValueError,
        match=r"test.parquet column 'label' has other classes \(emu, dog, cat\) than cat, dog, emu in .*train.parquet",
    ):
        opened(directory, cache)


def test_mixed_image_sizes_are_named(folder: Folder, cache: Path) -> None:
    rows, features = images(GREY)
    rows["img"][3] = Pillow.fromarray(GREY[3, :4, :3])
    with pytest.raises(
        ValueError,
        match=r"'img' mixes 2 image sizes: 3x4 \(.*train.parquet column 'img' row 3\), 4x5 .*; expected one. Resize",
    ):
        opened(folder(rows, features), cache)


def test_images_deeper_than_eight_bits_are_refused(folder: Folder, cache: Path) -> None:
    with pytest.raises(ValueError, match="mode I;16; expected 8-bit pixels"):
        opened(folder(*images(GREY.astype(np.uint16))), cache)


def test_bytes_that_are_no_image_are_refused(folder: Folder, cache: Path) -> None:
    columns = {"image": [{"bytes": b"GIF?", "path": None}] * 12, "label": LABELS}
    with pytest.raises(ValueError, match=r"train.parquet column 'image' row 0 is no image: its format is not known"):
        opened(folder(columns), cache)


def pretend_hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Dataset] | Exception) -> None:
    class PretendDataset:
        def __init__(self, *, dataset: str, partitioners: dict, shuffle: bool) -> None:
            assert not shuffle

        def load_split(self, split: str) -> Dataset:
            if isinstance(splits, Exception):
                raise splits
            if split not in splits:
                raise ValueError(f"The given split: '{split}' is not present")
            return splits[split]

    monkeypatch.setattr(flwr_datasets, "FederatedDataset", PretendDataset)


def test_a_hub_data_set_is_what_its_parquet_copy_is(
    monkeypatch: pytest.MonkeyPatch, folder: Folder, cache: Path
) -> None:
    rows, features = images(COLOUR, writer=["ann", "bob", "bob", "cy"] * 3)
    train = Dataset.from_dict(rows, features=features)
    pretend_hub(monkeypatch, {"train": train, "test": train.select(range(6))})
    fetched = FederatedData.open(prepare("someone/animals", None, "by:writer", 3, 0, cache))
    copied = opened(folder(rows, features), cache, "by:writer", 3)
    assert fetched.spec == copied.spec
    for one, other in [(fetched.client(1), copied.client(1)), (fetched.test(), copied.test())]:
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_withheld_test_labels_give_way_to_the_validation_split(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "dull", "good"])})
    train = Dataset.from_dict({"sentence": TEXTS, "label": LABELS}, features=features)
    withheld = Dataset.from_dict({"sentence": TEXTS, "label": [-1] * 12}, features=features)
    pretend_hub(monkeypatch, {"train": train, "test": withheld, "validation": train.select(range(5))})
    assert len(FederatedData.open(prepare("sst2", None, "iid", 3, 0, cache)).test()[1]) == 5
    pretend_hub(monkeypatch, {"train": train, "test": withheld})
    with pytest.raises(ValueError, match=r"'sst3' has no labelled test or validation split.*data-dir"):
        prepare("sst3", None, "iid", 3, 0, cache)


def test_an_unknown_data_set_without_the_hub_points_to_data_dir(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    pretend_hub(monkeypatch, ConnectionError("Couldn't reach 'digit' on the Hub"))
    with pytest.raises(
        ValueError, match=r"'digit' is not built in \(built in: digits\) and could not be fetched.*reach.*data-dir"
    ):
        prepare("digit", None, "iid", 3, 0, cache)


def test_a_home_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.delenv("FL_MLMC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot be kept in .*file/.cache/fl-mlmc .*set FL_MLMC_CACHE"):
        default_cache()
    monkeypatch.setattr(Path, "home", _no_home)
    with pytest.raises(ValueError, match=r"no home folder.*set FL_MLMC_CACHE"):
        default_cache()
    monkeypatch.setenv("FL_MLMC_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_shared_cache_without_the_right_to_write_says_how_it_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**where: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fl_mlmc.simulations.data.datasets.tempfile.mkdtemp", refused)
    monkeypatch.setenv("FL_MLMC_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be kept in .*Permission denied.*users who share one need the right"):
        prepare("digits", None, "iid", 4, 0)
