import math
from typing import Any

import pytest

from fl_mlmc.run import protocol
from fl_mlmc.run.protocol import RosterEntry, TrainFailure, TrainTask, TrainUpdate
from fl_mlmc.run.ranges import Between, ListOf, Range, Text


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Between(0, 2**31), [0, 7, 2**31], [-1, 2**31 + 1], "from 0 to 2147483648"),
        (Between(0, 1, is_open=True), [1e-300, 1.0], [0.0, 1.1, math.nan], "above 0 to 1"),
        (Between(-1, math.inf), [-1.0, math.inf], [-1.1, -math.inf, math.nan], "from -1 to inf"),
        (Between(0, 1, or_nan=True), [math.nan], [math.inf], "from 0 to 1 or NaN"),
        (Text(3), ["", "abc", "é§漢"], ["abcd", "a\n", "\x1b"], "of at most 3 printable characters"),
        (Text(3, has_lines=True), ["a\nb"], ["abcd"], "of at most 3 characters"),
        (ListOf(int, Between(1, 9), 2), [[], [1, 9]], [[0], [1, 2, 3], [True], [1.0]],
         "of at most 2 items, each int from 1 to 9"),
    ],
)  # fmt: skip
def test_a_range_holds_what_it_says(allowed: Range, inside: list[Any], outside: list[Any], words: str) -> None:
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)
    assert str(allowed) == words


@pytest.mark.parametrize("record", [TrainTask, TrainUpdate, TrainFailure, RosterEntry])
def test_every_field_of_a_record_states_its_range_and_keeps_it_by_default(record: Any) -> None:
    for field in protocol._layout(record):
        assert isinstance(field.range, Range)
        assert field.default is None or (type(field.default) is field.kind and field.default in field.range)
