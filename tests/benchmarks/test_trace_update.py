"""An update's way through the files stays short, and is counted as the script says."""

from benchmarks.trace_update import BEGINS, ENDS, Way, trace

MOST_FILES, MOST_RETURNS = 38, 56
"""As many as there are. A change that adds a file says so here, and why. The bound of a decode's work took a return,
and so did asking each block for its plain form; the groups of sums took a file and three. Whether a reply is in
time is asked of the timeline, the tier and the clock: three files, five returns. Whose turn it is has a file of
its own since replies may come as sums: that, and five."""


def test_a_return_is_a_call_out_of_another_file_into_one_that_was_passed() -> None:
    way = Way()
    way.passed = [("a.py", "train"), ("b.py", "f"), ("c.py", "g")]
    way.entered = [("b.py", "f"), ("b.py", "f2"), ("c.py", "g"), ("b.py", "f"), ("a.py", "h"), ("a.py", "h")]
    assert way.files == ["a.py", "b.py", "c.py"]
    assert way.returns == [("b.py", "f"), ("a.py", "h")]


def test_an_updates_way_is_no_longer_than_it_was() -> None:
    way = trace()
    assert (way.passed[0], way.passed[-1]) == (BEGINS, ENDS)
    assert len(way.files) <= MOST_FILES, way.files
    assert len(way.returns) <= MOST_RETURNS, way.returns
