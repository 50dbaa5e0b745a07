from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from fl_mlmc.run.config import RunConfig
from fl_mlmc.training.local import TrainingError, batches, least_batch, train
from fl_mlmc.training.threads import threads


def indices(num_examples: int, config: RunConfig) -> list[list[int]]:
    return [batch.tolist() for batch in batches(num_examples, config.training, np.random.default_rng(0))]


def test_an_epoch_sees_every_example_once() -> None:
    got = indices(10, RunConfig(batch_size=4, local_epochs=2))
    assert list(map(len, got)) == [4, 4, 2, 4, 4, 2]
    assert sorted(chain(*got[:3])) == sorted(chain(*got[3:])) == list(range(10))
    assert got[:3] != got[3:]


def test_local_steps_count_batches_across_epochs() -> None:
    got = indices(5, RunConfig(batch_size=4, local_steps=5))
    assert list(map(len, got)) == [4, 1, 4, 1, 4]


def test_training_lowers_the_loss_and_reports_its_mean() -> None:
    torch.manual_seed(0)
    module, features = nn.Linear(2, 2), torch.randn(64, 2)
    labels = (features[:, 0] > 0).long()
    config = RunConfig(batch_size=16, local_epochs=5, learning_rate=0.5)
    losses = [train(module, features, labels, config.training, np.random.default_rng(seed)).loss for seed in (0, 1)]
    assert losses[1] < losses[0] < 0.7


def test_a_step_is_no_longer_than_the_clipped_gradient_and_shrinks_with_the_rate() -> None:
    config = RunConfig(local_steps=1, batch_size=8, learning_rate=0.5, clip_norm=0.01, learning_rate_drops="2,4")
    features, labels = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)
    for server_round, rate in ((1, 0.5), (2, 0.5), (3, 0.05), (4, 0.05), (5, 0.005)):
        module = nn.Linear(2, 2)
        before = nn.utils.parameters_to_vector(module.parameters()).detach()
        train(module, features, labels, config.training, np.random.default_rng(0), server_round=server_round)
        step = nn.utils.parameters_to_vector(module.parameters()).detach() - before
        assert float(step.norm()) == pytest.approx(0.01 * rate, rel=1e-3)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(TrainingError, match="training loss is nan after 2 steps"):
        train(
            nn.Linear(1, 2),
            torch.full((2, 1), torch.nan),
            torch.zeros(2, dtype=torch.int64),
            RunConfig(local_steps=2).training,
            np.random.default_rng(0),
        )


def test_the_thread_count_is_put_back() -> None:
    before = torch.get_num_threads()
    with threads():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_last_batch_of_one_takes_company_where_the_model_normalises_by_the_batch() -> None:
    training = RunConfig(batch_size=4, local_epochs=1).training
    got = [batch.tolist() for batch in batches(9, training, np.random.default_rng(0), least=2)]
    assert list(map(len, got)) == [4, 4, 2]
    assert got[2][1] == got[0][0], "the epoch's first example stands in"
    assert [len(batch) for batch in batches(1, training, np.random.default_rng(0), least=2)] == [2]
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    trained = train(module, torch.randn(9, 3), torch.zeros(9, dtype=torch.int64), training, np.random.default_rng(0))
    assert trained.num_steps == 3
    assert least_batch(nn.Linear(3, 2)) == 1
