import math
from dataclasses import replace

import pytest

from fl_mlmc.run.protocol import ProtocolError, TrainTask, TrainUpdate, code_stamp

TASK = TrainTask(server_round=3, client=5, tier="phone", width=0.5, data="here")
UPDATE = TrainUpdate(3, 5, "stamp", 10, 4, 0.5, 0.1, 0.01, 320.0, [2], [0.25], [0, 3])


@pytest.mark.parametrize("record", [TASK, UPDATE, TrainUpdate(3, 5, "stamp", 10, 4, 0.5, 0.1, 0.01, 0.0, [], [], [])])
def test_a_record_survives_the_trip(record: TrainTask | TrainUpdate) -> None:
    assert type(record).from_config(record.to_config()) == record


def test_keys_are_dashed_and_defaults_stay_at_home() -> None:
    plain = {"server-round", "client", "tier", "width", "data"}
    assert set(TASK.to_config()) == plain
    assert set(replace(TASK, memory_round=2, cohort_size=9).to_config()) == plain | {"memory-round", "cohort-size"}
    assert "curvature" not in UPDATE.to_config()
    assert "curvature" in replace(UPDATE, curvature=math.nan).to_config()


@pytest.mark.parametrize(
    ("key", "value"),
    [("num-examples", 1.5), ("num-examples", True), ("code-stamp", 3), ("levels", "2"), ("client", 1.0)],
)
def test_a_field_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"TrainUpdate has {key} = "):
        TrainUpdate.from_config({**UPDATE.to_config(), key: value})


def test_a_missing_field_is_refused() -> None:
    with pytest.raises(ProtocolError, match="client = None"):
        TrainTask.from_config({"server-round": 3})


def test_the_code_stamp_is_stable() -> None:
    assert code_stamp() == code_stamp()
    assert len(code_stamp()) == 16
