"""The page of the frontier says what its file holds, and its arithmetic is right."""

import math

import pytest

from benchmarks.frontier import MARK, PAGE, RESULTS, Point, at_bytes, read, tables


def point(bits: float, omega: float) -> Point:
    return Point("v", "f", "C()", bits, omega, "exact")


def test_the_tables_of_the_page_are_those_of_the_file() -> None:
    written = PAGE.read_text().split(MARK)[1].strip()
    assert written == "\n".join(tables(RESULTS / "frontier.csv")).strip()


def test_the_limit_is_that_of_a_gaussian_vector() -> None:
    assert point(1.0, 1.0).limit == pytest.approx(0.5)
    assert point(1.0, 1 / 3).limit == pytest.approx(1.0)
    assert point(2.0, 4.0).product == 10
    assert 1e6 * point(1.0, 1e6).limit == pytest.approx(math.log2(math.e) / 2, rel=1e-5)


def test_no_unbiased_compressor_passes_the_limit_on_a_gaussian_vector() -> None:
    for each in read(RESULTS / "frontier.csv"):
        if each.vector == "Gaussian" and each.source != "biased" and each.omega > 0:
            assert each.bits >= each.limit, each


def test_equal_bytes_are_read_off_the_line_between_neighbours() -> None:
    line = [point(0.1, 100.0), point(10.0, 1.0)]
    assert at_bytes(line, 1.0) == {"f": {"v": pytest.approx(10.0)}}
    assert at_bytes(line, 20.0) == {"f": {"v": 1.0}}
    assert at_bytes(line, 0.01) == {}
