"""Who is on when: what each rule promises, and that looking in any order sees the same."""

import math
from pathlib import Path

import numpy as np
import pytest

from fl_mlmc.run.availability import NobodyError, parse_availability, rooted_availability

TRACE = "client,on,off\n0,0,10\n1,5,20\n0,30,40\n1,20,25\n2,3,inf\n"


@pytest.fixture
def trace(tmp_path: Path) -> str:
    (tmp_path / "trace.csv").write_text(TRACE)
    return f"trace:{tmp_path / 'trace.csv'}"


def test_a_trace_says_who_is_on_and_until_when(trace: str) -> None:
    presence, everyone = parse_availability(trace).start(4, 0), np.arange(4)
    for now, on, until in [
        (0.0, [True, False, False, False], [10, 5, 3, math.inf]),
        (7.0, [True, True, True, False], [10, 25, math.inf, math.inf]),  # touching intervals are one
        (10.0, [False, True, True, False], [30, 25, math.inf, math.inf]),
        (40.0, [False, False, True, False], [math.inf, math.inf, math.inf, math.inf]),
    ]:
        is_on, seen = presence.look(everyone, now)
        assert (is_on.tolist(), seen.tolist()) == (on, until), now
    assert presence.wait(everyone, 0.0, 1) == 0
    assert presence.wait(everyone, 0.0, 3) == 5
    assert presence.wait(everyone, 26.0, 2) == 30
    with pytest.raises(NobodyError, match="1 of 4 clients are on, 2 are needed, and nobody comes back"):
        presence.wait(everyone, 40.0, 2)


def test_waiting_for_clients_that_are_never_on_at_once_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_mlmc.run.availability.MOST_RETURNS", 50)
    with pytest.raises(NobodyError, match=r"6 of 6 clients are needed, and in .* simulated seconds they were never"):
        parse_availability("markov(on=1, off=1e6)").start(6, 0).wait(np.arange(6), 0.0, 6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("node,on,off\n0,1,2\n", r"columns \['node', 'on', 'off'\], expected client, on and off"),
        ("client,on,off\n0,1,x\n", "line 2 is no client number and two times"),
        ("client,on,off\n0,1,2\n9,1,2\n", "line 3: expected a client from 0 to 3 .* got client 9"),
        ("client,on,off\n0,2,1\n", "0 ≤ on < off, got client 0, on 2, off 1"),
        ("client,on,off\n0,nan,1\n", "0 ≤ on < off"),
        ("client,on,off\n0,1,5\n0,4,6\n", "client 0 is on from 4 s twice"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_its_line(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        parse_availability(f"trace:{tmp_path / 'bad.csv'}").start(4, 0)


def test_the_share_that_is_on_is_a_sine_of_the_day() -> None:
    presence, everyone = parse_availability("diurnal(period=100, on=0.4)").start(20_000, 1), np.arange(20_000)
    for now in (0.0, 13.0, 50.0, 75.0, 1e4 + 75.0):
        is_on, until = presence.look(everyone, now)
        expected = 0.4 - math.sin(0.4 * math.pi) / math.pi * math.cos(2 * math.pi * now / 100)
        assert is_on.mean() == pytest.approx(expected, abs=0.012)
        assert (until > now).all()
        assert (until[is_on] <= now + 40 + 1e-6).all()
        assert (until[~is_on] <= now + 60 + 1e-6).all()


def test_a_chain_is_on_for_its_share_and_its_stays_have_its_means() -> None:
    presence, everyone = parse_availability("markov(on=6, off=18)").start(300, 1), np.arange(300)
    now, stays = 0.0, {True: [], False: []}
    shares = [presence.look(everyone, float(time))[0].mean() for time in range(0, 4000, 40)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.01)
    while now < 5000:
        is_on, until = presence.look(everyone[:1], now)
        stays[bool(is_on[0])].append(float(until[0]) - now)
        now = float(until[0])
    assert np.mean(stays[True]) == pytest.approx(6, rel=0.25)
    assert np.mean(stays[False]) == pytest.approx(18, rel=0.25)
    fresh = parse_availability("markov(on=6, off=18)").start(300, 1)
    for time in (3000.0, 17.0):  # another order of looking
        assert fresh.look(everyone, time)[1].tolist() == presence.look(everyone, time)[1].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("never", "unknown availability 'never'; known: always, diurnal, markov.*'trace:FILE.csv'"),
        ("trace:", "needs a file"),
        ("diurnal(on=0)", r"on is a share in \(0, 1\], got 0"),
        ("diurnal(period=0)", "period is above 0, got 0"),
        ("markov(on=0, off=1)", "on is a mean time above 0 seconds, got 0"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_known_ones(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_availability(text)


def test_a_relative_trace_is_made_absolute_and_the_rest_stays() -> None:
    assert rooted_availability("trace:a.csv") == f"trace:{Path('a.csv').absolute()}"
    assert rooted_availability("diurnal(on=0.4)") == "diurnal(on=0.4)"
