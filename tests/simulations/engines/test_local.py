import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_mlmc.simulations.engines.local import LocalGrid


def count_up(message: Message, context: Context) -> Message:
    if message.content["ask"]["fail"]:
        raise ValueError("as asked")
    calls = int(context.state.config_records.get("calls", ConfigRecord({"n": 0}))["n"]) + 1
    context.state["calls"] = ConfigRecord({"n": calls})
    answer = {"n": calls, "partition": context.node_config["partition-id"], "colour": context.run_config["colour"]}
    return Message(RecordDict({"answer": ConfigRecord(answer)}), reply_to=message)


@pytest.fixture
def grid() -> LocalGrid:
    app = ClientApp()
    app.train()(count_up)
    return LocalGrid(app, 3, {"colour": "red"})


def ask(grid: LocalGrid, node: int, fail: bool = False) -> Message:
    return grid.create_message(RecordDict({"ask": ConfigRecord({"fail": fail})}), "train", node, "1/0")


def test_each_node_keeps_its_own_state(grid: LocalGrid) -> None:
    replies = list(grid.send_and_receive([ask(grid, node) for node in (1, 2, 1)]))
    answers = [reply.content["answer"] for reply in replies]
    assert [(answer["n"], answer["partition"], answer["colour"]) for answer in answers] == [
        (1, 0, "red"), (1, 1, "red"), (2, 0, "red"),
    ]  # fmt: skip
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 1]


def test_a_client_that_raises_gives_an_error_reply(grid: LocalGrid) -> None:
    (reply,) = grid.send_and_receive([ask(grid, 2, fail=True)])
    assert reply.has_error()
    assert reply.error.reason == "ValueError: as asked"
    assert reply.metadata.group_id == "1/0"


class Mute(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no word of it")


def grid_of(raised: BaseException | None) -> LocalGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if raised is not None:
            raise raised
        return None  # type: ignore[return-value]

    return LocalGrid(app, 3, {})


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (Mute(), "Mute: Mute, which does not say what it is"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("two\nlines\x1b[2J"), "ValueError: two lines [2J"),
        (None, "TypeError: the ClientApp gave a NoneType, expected a Message"),
    ],
)
def test_whatever_a_client_raises_or_gives_is_a_reply(raised: BaseException | None, reason: str) -> None:
    grid = grid_of(raised)
    (reply,) = grid.send_and_receive([ask(grid, 2)])
    assert reply.error.reason == reason
    assert reply.metadata.group_id == "1/0"


def test_ctrl_c_ends_a_local_run() -> None:
    grid = grid_of(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(grid.send_and_receive([ask(grid, 2)]))


def test_messages_can_be_pushed_and_pulled(grid: LocalGrid) -> None:
    names = list(grid.push_messages([ask(grid, 3)]))
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(names)] == [3]
    assert list(grid.pull_messages(names)) == []
