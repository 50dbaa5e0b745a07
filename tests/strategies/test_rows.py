"""A client's row in the log, whatever came of its task."""

from fl_mlmc.models import build_model
from fl_mlmc.run.protocol import TrainTask, TrainUpdate
from fl_mlmc.strategies.roster import Seat
from fl_mlmc.strategies.round import Answer, Sent
from fl_mlmc.strategies.rows import client_row
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.tier import parse_tiers

(TIER,) = parse_tiers("phone:0.5:1:speed=0.1:up=1000:down=500")
SIZE = plan(build_model("mlp(hidden=(8,))", (4,), 3).spec, "nested", 0.5)
SENT = Sent(TrainTask(2, 7, "phone", 0.5, ""), Seat(17, "seven", TIER), SIZE, downlink_bytes=300, anchor_bytes=100)
UPDATE = TrainUpdate(2, 7, "", 30, 4, 1.5, 0.1, 0.2, 640.0, [3], [0.25], [])


def test_a_dropped_clients_row_has_the_columns_of_any_and_knows_what_was_sent() -> None:
    taken = client_row(Answer(SENT, 80, 120, UPDATE, simulated_seconds=1.0), "TopK()")
    dropped = client_row(Answer(SENT, 80, 120, reason="no reply in time"), "TopK()")
    assert list(taken) == list(dropped)
    assert (taken["status"], dropped["status"]) == ("ok", "dropped: no reply in time")
    told = {name for name in taken if dropped[name] is None}
    assert told == {
        *("num_examples", "level", "probability", "expected_bits"),
        *("train_seconds", "encode_seconds", "simulated_seconds", "train_loss"),
    }
    alike = taken.keys() - told - {"status"}
    assert {name: dropped[name] for name in alike} == {name: taken[name] for name in alike}
    assert dropped["payload_bytes"] == 80


def test_a_single_draw_is_a_number_and_a_device_says_what_it_compressed_with() -> None:
    row = client_row(Answer(SENT, 80, 120, UPDATE), "TopK()")
    assert (row["level"], row["probability"], row["compressor"]) == (3, 0.25, "TopK()")
    several = TrainUpdate(2, 7, "", 30, 4, 1.5, 0.1, 0.2, 640.0, [3, 1], [0.25, 0.5], [], compressor="TopK(count=1)")
    row = client_row(Answer(SENT, 80, 120, several), "TopK()")
    assert (row["level"], row["probability"], row["compressor"]) == ([3, 1], [0.25, 0.5], "TopK(count=1)")
    assert (
        client_row(Answer(SENT, 80, 120, TrainUpdate(2, 7, "", 1, 1, 0.0, 0.0, 0.0, 0.0, [], [], [])), "")["level"]
        is None
    )
