import numpy as np
import pytest

from fl_mlmc.submodels.tier import Tier, assign_tiers, parse_tiers, tier_named


def test_tiers_read_back_as_they_were_written():
    text = "sensor:0.25:0.5,phone:0.5:0.3,gateway:1:0.2"
    tiers = parse_tiers(text)
    assert tiers == (Tier("sensor", 0.25, 0.5), Tier("phone", 0.5, 0.3), Tier("gateway", 1.0, 0.2))
    assert ",".join(map(str, tiers)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phone:0.5", "'phone:0.5' is not of the form name:width:share"),
        ("phone:wide:1", "'phone:wide:1' is not of the form"),
        ("phone:0:1", "tier 'phone' has width 0.0, a width lies in"),
        ("phone:1.5:1", "tier 'phone' has width 1.5"),
        ("phone:1:-1", "tier 'phone' has share -1.0"),
        (":1:1", "a tier needs a name|not of the form"),
        ("a:1:0.5,a:0.5:0.5", "tier names must differ, got a, a"),
        ("a:1:0.5,b:0.5:0.4", r"add up to 1, they add up to 0.9 \(a 0.5, b 0.4\)"),
    ],
)
def test_a_bad_tier_is_named_in_the_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_tiers(text)


def test_an_unknown_tier_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="unknown tier 'tablet'; known: a, b"):
        tier_named(parse_tiers("a:1:0.5,b:0.5:0.5"), "tablet")


@pytest.mark.parametrize("num_clients", [1, 2, 3, 7, 10, 60, 101])
def test_shares_are_met_to_within_one_client(num_clients):
    tiers = parse_tiers("a:0.25:0.5,b:0.5:0.3,c:1:0.2")
    assigned = assign_tiers(tiers, num_clients, seed=3)
    counts = np.bincount(assigned, minlength=3)
    assert counts.sum() == num_clients
    assert np.abs(counts - num_clients * np.array([0.5, 0.3, 0.2])).max() < 1


def test_assignment_is_a_function_of_the_seed_and_cannot_be_changed():
    tiers = parse_tiers("a:0.25:0.5,b:1:0.5")
    assert np.array_equal(assign_tiers(tiers, 40, 1), assign_tiers(tiers, 40, 1))
    assert not np.array_equal(assign_tiers(tiers, 40, 1), assign_tiers(tiers, 40, 2))
    with pytest.raises(ValueError, match="read-only"):
        assign_tiers(tiers, 40, 1)[0] = 1
