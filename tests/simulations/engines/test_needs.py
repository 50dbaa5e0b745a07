"""What a tier's clients take of a machine, and that the ray engine never gives away more than there is."""

import time
from collections.abc import Iterator

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import CONFIG
from fl_mlmc.simulations.engines.needs import Need, Needs
from fl_mlmc.simulations.engines.ray.grid import RayGrid
from fl_mlmc.simulations.engines.ray.session import ray_session
from fl_mlmc.simulations.engines.simulated import identify_process

pytestmark = pytest.mark.xdist_group("needs")

TIERS = "sensor:0.25:0.5,phone:0.5:0.25:gpus=0.25,gateway:1:0.25:cpus=2:gpus=1"


def message(node: int, tier: str) -> Message:
    identify_process()
    content = RecordDict({CONFIG: ConfigRecord({"tier": tier})})
    return Message(content, dst_node_id=node, message_type="train")


def test_a_tier_overrides_what_the_run_says() -> None:
    config = RunConfig(tiers=TIERS, client_cpus=0.5, client_gpus=0.1)
    needs = Needs.of_config(config.engine, config.cohort.tier_list)
    wanted = {"sensor": Need(0.5, 0.1), "phone": Need(0.5, 0.25), "gateway": Need(2, 1)}
    assert {tier: needs.of(message(1, tier)) for tier in wanted} == wanted
    assert needs.kinds == set(wanted.values())
    assert needs.of(message(1, "")) == Need(0.5, 0.1)


def test_a_client_computes_with_the_threads_that_it_takes() -> None:
    config = RunConfig(tiers=TIERS, client_cpus=0.5)
    assert [config.threads_of(tier) for tier in ("sensor", "phone", "gateway")] == [1, 1, 2]


@pytest.mark.parametrize(
    ("need", "slots"), [(Need(1), 4), (Need(1.5), 2), (Need(0.1, 0.5), 4), (Need(1, 2), 1), (Need(8), 0)]
)
def test_slots(need: Need, slots: int) -> None:
    assert need.slots({"CPU": 4, "GPU": 2}) == slots


def test_clients_that_span_gpus_cannot_share_them_too() -> None:
    with pytest.raises(ValueError, match=r"tiers take 0\.5, 2 GPUs"):
        Needs(by_tier={"a": Need(1, 2), "b": Need(1, 0.5)})


def client_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        import os

        start = time.monotonic()
        time.sleep(0.03)
        seen = {"tier": message.content[CONFIG]["tier"], "from": start, "to": time.monotonic()}
        seen["gpu"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return Message(RecordDict({"seen": ConfigRecord(seen)}), reply_to=message)

    return app


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(cpus=4, gpus=2):  # for Ray they are numbers; nothing computes on them here
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_no_machine_and_no_gpu_carries_more_than_it_can() -> None:
    by_tier = {"sensor": Need(1), "phone": Need(0.5, 0.25), "gateway": Need(2, 1)}
    order = ["sensor", "gateway", "phone", "phone", "sensor"] * 8
    with RayGrid(client_app(), len(order), {}, Needs(by_tier=by_tier)) as grid:
        replies = []
        while not replies or len(grid._crew.ready) < len(grid._crew.workers):  # all workers are there to be misused
            messages = (message(node, tier) for node, tier in enumerate(order, start=1))
            replies = list(grid.send_and_receive(messages))
        replies = list(grid.send_and_receive(message(node, tier) for node, tier in enumerate(order, start=1)))
    visits = [reply.content["seen"] for reply in replies]
    assert sorted(str(visit["tier"]) for visit in visits) == sorted(order)
    assert {str(visit["gpu"]) for visit in visits if visit["tier"] != "sensor"} == {"0", "1"}
    assert all(visit["gpu"] == "" for visit in visits if visit["tier"] == "sensor")
    assert at_most(visits, lambda need: need.cpus, by_tier) <= 4
    for gpu in "01":
        assert at_most([visit for visit in visits if visit["gpu"] == gpu], lambda need: need.gpus, by_tier) <= 1


def at_most(visits: list, amount, by_tier: dict[str, Need]) -> float:  # type: ignore[no-untyped-def,type-arg]
    """The most that was taken at one time."""
    starts = [(visit["from"], amount(by_tier[visit["tier"]])) for visit in visits]
    ends = [(visit["to"], -amount(by_tier[visit["tier"]])) for visit in visits]
    taken, most = 0.0, 0.0
    for _, change in sorted(starts + ends):
        taken += change
        most = max(most, taken)
    return most


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_need_that_no_machine_meets_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_mlmc.simulations.engines.ray.crew.WAIT_FOR_NODES_SECONDS", 1.0)
    needs = Needs(by_tier={"sensor": Need(1), "gateway": Need(64)})
    with (
        RayGrid(client_app(), 2, {}, needs) as grid,
        pytest.raises(RuntimeError, match="no machine of the Ray cluster has 64 processors for a client"),
    ):
        list(grid.send_and_receive([message(1, "sensor"), message(2, "gateway")]))
