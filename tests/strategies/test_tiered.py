"""The strategy against clients that behave, fail and lie, in this process."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.aggregation import NotFiniteError, Private
from fl_mlmc.clients import client_app
from fl_mlmc.clients.data import FederatedData
from fl_mlmc.compression.blocks import DenseBlock, Payload
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.log import RoundLog
from fl_mlmc.run.protocol import ARRAYS, CONFIG, PAYLOAD, payload_name
from fl_mlmc.simulations.app.prepare import prepare_data
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_state
from fl_mlmc.strategies.tiered import QuorumError, TieredStrategy, from_arrays, to_arrays
from fl_mlmc.submodels import plan
from fl_mlmc.testing import sealed

Reply = Callable[[Message, Message], Message | None]
"""What becomes of a good reply: (message, reply) -> another reply."""


def run(config: RunConfig, tamper: Reply | None = None, victims: tuple[int, ...] = ()) -> torch.Tensor:
    """Run the strategy; `tamper` rewrites the train replies of `victims`. The final model."""
    app = ClientApp()

    @app.query("roster")
    def who(message: Message, context: Context) -> Message:
        return client_app.who(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app.train(message, context)
        client = message.content.config_records[CONFIG]["client"]
        return tamper(message, reply) if tamper and client in victims else reply

    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    log = RoundLog.create(Path(config.output.runs_dir) / config.output.run_name, {})
    strategy = TieredStrategy(config, model, log, str(data))
    grid = LocalGrid(app, config.cohort.num_clients, config.to_flower())
    result = strategy.start(grid, to_arrays(model.initial(config.seed)), config.num_rounds)
    return from_arrays(result.arrays)


def directory(config: RunConfig) -> Path:
    return Path(config.output.runs_dir) / config.output.run_name


def everyone(config: RunConfig, **changes: Any) -> RunConfig:
    return config.changed(clients_per_round=config.cohort.num_clients, **changes)


def test_the_log_tells_of_every_sampled_client(small: RunConfig) -> None:
    run(small)
    clients, rounds = read_clients(directory(small)), read_rounds(directory(small))
    assert list(rounds["round"]) == [1, 2]
    assert clients.groupby("round").size().tolist() == [4, 4]
    assert (clients["status"] == "ok").all()
    assert set(clients["width"]) <= {0.5, 1.0}
    assert rounds["uplink_bytes"].tolist() == clients.groupby("round")["payload_bytes"].sum().tolist()
    assert rounds["cumulative_uplink_bytes"].tolist() == rounds["uplink_bytes"].cumsum().tolist()
    assert (clients["message_bytes"] > clients["payload_bytes"]).all()
    assert (clients["payload_bytes"] < 4 * clients["num_parameters"] / 5).all()
    assert clients["probability"].between(0, 1, inclusive="neither").all()


def test_the_log_tells_how_far_the_model_moved_and_how_many_held_a_coordinate(small: RunConfig) -> None:
    after = run(config := small.changed(num_rounds=1))
    spec = FederatedData.open(prepare_data(config)).spec
    before = build_model(config.training.model, spec.input_shape, spec.num_classes).initial(config.seed)
    clients, [row] = read_clients(directory(config)), read_rounds(directory(config)).to_dict("records")
    assert row["update_norm"] == pytest.approx(float((after - before).double().norm()), rel=1e-4)
    assert row["coverage_mean"] == clients["num_parameters"].sum() / len(before)


def test_same_seed_same_bytes(small: RunConfig) -> None:
    timing = ["train_seconds", "encode_seconds", "message_bytes"]
    first = run(small)
    second = run(again := small.changed(run_name="again"))
    assert torch.equal(first, second)
    frames = [read_clients(directory(config)).drop(columns=timing) for config in (small, again)]
    assert frames[0].equals(frames[1])
    assert not torch.equal(first, run(small.changed(run_name="other", seed=1)))


@pytest.mark.parametrize("compressor", ["MLMC(TopK(fraction=0.1))", "QSGD(levels=7)", "Systematic(fraction=0.1)"])
def test_logged_bytes_are_those_of_the_payloads_that_travelled(small: RunConfig, compressor: str) -> None:
    sent = []

    def weigh(message: Message, reply: Message) -> Message:
        data = reply.content.array_records[ARRAYS][PAYLOAD].data
        sent.append((message.content.config_records[CONFIG]["client"], len(data)))
        payload = decode_payload(data, int.from_bytes(data[6:10], "little"))
        assert encode_payload(payload) == data
        return reply

    run(
        config := small.changed(compressor=compressor, num_rounds=1),
        weigh,
        victims=tuple(range(small.cohort.num_clients)),
    )
    clients = read_clients(directory(config))
    assert sorted(sent) == sorted(zip(clients["client"].tolist(), clients["payload_bytes"].tolist(), strict=True))


def test_several_draws_are_logged_as_lists(small: RunConfig) -> None:
    run(config := small.changed(compressor="MLMC(TopK(fraction=0.1), draws=2)", num_rounds=1))
    assert read_clients(directory(config))["level"].map(len).tolist() == [2, 2, 2, 2]


def replaced(message: Message, reply: Message, payload: bytes | None = None, **config: Any) -> Message:
    content = RecordDict(
        {
            ARRAYS: ArrayRecord(dict(reply.content.array_records[ARRAYS])),
            CONFIG: ConfigRecord({**reply.content.config_records[CONFIG], **config}),
        }
    )
    if payload is not None:
        old = content.array_records[ARRAYS][PAYLOAD]
        content.array_records[ARRAYS][PAYLOAD] = Array(old.dtype, old.shape, old.stype, payload)
    return Message(content, reply_to=message)


def size_of(reply: Message) -> int:
    return int(reply.content.array_records[ARRAYS][PAYLOAD].shape[0])


def not_finite(message: Message, reply: Message) -> Message:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=size_of(reply))).float()
    data = encode_payload(Payload(len(values), (DenseBlock(values),)))
    return replaced(message, reply, sealed(data[:-4] + np.float32("nan").tobytes()))


def too_large(message: Message, reply: Message) -> Message:
    values = torch.zeros(size_of(reply) + 1)
    return replaced(message, reply, encode_payload(Payload(len(values), (DenseBlock(values),))))


def huge(message: Message, reply: Message) -> Message:
    values = torch.full((size_of(reply),), 1e30)
    return replaced(message, reply, encode_payload(Payload(len(values), (DenseBlock(values),))))


def long_update(message: Message, reply: Message) -> Message:
    values = torch.full((size_of(reply),), 10.0)
    return replaced(message, reply, encode_payload(Payload(len(values), (DenseBlock(values),))))


def long_second(message: Message, reply: Message) -> Message:
    values = torch.full((size_of(reply),), 10.0)
    old = reply.content.array_records[ARRAYS][payload_name(1)]
    data = encode_payload(Payload(len(values), (DenseBlock(values),)))
    reply.content.array_records[ARRAYS][payload_name(1)] = Array(old.dtype, old.shape, old.stype, data)
    return reply


def without_array(message: Message, reply: Message) -> Message:
    return Message(RecordDict({CONFIG: reply.content.config_records[CONFIG]}), reply_to=message)


def plain_array(message: Message, reply: Message) -> Message:
    array = Array(np.zeros(size_of(reply), np.float32))
    content = RecordDict({ARRAYS: ArrayRecord({PAYLOAD: array}), CONFIG: reply.content.config_records[CONFIG]})
    return Message(content, reply_to=message)


def declared(message: Message, reply: Message, dtype: str = "float32", shape: tuple[int, ...] | None = None) -> Message:
    """The payload as it is, under another dtype or shape."""
    old = reply.content.array_records[ARRAYS][PAYLOAD]
    array = Array(dtype, old.shape if shape is None else shape, old.stype, old.data)
    content = RecordDict({ARRAYS: ArrayRecord({PAYLOAD: array}), CONFIG: reply.content.config_records[CONFIG]})
    return Message(content, reply_to=message)


HOSTILE: dict[str, tuple[Reply, str]] = {
    "error": (lambda message, _: Message(Error(2, "trace\nValueError: boom"), reply_to=message), "error 2: .*boom"),
    "empty": (lambda message, _: Message(RecordDict(), reply_to=message), "no config record 'config'"),
    "failure": (lambda m, r: replaced(m, r, failure="the disk is full"), "the disk is full"),
    "truncated": (lambda m, r: replaced(m, r, r.content.array_records[ARRAYS][PAYLOAD].data[:-1]), "checksum"),
    "no payload": (lambda m, r: replaced(m, r, b""), "has 0 bytes"),
    "not finite": (not_finite, "not finite"),
    "huge": (huge, "a coordinate of the update is 1e\\+30; the largest that can be added is 7.21e\\+16"),
    "too large": (too_large, "coordinates, expected"),
    "no array": (without_array, "no array"),
    "plain array": (plain_array, "stype 'numpy.ndarray'"),
    "other dtype": (lambda m, r: declared(m, r, dtype="float64"), "dtype 'float64'"),
    "other shape": (lambda m, r: declared(m, r, shape=(10**12,)), r"and shape \(1000000000000,\)"),
    "wrong round": (lambda m, r: replaced(m, r, **{"server-round": 7}), "it answers round 7"),
    "wrong client": (lambda m, r: replaced(m, r, client=0), "for client 0, the task was"),
    "other code": (lambda m, r: replaced(m, r, **{"code-stamp": "old"}), "it runs code 'old'"),
    "no examples": (lambda m, r: replaced(m, r, **{"num-examples": 0}), "num-examples = 0, expected int from 1 to"),
    "negative steps": (lambda m, r: replaced(m, r, **{"num-steps": -1}), "num-steps = -1, expected int from 0 to"),
    "all examples": (
        lambda m, r: replaced(m, r, **{"num-examples": 2**60}),
        "num-examples = 1152921504606846976, expected",
    ),
    "wrong type": (lambda m, r: replaced(m, r, **{"train-loss": "low"}), "train-loss = 'low'"),
    "empty list": (lambda m, r: replaced(m, r, labels=[]), "it holds an empty list"),
    "levels in bytes": (
        lambda m, r: replaced(m, r, levels=[b"x"]),
        r"levels = \[b'x'\], expected list of at most 254 items",
    ),
    "chances in text": (lambda m, r: replaced(m, r, probabilities=["x"]), "probabilities = .* each float above 0 to 1"),
    "a million draws": (
        lambda m, r: replaced(m, r, levels=[1] * 10**6),
        r"levels = \[1, 1.*, expected list of at most 254 items",
    ),
    "a million chances": (
        lambda m, r: replaced(m, r, probabilities=[0.5] * 10**6),
        "expected list of at most 254 items",
    ),
    "no such compressor": (lambda m, r: replaced(m, r, compressor="Zip()"), "unknown compressor 'Zip'"),
    "long compressor": (lambda m, r: replaced(m, r, compressor="x" * 10**6), "expected str of at most 200"),
    "terminal": (lambda m, r: replaced(m, r, failure="\x1b[2J" + "no" * 4000), r"it says '\\x1b\[2Jnono.{0,600}$"),
    "posing": (lambda m, r: replaced(m, r, failure="WARNING: its key was withdrawn"), "it says 'WARNING: its key was"),
    "failure without end": (
        lambda m, r: replaced(m, r, failure="no" * 10**6),
        "failure = 'nono.*, expected str of at most",
    ),
    "loss not finite": (lambda m, r: replaced(m, r, **{"train-loss": float("nan")}), "train-loss"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_reply_is_dropped_and_logged_and_the_rest_counts(small: RunConfig, kind: str) -> None:
    config = everyone(small, num_rounds=1)
    tamper, reason = HOSTILE[kind]
    got = run(config, tamper, victims=(2,))
    rows = read_clients(directory(config)).set_index("client")
    assert rows["status"].drop(2).tolist() == ["ok"] * 5
    assert re.search(f"dropped: .*{reason}", rows["status"].loc[2])
    assert read_rounds(directory(config))["num_ok"].tolist() == [5]
    # Whatever the bad client did, the model is the one without it.
    error = HOSTILE["error"][0]
    assert torch.equal(got, run(config.changed(run_name="without"), error, victims=(2,)))


def test_too_few_good_replies_end_the_run_and_what_was_logged_stays(small: RunConfig) -> None:
    config = everyone(small, quorum=5)
    with pytest.raises(QuorumError, match=r"round 1 has 4 good replies of 6, the quorum is 5: dropped: error 2"):
        run(config, HOSTILE["error"][0], victims=(1, 2))
    assert len(read_clients(directory(config))) == 6
    assert read_rounds(directory(config))["num_ok"].tolist() == [4]
    assert all(json.loads(line) for line in (directory(config) / "clients.jsonl").read_text().splitlines())


def in_second_round(value: float) -> Reply:
    """Updates of zeros, and of `value` from the second round on."""

    def tamper(message: Message, reply: Message) -> Message:
        server_round = message.content.config_records[CONFIG]["server-round"]
        values = torch.full((size_of(reply),), 0.0 if server_round == 1 else value)
        return replaced(message, reply, encode_payload(Payload(len(values), (DenseBlock(values),))))

    return tamper


@pytest.mark.parametrize(
    ("server", "value", "reason"),
    [
        ({"server_learning_rate": 1e30}, 1e10, "'sgd' at rate 1e\\+30 would make the model not finite"),
        ({"server_optimizer": "sgd(momentum=0.9)", "server_learning_rate": 1e30}, 1e10, "would make the model not"),
    ],
)
def test_a_step_that_would_make_the_model_infinite_is_refused_and_the_round_before_is_kept(
    small: RunConfig, server: dict[str, Any], value: float, reason: str
) -> None:
    config = everyone(small, num_rounds=3, checkpoint_every=3, tiers="full:1.0:1.0", **server)
    with pytest.raises(NotFiniteError, match=reason):
        run(config, in_second_round(value), victims=tuple(range(6)))
    state = load_state(directory(config) / CHECKPOINT)
    assert state is not None
    assert state.server_round == 1
    assert torch.equal(state.vector, build_model(config.training.model, (1, 8, 8), 10).initial(config.seed))
    assert all(tensor.isfinite().all() for tensor in state.optimizer.values())
    assert read_rounds(directory(config))["round"].tolist() == [1, 2]
    assert state.log["rounds.jsonl"].size < (directory(config) / "rounds.jsonl").stat().st_size


def test_a_missed_quorum_keeps_the_round_before(small: RunConfig) -> None:
    config = everyone(small, num_rounds=4, checkpoint_every=4, quorum=6)

    def failing(message: Message, reply: Message) -> Message:
        is_third = message.content.config_records[CONFIG]["server-round"] == 3
        return HOSTILE["error"][0](message, reply) if is_third else reply  # type: ignore[return-value]

    with pytest.raises(QuorumError, match="round 3 has 5 good replies"):
        run(config, failing, victims=(1,))
    state = load_state(directory(config) / CHECKPOINT)
    assert state is not None
    assert state.server_round == 2
    assert torch.equal(state.vector, run(config.changed(run_name="two", num_rounds=2)))


def test_nothing_is_kept_of_a_run_that_stops_in_its_first_round(small: RunConfig) -> None:
    config = everyone(small, quorum=6)
    with pytest.raises(QuorumError):
        run(config, HOSTILE["error"][0], victims=(1,))
    assert load_state(directory(config) / CHECKPOINT) is None


def test_replies_in_any_order_give_the_same_model(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = everyone(small)
    straight = run(config)
    send = LocalGrid.send_and_receive
    monkeypatch.setattr(LocalGrid, "send_and_receive", lambda *args, **kwargs: reversed(list(send(*args, **kwargs))))
    assert torch.equal(straight, run(config.changed(run_name="reversed")))


def test_a_second_reply_of_a_client_is_ignored(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = everyone(small)
    once = run(config)
    send = LocalGrid.send_and_receive
    monkeypatch.setattr(
        LocalGrid, "send_and_receive", lambda *a, **k: (reply for reply in list(send(*a, **k)) for _ in range(2))
    )
    assert torch.equal(once, run(config.changed(run_name="twice")))


@pytest.mark.parametrize("claim", ["1/2", "7/0", "1/none", "nonsense", ""])
def test_a_reply_in_anothers_name_or_of_another_round_is_ignored(small: RunConfig, claim: str) -> None:
    def claiming(message: Message, reply: Message) -> Message:
        reply.metadata.__dict__["_group_id"] = claim
        return reply

    run(config := everyone(small, num_rounds=1), claiming, victims=(0,))
    rows = read_clients(directory(config)).set_index("client")["status"]
    assert rows.loc[0] == "dropped: no reply in time"
    assert rows.drop(0).tolist() == ["ok"] * 5


def test_coordinates_that_nobody_held_keep_their_values(small: RunConfig) -> None:
    config = small.changed(tiers="small:0.5:1.0", server_optimizer="sgd(momentum=0.9)")
    got = run(config)
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    before = model.initial(config.seed)
    held = torch.zeros_like(before)
    own = plan(model.spec, "nested", 0.5)
    own.scatter_add(held, torch.ones(own.size))
    assert torch.equal(got[held == 0], before[held == 0])
    assert not torch.equal(got[held > 0], before[held > 0])
    assert read_rounds(directory(config))["coverage_min"].tolist() == [0, 0]


def test_what_a_client_may_weigh_and_how_far_it_may_move_the_mean_can_be_bounded(small: RunConfig) -> None:
    config = everyone(small, num_rounds=1, compressor="Identity()", max_update_norm=50.0, max_examples=1000)
    run(config, long_update, victims=(2,))
    rows = read_clients(directory(config)).set_index("client")["status"]
    assert rows.drop(2).tolist() == ["ok"] * 5
    found = re.search(r"its update has norm (\d+(\.\d+)?), max-update-norm is 50", rows.loc[2])
    assert found is not None
    for factor, status in ((1.01, "ok"), (0.99, "dropped: its update has norm")):
        close = config.changed(run_name=f"close-{factor}", max_update_norm=factor * float(found[1]))
        run(close, long_update, victims=(2,))
        assert read_clients(directory(close)).set_index("client")["status"].loc[2].startswith(status)
    two = config.changed(run_name="two", scheme="adiana(5.0, 0.1)", local_steps=0, compressor="RandK(fraction=0.5)")
    run(two, long_second, victims=(2,))
    assert read_clients(directory(two)).set_index("client")["status"].loc[2].startswith("dropped: its update has norm")
    run(more := config.changed(run_name="more"), too_many_examples, victims=(2,))
    rows = read_clients(directory(more)).set_index("client")["status"]
    assert (rows.loc[2], rows.loc[3]) == ("dropped: it declares 1001 examples, 1 to 1000 are allowed", "ok")


def too_many_examples(message: Message, reply: Message) -> Message:
    return replaced(message, reply, **{"num-examples": 1001})


@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean:0.34"])
def test_one_liar_moves_a_robust_mean_little_and_the_plain_mean_far(small: RunConfig, aggregation: str) -> None:
    config = everyone(small, num_rounds=1, compressor="Identity()", tiers="full:1.0:1.0", aggregation=aggregation)
    honest = run(config)
    robust = run(config.changed(run_name="robust"), long_update, victims=(2,))
    plain = run(config.changed(run_name="plain", aggregation="mean"), long_update, victims=(2,))
    assert (robust - honest).abs().max() < 0.5 < 1.0 < (plain - honest).abs().max()
    assert not torch.equal(honest, run(config.changed(run_name="mean", aggregation="mean")))


def test_private_runs_draw_from_all_clients_never_repeat_and_tell_their_epsilon(small: RunConfig) -> None:
    pytest.importorskip("dp_accounting")
    config = small.changed(compressor="Identity()", dp_clip=0.5, dp_noise=1.0)
    first, second = run(config), run(again := config.changed(run_name="again"))
    assert not torch.equal(first, second)
    spent = read_rounds(directory(config))["epsilon"].tolist()
    assert 0 < spent[0] < spent[1]
    private = config.privacy.of(config.cohort)
    assert private is not None
    assert spent == read_rounds(directory(again))["epsilon"].tolist() == [private.epsilon(1), private.epsilon(2)]


def test_a_private_mean_is_the_clipped_one_when_there_is_no_noise(
    small: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Private, "epsilon", lambda *_: 1.0)
    config = everyone(small, num_rounds=1, compressor="Identity()", tiers="full:1.0:1.0", dp_clip=1e-3, dp_noise=1e-9)
    before = build_model(config.training.model, (1, 8, 8), 10).initial(config.seed)
    moved = float((run(config) - before).norm())
    assert 1e-4 < moved <= 1.0001e-3


def test_a_round_is_drawn_and_broadcast_when_it_is_configured_however_late_its_messages_are_taken(
    small: RunConfig,
) -> None:
    config = small.changed(downlink_compressor="QSGD(levels=127)")
    strategy, grid, arrays = prepared(config)
    taken = [told(strategy.configure_train(number, arrays, ConfigRecord(), grid)) for number in (1, 2)]
    strategy, grid, arrays = prepared(config.changed(run_name="late"))
    messages = [strategy.configure_train(number, arrays, ConfigRecord(), grid) for number in (1, 2)]
    assert strategy._opened.cohort == tuple(client for client, _, _ in taken[1])
    assert [told(each) for each in messages] == taken
    assert [number for _, number, _ in taken[0]] == [1] * 4


def prepared(config: RunConfig) -> tuple[TieredStrategy, LocalGrid, ArrayRecord]:
    """A strategy before its first round, its grid and its model."""
    data = prepare_data(config)
    spec = FederatedData.open(data).spec
    model = build_model(config.training.model, spec.input_shape, spec.num_classes)
    strategy = TieredStrategy(config, model, RoundLog.create(directory(config), {}), str(data))
    grid = LocalGrid(client_app.app, config.cohort.num_clients, config.to_flower())
    return strategy, grid, to_arrays(model.initial(config.seed))


def told(messages: Iterable[Message]) -> list[tuple[int, int, bytes]]:
    """Client, round and payload of each message."""
    records = [(message.content.config_records[CONFIG], message.content.array_records[ARRAYS]) for message in messages]
    return [(facts["client"], facts["server-round"], arrays[PAYLOAD].data) for facts, arrays in records]  # type: ignore[misc]


class Impatient(LocalGrid):
    """Asks one client and then nobody."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        return itertools.islice(super().send_and_receive(messages, timeout=timeout), 1)


def test_clients_that_a_round_never_asked_are_sampled_all_the_same(small: RunConfig) -> None:
    strategy, grid, arrays = prepared(small)
    strategy.roster.refresh(grid)
    impatient = Impatient(client_app.app, small.cohort.num_clients, small.to_flower())
    with pytest.raises(QuorumError, match="1 good replies of 4, the quorum is 2: dropped: the round was over before"):
        strategy.start(impatient, arrays, 1)
    rows = read_clients(directory(small))
    assert rows["status"].tolist() == ["ok", *["dropped: the round was over before it was asked"] * 3]
    assert (rows["downlink_bytes"] > 0).tolist() == [True, False, False, False]
    assert (rows["num_parameters"] > 0).all()


def test_a_round_that_was_not_begun_cannot_be_aggregated(small: RunConfig) -> None:
    strategy, _, _ = prepared(small)
    with pytest.raises(RuntimeError, match="no round is under way: configure_train begins one"):
        strategy.aggregate_train(1, [])
