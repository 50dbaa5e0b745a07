import numpy as np
import pytest
import torch

from fl_mlmc.aggregation import CoverageMean
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.models import build_model
from fl_mlmc.submodels import plan
from fl_mlmc.submodels.coverage import CoverageWatch, coverage_by_tensor, guarded_cohort, planned_coverage

CNN = build_model("cnn(conv=(4, 6), dense=5)", (1, 8, 8), 3).spec
MODELS = {
    "cnn": CNN,
    "char-lstm": build_model("char_lstm(embedding=4, hidden=(6, 7), vocabulary=11)", (9,), 5).spec,
    "widths": build_model("cnn(conv=(8, 8), dense=5, norm='batch', widths=(0.25, 1.0))", (1, 8, 8), 3).spec,
    "exits": build_model("resnet18(hidden=(4, 4, 4, 4), depths=(1, 1, 1, 1), exits=True)", (3, 16, 16), 3).spec,
}
WIDTHS = (0.25, 0.5, 1.0)


def counted(spec, plans):
    mean = CoverageMean(spec.size)
    for own in plans:
        mean.add(own, Payload(own.size), 1.0)
    return mean.result().coverage


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name in MODELS for rule in ("nested", "rolling", "random")] + [("exits", "depth")],
)
def test_planned_coverage_is_what_a_round_counts(name, rule):
    spec = MODELS[name]
    plans = [plan(spec, rule, WIDTHS[client % 3], 5, client) for client in range(7)]
    assert planned_coverage(plans) == coverage_by_tensor(spec, counted(spec, plans))


def nested(client):
    """Of ten clients, every fifth is wide."""
    return plan(CNN, "nested", 1.0 if client % 5 == 0 else 0.25, 1, client)


def test_a_cohort_that_covers_enough_stays_as_it_was_drawn():
    assert guarded_cohort([7, 5, 0, 1, 2, 3], 3, nested, least=2) == [0, 5, 7]


@pytest.mark.parametrize("least", [1, 2])
def test_a_guarded_cohort_holds_every_coordinate_and_exchanges_no_more_than_it_must(least):
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(10).tolist()
        cohort = guarded_cohort(order, 4, nested, least)
        assert len(set(cohort)) == 4
        assert int(counted(CNN, [nested(client) for client in cohort]).min()) >= least
        wide = sum(client % 5 == 0 for client in order[:4])
        assert len(set(cohort) - set(order[:4])) == max(0, least - wide)


def test_random_subsets_can_be_guarded_too():
    def own(client):
        return plan(CNN, "random", 0.5, 3, client)

    order = list(range(60))
    assert int(counted(CNN, [own(client) for client in order[:12]]).min()) < 2
    cohort = guarded_cohort(order, 12, own, least=2)
    assert int(counted(CNN, [own(client) for client in cohort]).min()) >= 2


@pytest.mark.parametrize(("order", "size", "least"), [([1, 2, 3, 4], 2, 1), ([0, 5, 1], 3, 3), ([0, 1], 1, 2)])
def test_a_guarantee_that_cannot_be_given_is_an_error_with_a_remedy(order, size, least):
    with pytest.raises(ValueError, match=f"no cohort of {size} clients was found in which {least} hold.*Sample more"):
        guarded_cohort(order, size, nested, least)


def test_the_watch_names_tensors_that_nobody_trained_for_some_rounds():
    watch = CoverageWatch(CNN)
    narrow = counted(CNN, [plan(CNN, "nested", 0.5)])
    watch.add(torch.ones(CNN.size, dtype=torch.int32), 1)
    for server_round in (2, 3, 4):
        watch.add(narrow, server_round)
        assert watch.uncovered(server_round, 4) == {}
    watch.add(narrow, 5)
    uncovered = watch.uncovered(5, 4)
    assert uncovered["conv1.bias"] == 2
    assert "head.bias" not in uncovered
    assert sum(uncovered.values()) == int((narrow == 0).sum())
    watch.add(torch.ones(CNN.size, dtype=torch.int32), 6)
    assert watch.uncovered(6, 4) == {}


def test_a_watch_that_starts_late_does_not_blame_rounds_that_it_was_not_told():
    watch = CoverageWatch(CNN)
    narrow = counted(CNN, [plan(CNN, "nested", 0.5)])
    for server_round in (41, 42):
        watch.add(narrow, server_round)
        assert watch.uncovered(server_round, 3) == {}
    watch.add(narrow, 43)
    assert sum(watch.uncovered(43, 3).values()) == int((narrow == 0).sum())
