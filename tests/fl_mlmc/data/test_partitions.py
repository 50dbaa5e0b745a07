import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.data.partitions import Dirichlet, parse_partition, partition_indices

DIGITS = np.repeat(np.arange(10), 144)[:1437]  # as many rows and classes as the quickstart's train split


def shares(order: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    return np.split(order, offsets[1:-1])


def check_every_row_has_one_owner(order: np.ndarray, offsets: np.ndarray, num_rows: int, num_clients: int) -> None:
    assert (order.dtype, offsets.dtype) == (np.int64, np.int64)
    assert offsets.shape == (num_clients + 1,)
    assert (offsets[0], offsets[-1]) == (0, num_rows)
    assert (np.diff(offsets) >= 1).all()
    np.testing.assert_array_equal(np.sort(order), np.arange(num_rows))


@pytest.mark.parametrize("text", ["iid", "dirichlet:0.3", "shards:2", "by:writer id", "by:a:b"])
def test_a_rule_is_its_text(text: str) -> None:
    assert str(parse_partition(text)) == text


NOT_UNDERSTOOD = """
    IID iid:3 iid: dirichlet dirichlet: dirichlet:x dirichlet:0 dirichlet:-1 dirichlet:inf dirichlet:nan
    shards shards:0 shards:1.5 by by: random
"""


@pytest.mark.parametrize("text", ["", *NOT_UNDERSTOOD.split()])
def test_a_text_that_is_not_understood_is_an_error_that_lists_the_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed: iid, dirichlet:ALPHA .*shards:COUNT .*by:COLUMN") as caught:
        parse_partition(text)
    assert repr(text) in str(caught.value)


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), clients=st.integers(1, 60), seed=st.integers(0, 9))
def test_iid_shares_are_equal_and_cover_every_row(labels: list[int], clients: int, seed: int) -> None:
    clients = min(clients, len(labels))
    order, offsets = partition_indices(np.array(labels), "iid", clients, seed)
    check_every_row_has_one_owner(order, offsets, len(labels), clients)
    assert np.ptp(np.diff(offsets)) <= 1


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    clients=st.integers(1, 30),
    count=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_shards_cover_every_row(labels: list[int], clients: int, count: int, seed: int) -> None:
    count = min(count, len(labels))
    clients = min(clients, len(labels) // count)
    order, offsets = partition_indices(np.array(labels), f"shards:{count}", clients, seed)
    check_every_row_has_one_owner(order, offsets, len(labels), clients)
    assert np.ptp(np.diff(offsets)) <= count


def test_a_client_sees_no_more_classes_than_its_shards_span() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    order, offsets = partition_indices(labels, "shards:2", 50, seed=0)
    assert max(len(np.unique(labels[rows])) for rows in shares(order, offsets)) == 2


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ann", "bob", "cy", "di"]), min_size=1, max_size=40))
def test_by_a_column_makes_a_client_of_each_value(writers: list[str]) -> None:
    names = sorted(set(writers))
    values = np.array(writers, dtype=object)
    order, offsets = partition_indices(values, "by:writer", len(names), seed=0)
    check_every_row_has_one_owner(order, offsets, len(writers), len(names))
    assert [set(values[rows]) for rows in shares(order, offsets)] == [{name} for name in names]


def test_by_a_column_is_what_flwr_datasets_gives() -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import NaturalIdPartitioner

    values = np.random.default_rng(0).integers(0, 30, 200)
    partitioner = NaturalIdPartitioner("writer")
    partitioner.dataset = Dataset.from_dict({"writer": values, "row": np.arange(200)})
    mine = shares(*partition_indices(values, "by:writer", partitioner.num_partitions, seed=0))
    theirs = [partitioner.load_partition(client)["row"][:] for client in range(partitioner.num_partitions)]
    assert [rows.tolist() for rows in mine] == theirs


def test_iid_shares_are_as_large_as_those_of_flwr_datasets() -> None:
    from datasets import Dataset
    from flwr_datasets.partitioner import IidPartitioner

    partitioner = IidPartitioner(60)
    partitioner.dataset = Dataset.from_dict({"row": np.arange(1437)})
    _, offsets = partition_indices(DIGITS, "iid", 60, seed=0)
    assert np.diff(offsets).tolist() == [len(partitioner.load_partition(client)) for client in range(60)]


@pytest.mark.parametrize("seed", range(20))
def test_the_quickstart_partition_exists_for_any_seed(seed: int) -> None:
    order, offsets = partition_indices(DIGITS, "dirichlet:0.5", 60, seed)
    check_every_row_has_one_owner(order, offsets, len(DIGITS), 60)


def test_dirichlet_draws_again_when_a_client_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([[np.arange(3), np.arange(0)], [np.arange(2), np.arange(2, 3)]])
    monkeypatch.setattr(Dirichlet, "_draw", lambda *_: next(draws))
    order, offsets = partition_indices(np.zeros(3), "dirichlet:1", 2, seed=0)
    check_every_row_has_one_owner(order, offsets, num_rows=3, num_clients=2)


def test_a_small_alpha_skews_the_labels() -> None:
    def largest_share(alpha: float) -> float:
        order, offsets = partition_indices(DIGITS, f"dirichlet:{alpha}", 20, seed=0)
        counts = [np.bincount(DIGITS[rows], minlength=10) for rows in shares(order, offsets)]
        return float(np.mean([count.max() / count.sum() for count in counts]))

    assert largest_share(100.0) < 0.2 < 0.4 < largest_share(0.1)


@pytest.mark.parametrize(
    ("text", "num_clients"), [("iid", 60), ("dirichlet:0.5", 60), ("shards:2", 60), ("by:label", 10)]
)
def test_equal_seeds_give_equal_partitions(text: str, num_clients: int) -> None:
    first, again = (partition_indices(DIGITS, text, num_clients, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    if not text.startswith("by:"):
        assert not np.array_equal(first[0], partition_indices(DIGITS, text, num_clients, seed=4)[0])


@pytest.mark.parametrize(
    ("text", "num_clients"), [("iid", 0), ("iid", -1), ("dirichlet:0.5", 0), ("dirichlet:0.5", 5), ("shards:1", 5)]
)
def test_clients_without_a_row_are_refused(text: str, num_clients: int) -> None:
    with pytest.raises(ValueError, match=rf"num-clients is {num_clients}, expected 1 to 4"):
        partition_indices(np.zeros(4), text, num_clients, seed=0)


def test_iid_serves_more_clients_than_there_are_rows() -> None:
    order, offsets = partition_indices(DIGITS, "iid", 3 * len(DIGITS) + 1, seed=0)
    assert np.array_equal(offsets, np.arange(3 * len(DIGITS) + 2))
    assert set(np.bincount(order)) == {3, 4}


def test_a_hopeless_dirichlet_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"'dirichlet:0.01' leaves \d+ of 400 clients .*fewer clients or a larger"):
        partition_indices(DIGITS, "dirichlet:0.01", 400, seed=0)


def test_more_shards_than_rows_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"needs 8 shards for 4 clients, there are only 6 training rows. Take fewer"):
        partition_indices(np.zeros(6), "shards:2", 4, seed=0)


def test_by_a_column_names_both_numbers_when_they_differ() -> None:
    with pytest.raises(ValueError, match=r"3 distinct values in column 'writer', num-clients is 2. Set .* to 3"):
        partition_indices(np.array([5, 6, 7, 5]), "by:writer", 2, seed=0)
