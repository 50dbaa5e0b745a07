"""What a strategy gets of a reply: the arrays that the client had, or an error that costs that client only."""

import io
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fl_mlmc.aggregation import NotFiniteError
from fl_mlmc.clients import compressed
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.compression.wire import encode_payload
from fl_mlmc.frames import read_clients
from fl_mlmc.run.coded import FACTS, UPDATE, num_bytes, pack_flags
from fl_mlmc.run.protocol import PAYLOAD, PAYLOAD_STYPE
from fl_mlmc.simulations.engines.simulated import identify_process
from fl_mlmc.strategies import Decoding
from fl_mlmc.strategies.decoded import Decoded, Rules, decode_reply

Records = Mapping[str, Mapping[str, Array]]
METRICS = MetricRecord({"num-examples": 3, "train_loss": 0.5})


@pytest.fixture(autouse=True)
def process() -> None:
    identify_process()


def asked(records: Records, node: int = 1) -> Message:
    content = {name: ArrayRecord(dict(arrays)) for name, arrays in records.items()}
    message = Message(
        RecordDict({**content, "config": ConfigRecord({"server-round": 1})}), dst_node_id=node, message_type="train"
    )
    message.metadata.__dict__["_message_id"] = str(node)
    return message


def answered(message: Message, content: RecordDict, compressor: str = "Identity()") -> Message:
    """The reply of an app whose mod compresses its `content`."""
    context = Context(1, message.metadata.dst_node_id, {"partition-id": 7}, RecordDict(), {})
    return compressed(compressor)(message, context, lambda message, context: Message(content, reply_to=message))


def exchanged(before: Records, after: Records, compressor: str = "Identity()", **more: Any) -> tuple[Message, Decoded]:
    """The reply that travels, and what a strategy gets of it."""
    records = {name: ArrayRecord(dict(arrays)) for name, arrays in after.items()}
    reply = answered(asked(before), RecordDict({**records, "metrics": MetricRecord(dict(METRICS)), **more}), compressor)
    return reply, decode_reply(reply, before, Rules())


def array(values: Any, dtype: str = "float32") -> Array:
    return Array(np.asarray(values, dtype))


def bfloat16(values: torch.Tensor) -> Array:
    file = io.BytesIO()
    np.save(file, values.to(torch.bfloat16).view(torch.int16).numpy().view("V2"))
    return Array("bfloat16", tuple(values.shape), "numpy.ndarray", file.getvalue())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_of_floating_point_come_back_in_their_dtype(dtype: str) -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal((6, 5)).astype(dtype)
    after = (before + 0.1 * rng.standard_normal((6, 5))).astype(dtype)
    reply, decoded = exchanged({"arrays": {"w": Array(before)}}, {"arrays": {"w": Array(after)}})
    assert list(reply.content.array_records["arrays"]) == []
    found = decoded.content.array_records["arrays"]["w"].numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found, after, rtol=1e-3 if dtype == "float16" else 1e-6, atol=1e-7)


def test_bfloat16_comes_back_as_its_bits() -> None:
    before, after = torch.linspace(-1, 1, 12).reshape(3, 4), torch.linspace(0, 2, 12).reshape(3, 4)
    reply, decoded = exchanged({"a": {"w": bfloat16(before)}}, {"a": {"w": bfloat16(after)}})
    assert UPDATE in reply.content
    assert decoded.content.array_records["a"]["w"].data == bfloat16(after).data


def test_an_app_that_sends_float32_of_a_bfloat16_model_is_understood() -> None:
    before = array(np.linspace(-1, 1, 5))
    after = Array(torch.linspace(0, 2, 5).to(torch.bfloat16).float())
    _, decoded = exchanged({"a": {"w": before}}, {"a": {"w": after}})
    np.testing.assert_allclose(decoded.content.array_records["a"]["w"].numpy(), after.numpy(), rtol=1e-6)
    _, decoded = exchanged({"a": {"w": before}}, {"a": {"w": array(after.numpy(), "float16")}})
    assert decoded.content.array_records["a"]["w"].dtype == "float32"


def test_digits_that_an_app_never_had_are_no_update() -> None:
    before = {"a": {"w": array([0.1, 0.2], "float64"), "frozen": array([0.3], "float64")}}
    after = {"a": {"w": array([0.1, 0.7], "float32"), "frozen": array([0.3], "float32")}}
    reply, decoded = exchanged(before, after)
    assert reply.content.array_records[UPDATE][PAYLOAD].shape == (2,)
    assert decoded.content.array_records["a"]["frozen"].numpy() == 0.3
    assert decoded.content.array_records["a"]["w"].numpy() == pytest.approx([0.1, 0.7], abs=1e-7)
    # Flower's count of what the app sent, which was float32
    assert decoded.plain_bytes == 2 * 128 + 12 + len("wfrozen") + len("num-examplestrain_loss") + 16


def test_whole_numbers_travel_as_they_are_and_what_is_as_it_was_does_not_travel() -> None:
    before = {"w": array([1, 2]), "frozen": array([3, 4]), "seen": array(5, "int64"), "mask": array([True], "bool")}
    after = before | {"w": array([1, 3]), "seen": array(6, "int64")}
    reply, decoded = exchanged({"arrays": before}, {"arrays": after})
    assert list(reply.content.array_records["arrays"]) == ["seen"]
    assert reply.content.array_records[UPDATE][PAYLOAD].shape == (2,)
    arrays = decoded.content.array_records["arrays"]
    assert {key: array.numpy().tolist() for key, array in arrays.items()} == {
        "w": [1, 3], "frozen": [3, 4], "seen": 6, "mask": [True],
    }  # fmt: skip
    assert list(arrays) == list(before)
    # once averaged, a count is a float, and the next one a whole number again
    _, decoded = exchanged({"a": {"seen": array(5.5, "float64")}}, {"a": {"seen": array(6, "int64")}})
    assert decoded.content.array_records["a"]["seen"].numpy() == 6


def test_statistics_of_batch_norm_travel_as_they_are() -> None:
    before = {"bn.weight": array([1, 1]), "bn.running_var": array([1, 1]), "bn.running_mean": array([0, 0])}
    after = {"bn.weight": array([2, 1]), "bn.running_var": array([0, 3]), "bn.running_mean": array([0, 0])}
    reply, decoded = exchanged({"a": before}, {"a": after}, "MLMC(TopK(fraction=0.5))")
    assert list(reply.content.array_records["a"]) == ["bn.running_var"]
    assert decoded.content.array_records["a"]["bn.running_var"].numpy().tolist() == [0, 3]


def test_bytes_are_counted_as_flower_counts_them_and_empty_texts_too() -> None:
    facts = ConfigRecord({"a": 1, "b": 2.0, "c": True, "d": "text", "e": b"123", "f": [1, 2], "g": ["x", "yz"]})
    records = [facts, ArrayRecord({"w": array([1, 2])}), MetricRecord({"l": [1.0, 2.0]})]
    assert num_bytes(records) == sum(record.count_bytes() for record in records)
    before = {"a": {"w": array([1, 2])}}
    _, decoded = exchanged(before, {"a": {"w": array([1, 3])}}, note=ConfigRecord({"text": "", "list": [""]}))
    assert decoded.content.config_records["note"]["text"] == ""


def test_an_empty_update_has_no_payload() -> None:
    before = {"arrays": {"w": array([1, 2]), "none": array(np.zeros((0, 3)))}}
    reply, decoded = exchanged(before, before)
    assert UPDATE not in reply.content
    assert decoded.content.array_records["arrays"]["w"].numpy().tolist() == [1, 2]
    assert decoded.content.array_records["arrays"]["none"].shape == (0, 3)


def test_arrays_that_are_not_contiguous_come_back() -> None:
    before = np.arange(6, dtype=np.float32).reshape(2, 3)
    after = torch.tensor([[1.0, 2], [3, 4], [5, 6]]).T  # Fortran's order, in its file too
    _, decoded = exchanged({"a": {"w": Array(before)}}, {"a": {"w": Array(after)}})
    assert decoded.content.array_records["a"]["w"].numpy().tolist() == after.tolist()
    plain = Message(RecordDict({"a": ArrayRecord({"w": Array(after)}), "m": METRICS}), reply_to=asked({}))
    found = decode_reply(plain, {"a": {"w": Array(before)}}, Rules())
    assert found.content.array_records["a"]["w"].numpy().tolist() == after.tolist()


def test_several_records_and_names_of_ones_own() -> None:
    before = {"model": {"w": array([1, 2])}, "control": {"w": array([0, 0])}}
    after = {"control": {"w": array([5, 6])}, "model": {"w": array([3, 4])}, "own": {"x": array([7], "int32")}}
    reply, decoded = exchanged(before, after, note=ConfigRecord({"text": "as it is"}))
    assert reply.content.array_records[UPDATE][PAYLOAD].shape == (4,)
    got = decoded.content.array_records
    assert {name: {key: array.numpy().tolist() for key, array in got[name].items()} for name in got} == {
        "control": {"w": [5, 6]}, "model": {"w": [3, 4]}, "own": {"x": [7]},
    }  # fmt: skip
    assert list(decoded.content) == ["control", "model", "own", "metrics", "note"]
    _, decoded = exchanged({"sent": {"w": array([1])}}, {"came": {"w": array([2])}})
    assert decoded.content.array_records["came"]["w"].numpy().tolist() == [2]


def test_only_part_of_the_arrays_comes_back() -> None:
    _, decoded = exchanged({"a": {"base": array([1]), "adapter": array([2])}}, {"a": {"adapter": array([3])}})
    assert list(decoded.content.array_records["a"]) == ["adapter"]


def test_the_mod_lets_errors_and_other_messages_pass() -> None:
    message = asked({"a": {"w": array([1])}})
    context, mod = Context(1, 1, {}, RecordDict(), {}), compressed("Identity()")
    failed = mod(message, context, lambda message, context: Message(Error(2, "no data"), reply_to=message))
    assert failed.error.reason == "no data"
    query = Message(RecordDict({"a": ArrayRecord({"w": array([1])})}), dst_node_id=1, message_type="query.who")
    query.metadata.__dict__["_message_id"] = "2"
    same = RecordDict({"a": ArrayRecord({"w": array([2])})})
    assert mod(query, context, lambda message, context: Message(same, reply_to=message)).content is same


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ({"w": array([1, math.nan])}, "must be finite, 1 of 2"),
        ({"w": array([1])}, r"came with shape \(2,\) and leaves with shape \(1,\)"),
    ],
)
def test_the_mod_refuses_what_no_payload_can_hold(after: dict[str, Array], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        exchanged({"a": {"w": array([1, 2])}}, {"a": after})


def test_the_mod_refuses_a_message_that_tells_no_round() -> None:
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ValueError, match="server-round"):
        compressed("Identity()")(message, Context(1, 1, {}, RecordDict(), {}), lambda message, context: message)
    with pytest.raises(ValueError, match="unknown compressor"):
        compressed("TopKay(fraction=0.1)")


def test_draws_are_of_the_seed_the_round_and_the_client() -> None:
    before, after = {"a": {"w": array(np.zeros(50))}}, RecordDict({"a": ArrayRecord({"w": array(np.arange(50) + 1.0)})})

    def sent(seed: int = 0, server_round: int = 1, client: int = 0) -> bytes:
        message = asked(before)
        message.content["config"]["server-round"] = server_round  # type: ignore[index, assignment]
        context = Context(1, 1, {"partition-id": client}, RecordDict(), {})
        content = RecordDict({"a": ArrayRecord(dict(after.array_records["a"]))})
        mod = compressed("RandK(fraction=0.1)", seed)
        reply = mod(message, context, lambda message, context: Message(content, reply_to=message))
        return reply.content.array_records[UPDATE][PAYLOAD].data

    assert sent() == sent()
    assert len({sent(), sent(seed=1), sent(server_round=2), sent(client=1)}) == 4


# One client of four replies as it likes.

BEFORE: Records = {"arrays": {"w": array(np.zeros((3, 2))), "b": array([1, 1]), "seen": array(0, "int64")}}
AFTER: Records = {"arrays": {"w": array(np.ones((3, 2))), "b": array([2, 1]), "seen": array(1, "int64")}}
Edit = Callable[[RecordDict], object]


def facts(**changes: Any) -> Edit:
    def edit(content: RecordDict) -> None:
        content[FACTS] = ConfigRecord({**content.config_records[FACTS], **changes})

    return edit


def without(key: str) -> Edit:
    return lambda content: content.config_records[FACTS].__delitem__(key)


def payload(values: Any, **changes: Any) -> Edit:
    data = encode_payload(Payload(len(values), (DenseBlock(torch.tensor(values, dtype=torch.float32)),)))
    fields = {"dtype": "float32", "shape": (len(values),), "stype": PAYLOAD_STYPE, "data": data} | changes
    return lambda content: content.__setitem__(UPDATE, ArrayRecord({PAYLOAD: Array(**fields)}))


def with_array(key: str, value: Array, record: str = "arrays") -> Edit:
    def edit(content: RecordDict) -> None:
        arrays = dict(content.array_records[record]) if record in content else {}
        content[record] = ArrayRecord({**arrays, key: value})

    return edit


def metrics(**changes: Any) -> Edit:
    values = {key.replace("_examples", "-examples"): value for key, value in changes.items()}
    return lambda content: content.__setitem__("metrics", MetricRecord({**METRICS, **values}))


def plain(**changes: Array) -> Edit:
    def edit(content: RecordDict) -> None:
        del content[FACTS], content[UPDATE]
        content["arrays"] = ArrayRecord({**AFTER["arrays"], **changes})

    return edit


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
PICKLE = "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }"

HOSTILE: dict[str, tuple[Edit, str]] = {
    "no facts": (lambda content: content.__delitem__(FACTS), "has a record 'fl_mlmc.update' and none"),
    "facts of another kind": (lambda content: content.__setitem__(FACTS, ArrayRecord()), "is no config record"),
    "flags short": (without("coded"), "flags take 0 bytes, those of the 3 arrays"),
    "flags long": (facts(kept=b"\0\0"), "its flags take 2 bytes"),
    "flags of a count": (facts(coded=pack_flags([True, True, True])), "codes array 'seen', which is not of"),
    "flags for more": (facts(coded=pack_flags([True, False, False])), r"'fl_mlmc.payload/1' and \(6,\)"),
    "flags twice": (facts(kept=pack_flags([True, False, False])), "tells of array 'w' in more than one way"),
    "nothing coded": (facts(coded=b"\0"), "says that no array is coded"),
    "no record": (lambda content: content.__delitem__("arrays"), "speaks of arrays of record 'arrays'"),
    "client": (facts(client=-1), "CodedUpdate has client = -1"),
    "text": (facts(compressor="\x1b[2J"), "compressor"),
    "level": (facts(levels=[0]), "levels = "),
    "no payload": (lambda content: content.__delitem__(UPDATE), "its payload has no array"),
    "short": (payload([1.0] * 7), r"shape \(7,\), expected"),
    "declared shape": (payload([1.0] * 7, shape=(8,)), "describes 7 coordinates, expected 8"),
    "declared dtype": (payload([1.0] * 8, dtype="float64"), "dtype 'float64'"),
    "torn": (payload([1.0] * 8, data=b"MLMC"), "header alone needs"),
    "large": (payload([1e30] * 8), r"array 'w' has a coordinate of 1e\+30"),
    "bytes": (with_array("seen", Array("int64", (), "numpy.ndarray", b"PK\3\4")), "is no .npy file"),
    "huge": (with_array("seen", Array("int64", (), "numpy.ndarray", npy(HUGE))), r"of shape \(1000000000000,\)"),
    "huge, declared": (
        with_array("x", Array("float32", (10**12,), "numpy.ndarray", npy(HUGE))), "takes 4000000000000 bytes, 0 are",
    ),
    "pickle": (with_array("x", Array("object", (2,), "numpy.ndarray", npy(PICKLE, b"cos\nsystem"))), "holds object of"),
    "stype": (with_array("x", Array("float32", (2,), "torch", b"")), "stype 'torch'"),
    "shape": (with_array("seen", array([1], "int64")), r"shape \(1,\), expected 'numpy.ndarray' and \(\)"),
    "own array": (with_array("x", array([1])), "not those of most replies, .*'x'"),
    "own record": (with_array("x", array([1]), record="mine"), "not those of most replies, .*mine"),
    "own, not finite": (with_array("x", array([math.inf])), "not finite"),
    "own metric": (metrics(mine=1.0), "not those of most replies, .*mine"),
    "longer metric": (metrics(train_loss=[1.0, 2.0]), "not those of most replies, .*train_loss"),
    "two metric records": (lambda content: content.__setitem__("more", MetricRecord({"a": 1})), "not those of most"),
    "no weight": (lambda content: content.__setitem__("metrics", MetricRecord({"a": 1})), "num-examples = None"),
    "weight 0": (metrics(num_examples=0), "num-examples = 0, expected a number up to"),
    "weight below": (metrics(num_examples=-5), "num-examples = -5"),
    "weight large": (metrics(num_examples=2**40), "num-examples = 1099511627776"),
    "weight infinite": (metrics(num_examples=math.inf), "num-examples = inf"),
    "weight of lists": (metrics(num_examples=[1, 2]), r"num-examples = \[1, 2\]"),
    "metric not finite": (metrics(train_loss=math.nan), "metric 'train_loss' is not finite"),
    "metric of digits": (metrics(train_loss=10**400), "int too large"),
    "empty list": (metrics(train_loss=[]), "not those of most replies"),
    "plain, shape": (plain(w=array(np.ones((2, 3)))), r"shape \(2, 3\), expected 'numpy.ndarray' and \(3, 2\)"),
    "plain, not finite": (plain(w=array(np.full((3, 2), math.nan))), "array 'w' has a coordinate of nan"),
    "plain, file": (plain(w=Array("float32", (3, 2), "numpy.ndarray", npy(PICKLE))), "holds object of"),
}  # fmt: skip


def one_round(tmp_path: Path, edit: Edit | None, strategy: Any = None, **options: Any) -> tuple[Any, Any]:
    """The arrays after a round of four clients, of which node 1 replies as `edit` says; and the clients' rows."""

    class Nodes:
        def get_node_ids(self) -> list[int]:
            return [1, 2, 3, 4]

    decoding = Decoding(strategy or FedAvg(), log=tmp_path / "run", **options)
    messages = decoding.configure_train(1, ArrayRecord(dict(BEFORE["arrays"])), ConfigRecord(), Nodes())  # type: ignore
    replies = []
    for message in messages:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = str(node)
        content = RecordDict({"arrays": ArrayRecord(dict(AFTER["arrays"])), "metrics": MetricRecord(dict(METRICS))})
        reply = answered(message, content)
        if node == 1 and edit is not None:
            edit(reply.content)
        replies.append(reply)
    arrays, _ = decoding.aggregate_train(1, replies)
    return arrays, read_clients(tmp_path / "run").set_index("node")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reply_that_breaks_a_rule_costs_its_own_client_only(tmp_path: Path, name: str) -> None:
    edit, why = HOSTILE[name]
    arrays, rows = one_round(tmp_path, edit)
    assert rows["status"].drop("1").tolist() == ["ok"] * 3
    assert re.search(f"^dropped: .*({why})", rows["status"]["1"]), rows["status"]["1"]
    assert arrays["w"].numpy() == pytest.approx(np.ones((3, 2)))
    assert arrays["seen"].numpy() == pytest.approx(1)


@pytest.mark.parametrize("edit", [None, plain(), metrics(train_loss=7), facts(client=10**18)])
def test_a_reply_that_breaks_none_is_taken(tmp_path: Path, edit: Edit | None) -> None:
    _, rows = one_round(tmp_path, edit)
    assert rows["status"].tolist() == ["ok"] * 4


def test_limits_of_ones_own(tmp_path: Path) -> None:
    _, rows = one_round(tmp_path / "a", payload([3.0] * 8), max_update_norm=5.0)
    assert rows["status"]["1"] == "dropped: its update has norm 8.485, 5 is allowed"
    _, rows = one_round(tmp_path / "b", metrics(num_examples=4), max_examples=3)
    assert rows["status"]["1"].endswith("num-examples = 4, expected a number up to 3")


def test_a_private_round_with_a_dropped_reply_is_skipped(tmp_path: Path) -> None:
    # the noise is sized for all that were sampled: Flower skips a round with an error, and so it does here
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 4)
    assert one_round(tmp_path / "a", metrics(num_examples=0), strategy)[0] is None
    assert one_round(tmp_path / "b", None, strategy)[0] is not None


def test_a_model_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    class Careless(FedAvg):
        def aggregate_train(self, *args: Any) -> Any:
            return ArrayRecord({"w": array([math.inf])}), None

    with pytest.raises(NotFiniteError, match="array 'w' not finite"):
        one_round(tmp_path, None, Careless())
