import numpy as np
import pytest

from fl_mlmc.run.rng import stream
from fl_mlmc.submodels.rules import RULES, rule_named


def pick(rule, units, kept, server_round=1, seed=0):
    return rule_named(rule).pick(units, kept, server_round, stream(seed, "test"))


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize(("units", "kept"), [(1, 1), (7, 1), (7, 3), (7, 7), (64, 16)])
def test_a_rule_keeps_as_many_different_units_as_asked_in_order(rule, units, kept):
    for server_round in (1, 2, 6, 7, 8, 1000):
        picked = pick(rule, units, kept, server_round)
        assert picked.dtype == np.int64
        assert len(picked) == kept
        assert (np.diff(picked) > 0).all()
        assert picked[0] >= 0
        assert picked[-1] < units


def test_nested_keeps_the_first_units():
    assert list(pick("nested", 7, 3)) == [0, 1, 2]


def test_an_unknown_rule_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown width rule 'nestd'; known: .*nested"):
        rule_named("nestd")
