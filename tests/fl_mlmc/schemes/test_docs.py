"""docs/schemes.md says which compressor and which cohort a scheme takes; the code does as it says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fl_mlmc import COMPRESSORS, Identity, parse
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.schemes import SCHEMES, parse_scheme

PAGE = Path(__file__).parents[3] / "docs" / "schemes.md"
SIZE = 6
# Options without a default, and those that would need a bound on ω which some compressors do not have.
OPTIONS = {
    "ef_bv": "memory_step=0.1, estimate_step=0.2",
    "diana": "memory_step=0.1",
    "adiana": "1.0, 0.5, omega=4.0",
    "marina": "probability=0.3",
    "dasha": "memory_step=0.1",
    "dasha_mvr": "memory_step=0.1",
    "proxskip": "0.1, 0.5",
    "scaffnew": "0.1, 0.5",
    "compressed_scaffnew": "0.1, 0.5",
    "tamuna": "0.1, 0.5",
    "shadowheart": "1.0, omega=4.0",
    "scaffold": "0.1, 3, memory_step=0.1",
}
EVERY = [
    "Bernoulli(count=2)", "ECUQ(bits=2)", "FixedPoint(bits=2)", "FloatingPoint(bits=2)", "Identity()",
    "Importance(draws=2)", "Induced(TopK(count=2), RandK(count=2))", "MLMC(TopK(count=2))", "MLMC(RTN(bits=4))",
    "Natural()", "QSGD(levels=2)", "RTN(bits=2)", "RandK(count=2)", "Scaled(RandK(count=2))",
    "StochasticRounding(bits=2)", "Systematic(count=2)", "TernGrad()", "TopK(count=2)",
    "EDEN(bits=1)", "Truncated(TopK(count=2), levels=2)", "Budget(bytes=40)", "Dither(unit=2.0)",
]  # fmt: skip


def _rows() -> list[tuple[str, str, str]]:
    """(scheme, what the page says of its compressor, of its cohort), `marina(permuted=True)` apart."""
    table = [line.split("|")[1:4] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    rows = []
    for names, compressor, cohort in table:
        for name, options in re.findall(r"`(\w+)(?:\(([^`]*)\))?`", names):
            text = f"{name}({options})" if "permuted=True" in options else name
            rows.append((text, compressor.strip(), cohort.strip()))
    return rows


def _admits(words: str, compressor: Compressor) -> bool:
    is_contractive = compressor.contraction(SIZE) is not None
    match words.partition(":")[0]:
        case "any":
            return True
        case "unbiased":
            return compressor.is_unbiased
        case "contractive":
            return is_contractive
        case "`Identity()`":
            return isinstance(compressor, Identity)
    raise AssertionError(f"the page says {words!r}")


def test_the_page_lists_every_scheme_and_this_file_every_compressor() -> None:
    assert {text.partition("(")[0] for text, _, _ in _rows()} == {*SCHEMES, "scaffnew"}
    assert {text.partition("(")[0] for text in EVERY} == set(COMPRESSORS)


def test_options_that_the_page_gives_a_value_have_it_by_default() -> None:
    given = re.findall(r"`(\w+)\(([^`]*=[^`]*)\)` *\|", PAGE.read_text())
    found = {(name, *pair) for name, options in given for pair in re.findall(r"(\w+)=([\d.]+)", options)}
    assert {name for name, _, _ in found} == {"ef21_sgdm", "dasha_mvr", "compressed_scaffnew", "tamuna"}
    for name, option, value in found:
        defaults = {field.name: field.default for field in fields(SCHEMES[name])}  # type: ignore[arg-type]
        assert defaults[option] == float(value)


@pytest.mark.parametrize(("text", "words", "cohort"), _rows())
def test_a_scheme_admits_what_the_page_says(text: str, words: str, cohort: str) -> None:
    name = text.partition("(")[0]
    scheme = parse_scheme(text if "permuted" in text else f"{name}({OPTIONS.get(name, '')})")
    for compressor in map(parse, EVERY):
        if _admits(words, compressor):
            scheme.resolve(compressor, SIZE, 4)
        else:
            with pytest.raises(ValueError, match=f"scheme {scheme.name}"):
                scheme.resolve(compressor, SIZE, 4)
    scheme.check_cohort(4, 4)
    if cohort.startswith("any"):
        scheme.check_cohort(2, 4)
    else:
        assert cohort == "all"
        with pytest.raises(ValueError, match="needs every client in every round"):
            scheme.check_cohort(2, 4)
