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
        (
            "phone:1:1:sped=2",
            "has unknown option 'sped'; known: speed, up, down, bytes, seconds, memory",
        ),
        ("phone:1:1:speed=fast", "'phone:1:1:speed=fast' is not of the form"),
        ("phone:1:1:cpus=0", "tier 'phone' has cpus 0.0, expected a number above 0"),
        ("phone:1:1:gpus=-1", "tier 'phone' has gpus -1.0, expected a number 0 or more"),
        ("phone:1:1:up=0", "tier 'phone' has up 0.0, expected a number above 0"),
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


def test_options_follow_the_share_and_read_back():
    text = "phone:0.333333333333:0.25:speed=0.2:up=1234567:memory=1000000000,gateway:1:0.75:cpus=2:gpus=0"
    phone, gateway = parse_tiers(text)
    assert (phone.speed, phone.up, phone.down, phone.memory) == (0.2, 1234567, float("inf"), 1e9)
    assert gateway == Tier("gateway", 1.0, 0.75, cpus=2, gpus=0)
    assert ",".join(map(str, (phone, gateway))) == text


TIERS = parse_tiers("a:0.25:0.5,b:0.5:0.3,c:1:0.2")


def test_a_list_gives_each_client_its_tier():
    assert assign_tiers(TIERS, 6, 0, "0-2:b, 3:a,4-5:c").tolist() == [1, 1, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-2:b", "leaves 3 clients without a tier, first 3"),
        ("0-9:b", "'0-9:b' does not lie in clients 0 to 5"),
        ("0-5:b,2:a", "'2:a' names clients that have a tier already"),
        ("0-5:x", "unknown tier 'x'; known: a, b, c"),
        ("all:b", r"'all:b' is not of the form FIRST-LAST:tier .* \"shares\" or \"redrawn\""),
    ],
)
def test_a_bad_list_is_an_error_that_names_the_part(text, message):
    with pytest.raises(ValueError, match=message):
        assign_tiers(TIERS, 6, 0, text)


def test_redrawn_tiers_change_with_the_round_and_keep_the_shares():
    rounds = np.array([assign_tiers(TIERS, 50, 1, "redrawn", server_round) for server_round in range(200)])
    assert len({tuple(row) for row in rounds}) == 200
    shares = np.bincount(rounds.ravel(), minlength=3) / rounds.size
    assert np.abs(shares - [0.5, 0.3, 0.2]).max() < 0.02
    assert np.array_equal(assign_tiers(TIERS, 50, 1, "redrawn", 7), rounds[7])


def test_a_part_in_a_round_lasts_for_its_download_steps_and_upload_together():
    tier = Tier("phone", 0.5, 1.0, speed=0.5, up=100.0, down=1000.0)
    assert tier.pace(10**6).seconds(25, uplink_bytes=300, downlink_bytes=5000) == pytest.approx(5 + 0.5 + 3)
    assert Tier("full", 1.0, 1.0).pace(10**8).seconds(1, 10**9, 10**9) == 1.0
