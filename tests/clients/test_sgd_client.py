"""One client's round, without Flower around it."""

import time
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.clients.sgd_client import OpenTask, finish, open_task
from fl_mlmc.compression.blocks import DenseBlock, Payload, SparseBlock
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.models import build_model
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import PAYLOAD, TrainTask, code_stamp
from fl_mlmc.schemes import Round
from fl_mlmc.simulations.app.prepare import prepare_data

EXACT: dict[str, Any] = {"compressor": "Identity()", "local_steps": 0, "tiers": "full:1:1"}


def opened(config: RunConfig, **place: Any) -> OpenTask:
    data = prepare_data(config)
    task = TrainTask(1, 2, "full", 1.0, str(data), **place)
    vector = build_model(config.training.model, (1, 8, 8), 10).initial(0)
    payload = encode_payload(Payload(vector.numel(), (DenseBlock(vector),)))
    return open_task(task, {PAYLOAD: payload}, config, FederatedData.open(data))


def test_the_loss_is_the_mean_over_all_that_was_trained_and_no_second_counts_twice(
    small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small.changed(**EXACT, clients_per_round=6).changed(scheme="proxskip(0.1, 0.05)")
    under_way = opened(config, state=str(tmp_path), cohort_size=6)
    code_stamp()  # reads the code, once
    start = time.perf_counter()
    update = finish(under_way, config).update
    elapsed = time.perf_counter() - start
    trained = under_way.finder.trained
    assert len({each.loss for each in trained}) > 1
    assert update.train_loss == pytest.approx(sum(each.loss for each in trained) / len(trained))
    assert update.num_steps == len(trained)
    assert update.train_seconds == sum(each.seconds for each in trained) > 0
    assert 0 < update.encode_seconds + update.train_seconds <= elapsed


@pytest.mark.parametrize("cohort_size", [2, 3, 4])
def test_a_client_sends_what_is_its_own_in_the_cohort_that_the_task_tells_of(
    small: RunConfig, tmp_path: Path, cohort_size: int
) -> None:
    config = small.changed(**EXACT).changed(scheme="tamuna(0.1, 0.5)")
    reply = finish(opened(config, state=str(tmp_path), cohort_size=cohort_size, rank=1), config)
    [block] = decode_payload(reply.payloads[0], reply.size).blocks
    scheme = config.resolved_scheme(reply.size)
    spoken = scheme.speaks_of(reply.size, Round(config.seed, 1, 6, cohort_size), 1)
    assert spoken is not None
    if len(spoken) < reply.size:
        assert isinstance(block, SparseBlock)
        assert block.indices.tolist() == spoken.tolist()
    else:
        assert cohort_size == 2
