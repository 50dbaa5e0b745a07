"""Tables of numbers, numpy's files, functions of one's own: what is trained on is what was given, or it is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from pyarrow import parquet

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.device_data import DeviceData
from fl_mlmc.clients.tables import DataError, read_csv
from fl_mlmc.simulations.data.datasets import prepare

RNG = np.random.default_rng(0)
AGES, SIZES = RNG.integers(20, 80, 30), RNG.normal(1000, 300, 30).round(2)
RENTS = (SIZES * 2 + AGES).round(1)
FRAME = pd.DataFrame({"age": AGES, "size": SIZES, "rent": RENTS, "town": [f"t{n % 3}" for n in range(30)]})


def opened(dataset: Path | str, cache: Path, partition: str = "iid", clients: int = 3, **wanted: Any) -> FederatedData:
    return FederatedData.open(prepare(str(dataset), None, partition, clients, 0, cache, **wanted))


REGRESSION: dict[str, Any] = {
    "targets": "reals",
    "target_columns": ("rent",),
    "feature_columns": ("age", "size"),
    "test_share": 0.2,
}


def as_csv(path: Path) -> Path:
    FRAME.to_csv(path / "flats.csv", index=False)
    return path / "flats.csv"


def as_parquet(path: Path) -> Path:
    FRAME.to_parquet(path / "flats.parquet")
    return path / "flats.parquet"


def as_saved(path: Path) -> Path:
    Dataset.from_pandas(FRAME).save_to_disk(path / "saved")
    return path / "saved"


def as_folder(path: Path) -> Path:
    (path / "folder").mkdir()
    FRAME.to_csv(path / "folder" / "train.csv", index=False)
    return path / "folder"


@pytest.mark.parametrize("write", [as_csv, as_parquet, as_saved, as_folder])
@pytest.mark.parametrize("is_data_dir", [False, True])
def test_every_form_of_a_table_gives_the_same_numbers(
    tmp_path: Path, write: Callable[[Path], Path], is_data_dir: bool
) -> None:
    where, cache = write(tmp_path), tmp_path / "cache"
    place = ("digits", where) if is_data_dir else (str(where), None)
    data = FederatedData.open(prepare(*place, "iid", 3, 0, cache, **REGRESSION))
    assert (data.num_train, data.num_test) == (24, 6)
    assert (data.spec.columns, data.spec.class_names) == (("age", "size"), ("rent",))
    assert (data.spec.kind, data.spec.targets, data.spec.input_shape) == ("vector", "reals", (2,))
    features, targets = data.train()
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(0), 1, rtol=1e-5)
    together = np.sort(np.concatenate([targets, data.test()[1]])[:, 0])
    np.testing.assert_allclose(together, np.sort(RENTS), rtol=1e-6)
    own = dict(zip(RENTS.astype(np.float32).tolist(), AGES.tolist(), strict=True))
    ages = np.array([own[float(rent)] for rent in targets[:, 0]])
    np.testing.assert_allclose(features[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-4, atol=1e-5)


def test_the_test_rows_are_no_matter_of_seed_and_partition(tmp_path: Path) -> None:
    where, cache = as_csv(tmp_path), tmp_path / "cache"
    first = FederatedData.open(prepare(str(where), None, "iid", 3, 0, cache, **REGRESSION))
    other = FederatedData.open(prepare(str(where), None, "by:town", 3, 5, cache, **REGRESSION))
    assert np.array_equal(first.test()[1], other.test()[1])
    assert sum(other.client_size(client) for client in range(3)) == 24


def test_by_a_column_of_numbers_does_not_train_on_it(tmp_path: Path) -> None:
    FRAME.assign(owner=[n % 4 for n in range(30)]).drop(columns="town").to_csv(tmp_path / "f.csv", index=False)
    data = opened(
        tmp_path / "f.csv", tmp_path / "c", "by:owner", 4, targets="reals", target_columns=("rent",), test_share=0.2
    )
    assert data.spec.columns == ("age", "size")


def test_features_of_several_kinds_are_refused_and_not_dropped(tmp_path: Path) -> None:
    wanted = {**REGRESSION, "feature_columns": ("age", "town")}
    with pytest.raises(DataError, match=r"features names texts \(town\) beside numbers \(age\); a model takes one"):
        opened(as_csv(tmp_path), tmp_path / "cache", **wanted)


def test_a_table_is_classified_by_its_label(tmp_path: Path) -> None:
    FRAME.drop(columns="town").assign(label=["cheap", "dear"] * 15).to_csv(tmp_path / "f.csv", index=False)
    data = opened(tmp_path / "f.csv", tmp_path / "cache", "dirichlet:5", test_share=0.2)
    assert (data.spec.columns, data.spec.class_names) == (("age", "size", "rent"), ("cheap", "dear"))
    assert data.spec.targets == "classes"


def test_flags_are_columns_or_lists_of_classes(tmp_path: Path) -> None:
    frame = FRAME.drop(columns="town").assign(a=[0, 1] * 15, b=[1, 1, 0] * 10)
    frame.to_csv(tmp_path / "f.csv", index=False)
    wanted: dict[str, Any] = {"targets": "flags", "target_columns": ("a", "b"), "test_share": 0.2}
    data = opened(tmp_path / "f.csv", tmp_path / "cache", **wanted)
    assert data.train()[1].dtype == np.float32
    assert data.train()[1].shape == (24, 2)
    features = Features({"text": Value("string"), "labels": Sequence(ClassLabel(names=["x", "y", "z"]))})
    rows = {"text": ["a word"] * 6, "labels": [[0], [1, 2], [], [0, 2], [1], [2]]}
    split = Dataset.from_dict(rows, features=features)
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "saved")
    data = opened(tmp_path / "saved", tmp_path / "cache", targets="flags")
    assert data.spec.class_names == ("x", "y", "z")
    assert data.train()[1].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_characters_are_followed_by_the_next(tmp_path: Path) -> None:
    rows = {"text": ["abcdefgh", "xy"], "user": ["u", "v"]}
    parquet.write_table(pa.table(rows), tmp_path / "train.parquet")
    parquet.write_table(pa.table(rows), tmp_path / "test.parquet")
    where = prepare("x", tmp_path, "by:user", 2, 0, tmp_path / "cache", text="characters(length=4)", targets="tokens")
    data = FederatedData.open(where)
    features, targets = data.train()
    assert bytes(features[0].astype(np.uint8)) == b"abcd"
    assert bytes(targets[0].astype(np.uint8)) == b"bcde"
    assert features[1].tolist() == [0, 0, 0, ord("x")]
    assert targets[1].tolist() == [0, 0, ord("x"), ord("y")]
    assert (data.spec.num_classes, data.spec.target_shape) == (256, (4,))


def test_numpys_files_are_taken_as_they_are(tmp_path: Path) -> None:
    x, y = RNG.normal(5, 2, (12, 3)), RNG.normal(size=(12, 2))
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in {"train_features": x, "train_targets": y, "test_features": x[:4], "test_targets": y[:4]}.items():
        np.save(folder / f"{name}.npy", part)
    np.savez(tmp_path / "one.npz", features=x, targets=y)
    for where, share in ((tmp_path / "set.npz", 0.0), (folder, 0.0), (tmp_path / "one.npz", 0.25)):
        data = opened(where, tmp_path / "cache", targets="reals", test_share=share)
        features, targets = data.train()
        if not share:
            np.testing.assert_array_equal(features, x.astype(np.float32))
            np.testing.assert_array_equal(targets, y.astype(np.float32))
        assert data.num_test == (3 if share else 4)
    np.save(tmp_path / "tokens.npy", np.arange(20).reshape(4, 5))
    data = opened(tmp_path / "tokens.npy", tmp_path / "cache", targets="tokens", test_share=0.25)
    assert np.array_equal(data.train()[1], data.train()[0] + 1)
    assert data.spec.num_classes == 20


@pytest.mark.parametrize("last", [True, False])
def test_pixels_of_either_order_are_images(tmp_path: Path, last: bool) -> None:
    pixels = RNG.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8)
    given = pixels if last else pixels.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "set.npz", features=given, labels=[0, 1] * 4)
    data = opened(tmp_path / "set.npz", tmp_path / "cache", test_share=0.25)
    assert (data.spec.kind, data.spec.input_shape) == ("image", (3, 6, 5))
    np.testing.assert_allclose(data.train()[0].mean((0, 2, 3)), 0, atol=1e-4)


OWN = {
    "arrays": "return (X, Y), (X[:4], Y[:4])",
    "tensors": "return (torch.tensor(X), torch.tensor(Y)), (torch.tensor(X[:4]), torch.tensor(Y[:4]))",
    "a torch Dataset": "data = TensorDataset(torch.tensor(X), torch.tensor(Y)); return data, TensorDataset(*data[:4])",
    "a mapping": "return {'train': (X, Y), 'test': (X[:4], Y[:4])}",
    "with options": "return (X, Y), (X[:count], Y[:count])",
}
HEAD = """
import numpy as np, torch
from torch.utils.data import TensorDataset
X = np.arange(36, dtype=np.float32).reshape(12, 3)
Y = np.arange(12) % 3
def load(count=4):
    """


def own(folder: Path, body: str) -> str:
    (folder / "my_data.py").write_text(HEAD + body + "\n")
    return f"{folder / 'my_data.py'}:load"


@pytest.mark.parametrize("form", OWN)
def test_a_function_gives_its_splits_in_many_forms(tmp_path: Path, form: str) -> None:
    text = own(tmp_path, OWN[form]) + ("(count=4)" if form == "with options" else "")
    data = opened(text, tmp_path / "cache")
    np.testing.assert_array_equal(data.train()[0], np.arange(36).reshape(12, 3))
    assert data.train()[1].tolist() == [0, 1, 2] * 4
    assert data.num_test == 4


def test_a_function_may_give_a_hugging_face_set(tmp_path: Path) -> None:
    body = (
        "from datasets import Dataset, DatasetDict\n"
        "    rows = Dataset.from_dict({'a': [1., 2, 3], 'b': [0, 0, 1], 'label': [0, 1, 0], 'who': list('uvu')})\n"
        "    return DatasetDict(train=rows, test=rows)"
    )
    data = opened(own(tmp_path, body), tmp_path / "cache", "by:who", 2, feature_columns=("a", "b"))
    assert [data.client_size(client) for client in range(2)] == [2, 1]
    assert data.spec.columns == ("a", "b")


def test_clients_of_a_function_are_rows_or_owners(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    listed = own(tmp_path, "return (X, Y), (X, Y), [np.arange(5), np.arange(5, 12)]")
    data = opened(listed, cache, "by:client", 2)
    assert [data.client(client)[0][0, 0] for client in range(2)] == [0, 15]
    named = own(tmp_path, "return (X, Y), (X, Y), ['b'] * 5 + ['a'] * 7")
    again = opened(named, cache, "by:client", 2)
    assert [again.client_size(client) for client in range(2)] == [7, 5]


@pytest.mark.parametrize(
    ("body", "wanted", "message"),
    [
        ("return 3", {}, r"my_data.py:load gives one int; expected \(train, test\)"),
        ("return (X, Y)", {}, "has no labelled test or validation split. Set test-share"),
        ("return (X, Y), (X, Y)", {"test_share": 0.2}, "has a test split of its own: leave test-share at 0"),
        ("return (X, Y[:5]), (X, Y)", {}, r"\(train\) has 12 examples and 5 targets"),
        ("return (X, X[:, 0]), (X, Y)", {}, "has targets float32 of shape .* For numbers take objective 'mse'"),
        ("return (X * np.nan, Y), (X, Y)", {}, r"\(train\) row 0 has nan among its features; expected finite"),
        ("return (X, Y), (X[:, :2], Y)", {}, r"\(test\) has features float32 of shape \(12, 2\)"),
        ("return (X, Y), (X, Y + 1)", {}, r"\(test\) row 2 has the class 3, which is not among the 3 classes"),
        ("return (X, Y), (X, Y)", {"targets": "flags"}, r"\(train\) row 2 has the target 2; expected 0 or 1"),
        ("return (X, Y), (X, Y), [[0, 1], [1, 2]]", {}, "gives row 1 to 2 clients; expected one owner"),
        ("return (X, Y), (X, Y), [0, 1]", {}, r"clients of type int64 and shape \(2,\); expected an owner for each"),
        ("return (X, Y), (X, Y)", {"partition": "by:client"}, "has no column 'client' to share rows out by"),
        ("return (X[0], Y), (X, Y)", {}, r"has features of shape \(3,\); expected \(examples, numbers\)"),
        ("return {'test': (X, Y)}", {}, "has no train split; splits seen: test"),
        ("return [1][3]", {}, r"^\S*my_data\.py, line 7, in load: IndexError: list index out of range"),
        ("import nowhere_at_all", {}, r"^\S*my_data\.py, line 7, in load: ModuleNotFoundError"),
    ],
)
def test_what_a_function_gives_wrongly_is_named(tmp_path: Path, body: str, wanted: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(own(tmp_path, body), tmp_path / "cache", **wanted)


def test_what_a_torch_dataset_raises_is_told_with_its_line(tmp_path: Path) -> None:
    body = """return Bad(), Bad()
class Bad:
    def __len__(self): return 3
    def __getitem__(self, row): return (X[row], Y[row] / (1 if row < 2 else None))"""
    with pytest.raises(DataError, match=r"^\S*my_data\.py, line 10, in __getitem__: TypeError"):
        opened(own(tmp_path, body), tmp_path / "cache")


def wrong_csv(folder: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("a,label\n1,0\n,1\n3,0\n", {}, r"t.csv column 'a' row 1 \(line 3\) is empty"),
        ("a,label\n1,0\nnan,1\n3,0\n", {}, r"t.csv column 'a' row 1 \(line 3\) holds 'nan', which is not finite"),
        ("a,y\n1,0\n2,1\n", {}, "no label column; .* or name it: targets = 'COLUMN'"),
        ("a,y\n1,0\n2,1\n", {"target_columns": ("z",)}, "has no column 'z'; columns seen: a, y"),
        ("a,y\n1,0\n2,1\n", {"target_columns": ("a", "y")}, "targets names a, y; one class an example stands in one"),
        (
            "a,y\n1,0\n2,x\n",
            {"targets": "reals", "target_columns": ("y",)},
            "'y' row 1 .* holds 'x', which is no number",
        ),
        ("a,y\n1,0\n2,2\n", {"targets": "flags", "target_columns": ("y",)}, "'y' row 1 .* holds 2; expected 0 or 1"),
        ("a,y\n1,0\n2,1\n", {"target_columns": ("y",), "feature_columns": ("y",)}, "is named by both"),
        ("a,b,y\n1,u,0\n2,v,1\n", {"targets": "reals", "target_columns": ("y",)}, r"texts \(b\) beside numbers; .*'a'"),
        ("a,y\n1,0\n2,1\n", {"targets": "tokens"}, "set text = 'characters'"),
    ],
)
def test_what_a_table_holds_wrongly_is_named(tmp_path: Path, text: str, wanted: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(wrong_csv(tmp_path, text), tmp_path / "cache", clients=1, **{"test_share": 0.34, **wanted})


def test_rows_that_are_taken_keep_their_places(tmp_path: Path) -> None:
    table = read_csv(wrong_csv(tmp_path, "a\n" + "\n".join(map(str, range(3000))) + "\n"))
    rows = np.sort(np.random.default_rng(1).permutation(3000)[:1500])
    taken = table.taken(rows)
    assert taken.numbers("a").tolist() == rows.tolist()
    assert taken.origin("a", 7).row == rows[7]
    assert taken.taken(np.array([3, 9])).numbers("a").tolist() == [rows[3], rows[9]]


def test_another_content_is_another_set_whatever_its_name_and_size(tmp_path: Path) -> None:
    seen = set()
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for write in (as_csv, as_parquet):
            path = write(tmp_path / name)
            seen.add(prepare(str(path), None, "iid", 2, 0, tmp_path / "cache", **REGRESSION))
        where = tmp_path / name / "set.npz"
        np.savez(where, features=np.full((4, 2), number), labels=[0, 1, 0, 1])
        seen.add(prepare(str(where), None, "iid", 2, 0, tmp_path / "cache", test_share=0.5))
        seen.add(
            prepare(own(tmp_path / name, f"return (X + {number}, Y), (X, Y)"), None, "iid", 2, 0, tmp_path / "cache")
        )
    assert len(seen) == 8


def test_a_function_is_known_by_what_it_gives(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = prepare(own(tmp_path, "return (X, Y), (X, Y)"), None, "iid", 2, 0, cache)
    assert prepare(own(tmp_path, "return (X + 0, Y), (X, Y)  # said otherwise"), None, "iid", 2, 0, cache) == first
    (tmp_path / "numbers.txt").write_text("1")
    reads = own(tmp_path, f"return (X + float(open({str(tmp_path / 'numbers.txt')!r}).read()), Y), (X, Y)")
    second = prepare(reads, None, "iid", 2, 0, cache)
    (tmp_path / "numbers.txt").write_text("2")
    assert len({first, second, prepare(reads, None, "iid", 2, 0, cache)}) == 3
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_relative_folder_is_the_one_that_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, shift in (("a", 0), ("b", 100)):
        (tmp_path / name / "flats").mkdir(parents=True)
        FRAME.assign(rent=RENTS + shift).to_csv(tmp_path / name / "flats" / "train.csv", index=False)
        os.utime(tmp_path / name / "flats" / "train.csv", (1, 1))
        monkeypatch.chdir(tmp_path / name)
        found.append(opened("flats", tmp_path / "cache", **REGRESSION).test()[1])
    np.testing.assert_allclose(found[1], found[0] + 100, rtol=1e-5)


def test_a_device_reads_a_table_by_the_names_of_its_columns(tmp_path: Path) -> None:
    data = opened(as_csv(tmp_path), tmp_path / "cache", **REGRESSION)
    FRAME[["rent", "size", "town", "age"]].to_csv(tmp_path / "own.csv", index=False)
    device = DeviceData.open(tmp_path / "own.csv", data.meta)
    features, targets = device.client(0)
    assert device.spec == data.spec
    np.testing.assert_allclose(targets[:, 0], RENTS, rtol=1e-6)
    rows = {float(rent): number for number, rent in enumerate(targets[:, 0])}
    places = [rows[float(rent)] for rent in data.train()[1][:, 0]]
    np.testing.assert_allclose(features[places], data.train()[0], rtol=1e-5, atol=1e-5)
    FRAME[["size", "age"]].to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(DataError, match="has no column 'rent'"):
        DeviceData.open(tmp_path / "less.csv", data.meta)
