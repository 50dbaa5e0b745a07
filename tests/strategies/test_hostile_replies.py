"""A reply is judged inside one boundary: whatever it holds or raises costs its own client, and the row says why."""

import math
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_mlmc.compression.blocks import Payload, SparseBlock
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.testing import SETTINGS, Trial, edited
from fl_mlmc.strategies import tiered
from fl_mlmc.testing import sealed


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    folder = tmp_path_factory.mktemp("trials")
    return {name: Trial(folder / name, changes) for name, changes in SETTINGS.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_good_reply_is_taken(trials: dict[str, Trial], setting: str) -> None:
    assert trials[setting].round(lambda task, good: [good])["status"] == "ok"


LIES: list[tuple[str, dict[str, Any], str]] = [
    ("plain", {"compressor": "TopK(fraction={[]:1})"}, r"option '\{\[\]: 1\}' is not a number"),
    ("plain", {"compressor": "-" * 199 + "1"}, "compressor '-+1' is not of the form|nested|deep"),
    ("plain", {"compressor": "TopK(fraction='a')"}, "TopK.s fraction is a number in"),
    ("plain", {"compressor": "TopK(fraction=0.5)\n"}, "expected str of at most 200 printable characters"),
    ("plain", {"server-round": -1}, "server-round = -1, expected int from 0 to 2147483648"),
    ("plain", {"client": 2**63}, "client = 9223372036854775808, expected int"),
    ("plain", {"client": 10**5000}, "client = a number of too many digits to show, expected int"),
    ("plain", {"num-steps": 2**31 + 1}, "num-steps = 2147483649, expected int from 0 to 2147483648"),
    ("plain", {"train-loss": math.inf}, "train-loss = inf, expected float"),
    ("plain", {"train-loss": math.nan}, "train-loss = nan, expected float"),
    ("plain", {"train-seconds": -1.0}, "train-seconds = -1.0, expected float from 0 to 1000000000"),
    ("plain", {"train-seconds": math.nan}, "train-seconds = nan"),
    ("plain", {"encode-seconds": math.inf}, "encode-seconds = inf"),
    ("plain", {"expected-bits": -0.5}, "expected-bits = -0.5, expected float from 0"),
    ("plain", {"levels": [0]}, r"levels = \[0\], expected list of at most 254 items, each int from 1 to 2147483648"),
    ("plain", {"levels": [True]}, r"levels = \[True\], expected list"),
    ("plain", {"levels": [1] * 255}, "levels = .*, expected list of at most 254 items"),
    ("plain", {"probabilities": [math.nan]}, r"probabilities = \[nan\], expected list .*, each float above 0 to 1"),
    ("plain", {"probabilities": [-5.0]}, r"probabilities = \[-5.0\], expected list"),
    ("plain", {"probabilities": [7.0]}, r"probabilities = \[7.0\], expected list"),
    ("plain", {"probabilities": [0.0]}, r"probabilities = \[0.0\], expected list"),
    ("plain", {"failure": 3}, "TrainFailure has failure = 3, expected str"),
    ("plain", {"code-stamp": "\x1b[2J"}, r"code-stamp = '\\x1b\[2J', expected str of at most 100 printable"),
    ("labels", {"labels": [-1]}, r"labels = \[-1\], expected list of at most 1000000 items, each int from 0"),
    ("labels", {"labels": [3]}, r"labels lie below 3, at least one, got \[3\]"),
    ("labels", {"labels": ["a"]}, r"labels = \['a'\], expected list"),
    ("labels", {"num-examples": 1001}, "declares 1001 examples, 1 to 1000 are allowed"),
    ("bilevel", {"curvature": -1e300}, r"curvature = -1e\+300, expected float from -3.4028235e\+38 to inf"),
    ("bilevel", {"curvature": -math.inf}, "curvature = -inf, expected float"),
    ("bilevel", {"curvature": math.nan}, "curvature = nan, expected float"),
]


@pytest.mark.parametrize(
    ("setting", "facts", "reason"), LIES, ids=lambda value: ",".join(value) if isinstance(value, dict) else value[:40]
)
def test_a_fact_out_of_its_range_costs_the_reply(
    trials: dict[str, Trial], setting: str, facts: dict[str, Any], reason: str
) -> None:
    row = trials[setting].round(lambda task, good: [edited(task, good, facts)])
    assert re.search(f"^dropped: .*({reason})", row["status"])


@pytest.mark.parametrize("setting", SETTINGS)
def test_four_blocks_whose_sum_leaves_float32_cost_the_reply(trials: dict[str, Trial], setting: str) -> None:
    def replies(task: Message, good: Message) -> Iterable[Message]:
        [size] = good.content.array_records["arrays"]["payload"].shape
        block = encode_payload(Payload(size, (SparseBlock(size, torch.tensor([1]), torch.tensor([3e38])),)))[14:]
        forged = sealed(b"MLMC" + struct.pack("<BBII", 1, 4, size, 0) + 4 * block)
        return [edited(task, good, payload=forged)]

    row = trials[setting].round(replies)
    assert re.search("^dropped: .*finite", row["status"])


def test_a_reply_may_call_itself_what_it_likes(trials: dict[str, Trial]) -> None:
    def replies(task: Message, good: Message) -> Iterable[Message]:
        good.metadata.__dict__["_group_id"] = "1/" + "9" * 5000
        return [good]

    assert trials["plain"].round(replies)["status"] == "dropped: no reply in time"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (RecordDict(), "no config record 'config'"),
        (RecordDict({CONFIG: MetricRecord({"client": 1})}), "no config record 'config'"),
        (RecordDict({CONFIG: ConfigRecord({"levels": []})}), "it holds an empty list"),
        (RecordDict({CONFIG: ConfigRecord({"a": ""})}), "Config values must be|has server-round = None"),
        (Error(2**31 - 1, "\x1b[2J\n" * 1000), r"error 2147483647: '\\x1b\[2J'"),
        (Error(0, None), "error 0: 'no reason given'"),
    ],
)
def test_records_that_are_missing_or_of_another_kind_cost_the_reply(
    trials: dict[str, Trial], content: RecordDict | Error, reason: str
) -> None:
    row = trials["plain"].round(lambda task, good: [Message(content, reply_to=task)])
    assert re.search(f"^dropped: .*({reason})", row["status"])


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no word of it")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RecursionError("too deep"), "dropped: RecursionError: too deep"),
        (MemoryError(), "dropped: MemoryError: "),
        (OverflowError("int too large"), "dropped: OverflowError: int too large"),
        (Mute(), "dropped: Mute: Mute, which does not say what it is"),
        (ValueError("a rule"), "dropped: a rule"),
    ],
)
def test_whatever_a_reply_raises_costs_it_alone(
    trials: dict[str, Trial], monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    read = tiered.read_update

    def failing(reply: Message, sent: Any, *rest: Any) -> Any:
        if sent.task.client == 1:
            raise error
        return read(reply, sent, *rest)

    monkeypatch.setattr(tiered, "read_update", failing)
    assert trials["plain"].round(lambda task, good: [good])["status"] == status


def test_ctrl_c_is_no_reply(trials: dict[str, Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiered, "read_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trials["plain"].round(lambda task, good: [good])


@pytest.mark.parametrize("curvature", [-3e38, math.inf, 3e38])
def test_no_client_alone_ends_a_bilevel_run_by_what_it_says_of_the_curvature(tmp_path: Path, curvature: float) -> None:
    trial = Trial(tmp_path / "bilevel", SETTINGS["bilevel"])
    for _ in range(10):
        row = trial.round(lambda task, good: [edited(task, good, {"curvature": curvature})])
        assert row["status"] == "ok"


def test_no_client_alone_ends_a_bilevel_run_by_saying_that_it_diverged(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "bilevel", SETTINGS["bilevel"])
    facts = {"server-round": 1, "client": 1, "failure": "the steps diverge", "curvature": -3e38}
    for _ in range(10):
        row = trial.round(lambda task, good: [Message(RecordDict({CONFIG: ConfigRecord(facts)}), reply_to=task)])
        assert row["status"] == "dropped: it says 'the steps diverge'"


def test_the_name_of_a_compressor_is_logged_as_we_write_it(trials: dict[str, Trial]) -> None:
    said = {"compressor": "  TopK( fraction = 0.5 )  # as good as any"}
    row = trials["plain"].round(lambda task, good: [edited(task, good, said)])
    assert (row["status"], row["compressor"]) == ("ok", "TopK(fraction=0.5)")
