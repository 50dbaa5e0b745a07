"""Learning rates that change from round to round: a factor of the rate, for each round.

    learning-rate-schedule = "cosine(rounds=200, warmup=5)"
    server-learning-rate-schedule = "steps(at=(100, 150))"
    learning-rate-schedule = "rates.py:mine(floor=0.1)"

A schedule is a function of the round, counted from 1, and its options. So a run that goes on after a checkpoint has the
rates that it would have had. After its last round a schedule stays where it was.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from .. import own
from ..registry import Call, parse_call

Schedule = Callable[..., float]
"""(server_round, **options) to the factor of the rate in that round, above 0."""


def constant(server_round: int) -> float:
    """1 in every round.

    >>> constant(7)
    1.0
    """
    return 1.0


def warmup(server_round: int, rounds: int) -> float:
    """Up in a line, to 1 in round `rounds`: t / rounds (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    >>> [warmup(t, rounds=4) for t in (1, 2, 4, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """
    _at_least_one("rounds", rounds)
    return min(1.0, server_round / rounds)


def cosine(server_round: int, rounds: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Half a cosine from 1 down to `floor` in round `rounds`, after `warmup` rounds of a line up.

    floor + (1 − floor) (1 + cos πs) / 2, where s goes from 0, in the first round after the warm-up, to 1, one round
    after the last: a floor of 0 is not reached (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5).

    >>> [round(cosine(t, rounds=4), 3) for t in (1, 2, 3, 4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    _at_least_one("rounds", rounds)
    if not 0 <= warmup < rounds:
        raise ValueError(f"warmup of a cosine is a number of its rounds, 0 to {rounds - 1}, got {warmup}")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor of a cosine is a share of the rate, 0 to 1, got {floor}")
    if server_round <= warmup:
        return server_round / (warmup + 1)
    done = (min(server_round, rounds) - 1 - warmup) / (rounds - warmup)
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


def steps(server_round: int, at: tuple[int, ...], factor: float = 0.1) -> float:
    """Times `factor` after each of the rounds `at`.

    >>> [steps(t, at=(2, 3), factor=0.5) for t in (1, 2, 3, 4)]
    [1.0, 1.0, 0.5, 0.25]
    """
    if not all(isinstance(one, int) and one >= 1 for one in at):
        raise ValueError(f"at of steps are rounds such as (100, 150), got {at!r}")
    if not factor > 0:
        raise ValueError(f"factor of steps is above 0, got {factor}")
    return float(factor ** sum(server_round > one for one in at))


SCHEDULES: Mapping[str, Schedule] = {"constant": constant, "warmup": warmup, "cosine": cosine, "steps": steps}


def parse_schedule(text: str) -> Call:
    """What `text` names, and its options; ValueError on what is no schedule, tried in round 1."""
    return _parsed(text, own.versions(text))


def factor_in(text: str, server_round: int) -> float:
    """The factor that the schedule `text` gives a round; ValueError where it is no finite number above 0."""
    value = parse_schedule(text)(server_round)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"schedule {text!r} gives {value!r} in round {server_round}, expected a number above 0")
    return float(value)


@lru_cache(maxsize=16)
def _parsed(text: str, versions: tuple[object, ...]) -> Call:
    return parse_call(text, SCHEDULES, "schedule", given=1, follow=own.EVERY)


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} of a schedule is a whole number, 1 or more, got {value!r}")
