"""A strategy of Flower's over compressed updates does what it does over plain arrays, whatever clients send."""

import gc
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp import strategy as flower
from flwr.serverapp.exception import InconsistentMessageReplies
from flwr.serverapp.strategy import DifferentialPrivacyClientSideAdaptiveClipping as ClientSideAdaptive
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping as ClientSideFixed
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_mlmc.clients import compressed
from fl_mlmc.frames import read_clients, read_rounds
from fl_mlmc.run.rng import stream
from fl_mlmc.simulations.engines.local import LocalGrid
from fl_mlmc.strategies import Decoding
from tests.strategies.each_strategy.each.strategies import ALL, STRATEGIES

Change = Callable[[dict[str, np.ndarray], int, int], dict[str, np.ndarray]]
"""What a client makes of its arrays, by its number and the round."""


@pytest.fixture(autouse=True)
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some strategies collect garbage after every reply, which takes a third of a second beside torch."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def trained(arrays: dict[str, np.ndarray], client: int, server_round: int) -> dict[str, np.ndarray]:
    rng = stream(3, client, server_round)
    return {
        name: (array + 0.1 * rng.standard_normal(array.shape)).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in arrays.items()
    }


def app_of(change: Change = trained, mods: list[Any] | None = None, frees: bool = True) -> ClientApp:
    """A Flower app of somebody's own."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        record = message.content["arrays"]
        client, server_round = context.node_config["partition-id"], message.content["config"]["server-round"]
        take = record.pop if frees else record.__getitem__  # some apps take the message apart
        arrays = {key: take(key).numpy() for key in list(record)}
        after = {key: Array(np.asarray(array)) for key, array in change(arrays, client, server_round).items()}
        metrics = MetricRecord({"num-examples": 10 + client, "train_loss": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(after), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "eval_acc": 0.25})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def first_arrays() -> ArrayRecord:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"weight": (40, 30), "bias": (30,), "scale": ()}
    return ArrayRecord(
        {key: Array(np.asarray(rng.standard_normal(shape), np.float32)) for key, shape in shapes.items()}
    )


def run(strategy: Strategy, app: ClientApp, rounds: int = 3) -> flower.Result:
    np.random.seed(0)  # noqa: NPY002  adaptive clipping draws from it
    return strategy.start(grid=Copying(app, 5, {}), initial_arrays=first_arrays(), num_rounds=rounds)


class Copying(LocalGrid):
    """Messages and replies are copied on their way, as they are between processes, and go out in order of nodes."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        return list(super().send_and_receive(sorted(messages, key=lambda message: message.metadata.dst_node_id)))

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(copied(self.number(message)))
        return copied(reply) if reply.has_content() else reply


def copied(message: Message) -> Message:
    records = {
        name: type(record)(dict(record)) if not isinstance(record, ArrayRecord) else ArrayRecord(dict(record))
        for name, record in message.content.items()
    }
    return Message(metadata=message.metadata, content=RecordDict(records))  # type: ignore[call-overload]


def numbers(result: flower.Result) -> np.ndarray:
    return np.concatenate([array.ravel() for array in result.arrays.to_numpy_ndarrays()])


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_sent_whole_comes_to_what_it_came_to_without(name: str) -> None:
    plain = run(STRATEGIES[name](), app_of())
    ours = run(Decoding(STRATEGIES[name]()), app_of(mods=[compressed("Identity()")]))
    np.testing.assert_allclose(numbers(ours), numbers(plain), rtol=1e-4, atol=1e-5)
    assert ours.train_metrics_clientapp.keys() == plain.train_metrics_clientapp.keys() == {1, 2, 3}
    assert dict(ours.train_metrics_clientapp[3]) == pytest.approx(dict(plain.train_metrics_clientapp[3]))
    assert dict(ours.evaluate_metrics_clientapp[3]) == dict(plain.evaluate_metrics_clientapp[3])


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_takes_compressed_updates(name: str, tmp_path: Path) -> None:
    ours = run(Decoding(STRATEGIES[name](), log=tmp_path), app_of(mods=[compressed("MLMC(TopK(fraction=0.05))")]))
    assert np.isfinite(numbers(ours)).all()
    assert list(ours.arrays) == ["weight", "bias", "scale"]
    assert (read_clients(tmp_path)["status"] == "ok").all()


def test_the_mean_over_rounds_of_an_unbiased_compressor_is_that_of_the_plain_strategy() -> None:
    plain = numbers(run(FedAvg(**ALL), app_of(), rounds=1)) - numbers_of(first_arrays())
    mean = np.zeros_like(plain)
    for seed in range(25):
        mods = [compressed("RandK(fraction=0.5)", seed=seed)]
        mean += (numbers(run(Decoding(FedAvg(**ALL)), app_of(mods=mods), rounds=1)) - numbers_of(first_arrays())) / 25
    # ω = 1, five clients: the deviation of the mean is ‖update‖ / √(5 · 25), and no coordinate is left out
    assert np.linalg.norm(mean - plain) < 3 * np.sqrt(1 / 25) * np.linalg.norm(plain)


def numbers_of(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.to_numpy_ndarrays()])


def test_a_median_wants_updates_that_keep_every_coordinate() -> None:
    def moved(compressor: str) -> int:
        ours = run(Decoding(flower.FedMedian(**ALL)), app_of(mods=[compressed(compressor)]), rounds=1)
        return int((numbers(ours) != numbers_of(first_arrays())).sum())

    assert moved("MLMC(TopK(fraction=0.05))") < 10 < 1200 < moved("Dither(unit=1.0)")


def test_the_log_is_one_that_frames_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": server_round / 10, "round": 99})

    strategy = Decoding(FedAvg(**ALL), log=tmp_path / "mine")
    app = app_of(mods=[compressed("MLMC(TopK(fraction=0.05))")])
    strategy.start(grid=Copying(app, 5, {}), initial_arrays=first_arrays(), num_rounds=2, evaluate_fn=evaluate)
    clients, rounds = read_clients(tmp_path / "mine"), read_rounds(tmp_path / "mine")
    assert clients["client"].tolist() == 2 * [0, 1, 2, 3, 4]
    assert clients["num_examples"].tolist() == 2 * [10, 11, 12, 13, 14]
    assert (clients["num_parameters"] == 1231).all()
    assert set(clients["compressor"]) == {"MLMC(TopK(fraction=0.05))"}
    assert clients["probability"].between(0, 1).all()
    assert (clients["plain_bytes"] > 10 * clients["message_bytes"]).all()
    assert (clients["message_bytes"] > clients["payload_bytes"]).all()
    assert rounds["round"].tolist() == [1, 2]
    assert rounds["accuracy"].tolist() == [0.1, 0.2]
    assert rounds["eval_acc"].tolist() == [0.25, 0.25]
    assert rounds["train_loss"].tolist() == [0.5, 0.5]
    assert rounds["cumulative_uplink_bytes"].iloc[-1] == clients["payload_bytes"].sum()
    assert (rounds["update_norm"] > 0).all()
    header = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert (header["status"], header["strategy"]) == ("completed", "FedAvg")
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(Decoding(FedAvg(**ALL), log=tmp_path / "mine"), app)


def test_a_count_is_no_weight_though_its_mean_is_floating_point(tmp_path: Path) -> None:
    def counted(arrays: dict[str, np.ndarray], client: int, server_round: int) -> dict[str, np.ndarray]:
        return {**arrays, "count": np.asarray(arrays["count"] + 7)}

    first = ArrayRecord({"weight": Array(np.ones(3, np.float32)), "count": Array(np.asarray(0))})
    grid = Copying(app_of(counted, [compressed("Identity()")]), 5, {})
    result = Decoding(FedAvg(**ALL), log=tmp_path).start(grid=grid, initial_arrays=first, num_rounds=2)
    assert float(result.arrays["count"].numpy()) == 14.0
    assert read_rounds(tmp_path)["update_norm"].tolist() == [0.0, 0.0]


def test_one_seed_gives_one_run_and_another_seed_another() -> None:
    def once(seed: int) -> np.ndarray:
        return numbers(run(Decoding(FedAvg(**ALL)), app_of(mods=[compressed("RandK(fraction=0.1)", seed=seed)])))

    assert (once(1) == once(1)).all()
    assert (once(1) != once(2)).any()


def test_a_client_without_the_mod_is_taken_as_it_is(tmp_path: Path) -> None:
    plain = run(FedAvg(**ALL), app_of())
    ours = run(Decoding(FedAvg(**ALL), log=tmp_path), app_of())
    assert (numbers(ours) == numbers(plain)).all()
    clients = read_clients(tmp_path)
    assert set(clients["compressor"]) == {"none"}
    assert (clients["message_bytes"] == clients["plain_bytes"]).all()


def test_a_server_without_decoding_says_so() -> None:
    with pytest.raises(InconsistentMessageReplies, match="exactly one ArrayRecord"):
        run(FedAvg(**ALL), app_of(mods=[compressed("Identity()")]))


def test_noise_of_a_mod_within_is_compressed_too(tmp_path: Path) -> None:
    mods = [compressed("MLMC(TopK(fraction=0.05))"), LocalDpMod(1.0, 1.0, 100.0, 1e-5)]
    app = app_of(mods=mods, frees=False)
    run(Decoding(FedAvg(fraction_evaluate=0.0), log=tmp_path), app, rounds=1)
    clients = read_clients(tmp_path)
    assert (clients["status"] == "ok").all()
    assert (clients["plain_bytes"] > 10 * clients["message_bytes"]).all()


def test_a_start_of_ones_own_is_kept() -> None:
    class Mine(FedAvg):
        def start(self, grid: Any, initial_arrays: ArrayRecord, *args: Any, **kwargs: Any) -> flower.Result:
            self.began = True
            return super().start(grid, initial_arrays, *args, **kwargs)

    mine = Mine(**ALL)
    result = run(Decoding(mine), app_of(mods=[compressed("MLMC(TopK(fraction=0.05))")]))
    assert mine.began
    assert result.arrays
    assert mine.configure_train.__func__ is FedAvg.configure_train  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (lambda: ClientSideFixed(FedAvg(), 1.0, 1.0, 5), "clip an update before"),
        (
            lambda: ClientSideAdaptive(FedAvg(), 0.0, 5, clipped_count_stddev=1.0),
            "clip an update before",
        ),
        (lambda: flower.FedXgbBagging(), "trees"),
        (lambda: flower.FedXgbCyclic(), "trees"),
    ],
)
def test_what_does_not_go_together_is_refused(strategy: Callable[[], Strategy], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Decoding(strategy())
