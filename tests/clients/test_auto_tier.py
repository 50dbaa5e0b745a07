"""A client that measures its tier, asked through Flower's own records."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients.client_app import app
from fl_mlmc.config import RunConfig
from fl_mlmc.protocol import CONFIG, ROSTER_ACTION, RosterEntry
from simulations.grid import identify_process
from simulations.server_app import prepare_data


def declared(config: RunConfig, **node_config: object) -> str:
    identify_process()
    content = RecordDict({CONFIG: ConfigRecord({"ask": ROSTER_ACTION})})
    message = Message(content, dst_node_id=3, message_type=f"query.{ROSTER_ACTION}")
    context = Context(1, 3, node_config, RecordDict(), config.to_flower())  # type: ignore[arg-type]
    return RosterEntry.from_config(app(message, context).content.config_records[CONFIG]).tier


@pytest.mark.parametrize(
    ("budget", "tier"), [("seconds=100", "full"), ("memory=20000", "small"), ("memory=20000:seconds=100", "small")]
)
def test_a_client_declares_the_widest_tier_that_it_can_carry(small: RunConfig, budget: str, tier: str) -> None:
    config = small.changed(tiers=f"small:0.5:0.5,full:1.0:0.5:{budget}")
    assert declared(config, **{"tier": "auto", "data-path": str(prepare_data(config))}) == tier


def test_a_client_that_cannot_measure_says_why(small: RunConfig, tmp_path: Path) -> None:
    assert "give it a data-path beside" in declared(small, tier="auto")
    missing = declared(small, **{"tier": "auto", "data-path": str(tmp_path / "nowhere")})
    assert "auto, but" in missing
    assert "does not exist" in missing
    config = small.changed(tiers="small:0.5:0.5:memory=1,full:1.0:0.5:memory=1")
    told = declared(config, **{"tier": "auto", "data-path": str(prepare_data(config))})
    assert "fits no tier" in told


def test_a_declared_tier_is_passed_on(small: RunConfig) -> None:
    assert declared(small, tier="full") == "full"
    assert declared(small) == ""
