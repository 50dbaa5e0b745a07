"""What our apps say to each other survives Flower's real serialisation, which no simulation engine does to it."""

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fl_mlmc.run.config import RunConfig
from fl_mlmc.simulations import run
from fl_mlmc.simulations.engines import simulated


def through_the_wire(message: Message) -> Message:
    """What the other end makes of a message: objects by their hashes, as the SuperLink stores and hands them out."""
    contents = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    received = inflate_object_from_contents(message.object_id, contents)
    received.metadata.__dict__["_message_id"] = message.metadata.message_id  # sent beside the objects
    return received


def test_messages_mean_the_same_on_the_other_side(small: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(None, **small.to_flower())
    exchanged = []

    def answer(app: ClientApp, message: Message, context: Context) -> Message:
        task = through_the_wire(message)
        assert task.content == message.content
        reply = simulated.answer(app, task, context)
        received = through_the_wire(reply)
        assert received.content == reply.content
        assert received.metadata.group_id == message.metadata.group_id
        exchanged.append(received)
        return received

    monkeypatch.setattr("fl_mlmc.simulations.engines.local.answer", answer)
    wired = run(None, **small.changed(run_name="wired").to_flower())
    assert len(exchanged) > small.num_rounds * small.cohort.clients_per_round  # tasks, and the roster's queries
    assert all((plain.arrays[name] == wired.arrays[name]).all() for name in plain.arrays)
