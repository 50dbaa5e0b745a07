"""Texts that mean nothing, in every place that reads one: ValueError and no other error, and soon."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fl_mlmc import parse
from fl_mlmc.aggregation import parse_aggregation
from fl_mlmc.bilevel.method import parse_bilevel
from fl_mlmc.bilevel.problems import check_problem
from fl_mlmc.data.partitions import parse_partition
from fl_mlmc.data.texts import parse_text_encoding
from fl_mlmc.models import parse_model
from fl_mlmc.schemes import parse_scheme
from fl_mlmc.schemes.docofl import parse_downlink
from fl_mlmc.submodels.tier import assign_tiers, parse_tiers
from fl_mlmc.training.optimizers import parse_optimizer

TIERS = parse_tiers("half:0.5:0.5,full:1:0.5")
READERS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "compressor": (parse, "TopK", "fraction"),
    "scheme": (parse_scheme, "diana", "memory_step"),
    "downlink-scheme": (parse_downlink, "docofl", "anchor"),
    "model": (parse_model, "mlp", "hidden"),
    "optimizer": (parse_optimizer, "sgd", "momentum"),
    "bilevel scheme": (parse_bilevel, "rabo", "uploads"),
    "problem": (check_problem, "hyper_representation", "lower"),
    "text": (parse_text_encoding, "hashed", "length"),
    "partition": (parse_partition, "dirichlet", "alpha"),
    "aggregation": (parse_aggregation, "trimmed-mean", "trim"),
    "tiers": (parse_tiers, "half", "speed"),
    "tier-assignment": (lambda text: assign_tiers(TIERS, 8, 0, text), "0-3", "tier"),
}

VALUES = [
    *("{[]:1}", "{[],1}", "[[]]", "{**{}}", "*[1]", "**{}", "()", "{1:2}", "x for x in y", "lambda: 1", "f'{1}'"),
    *(
        "None",
        "True",
        "'a'",
        "b'x'",
        "...",
        "1j",
        "1e999",
        "-1",
        "nan",
        "1" + "0" * 400,
        "9" * 5000,
        "1e-320",
        "²",
        "٣",
    ),
    *("a.b", "a[0]", "not 1", "1 if 1 else 2", "x := 1", "(yield)", "__import__('os')", "'\\ud800'", "TopK()", "\0"),
    *("-" * 1000 + "1", "1+" * 1000 + "1", "[" * 90 + "]" * 90, "(" * 300 + ")" * 300, "1," * 900, "a" * 10**6),
]


def texts(name: str, option: str) -> Iterator[str]:
    yield from ("", " ", "\0", "\\", "(", "#", "\ud800", "\ufeff", "a" * 10**6, "0-" + "9" * 5000 + ":half")
    yield from (f"{name}()\n{name}()", f"{name}" + "()" * 500, f"{name}" + ".a" * 900, f"{name}(" * 150 + ")" * 150)
    for value in VALUES:
        yield from (
            value,
            f"{name}({value})",
            f"{name}({option}={value})",
            f"{name}:{value}",
            f"{name}:{value}:{value}",
        )
        yield f"half:1:1:{option}={value}"


@pytest.mark.parametrize("what", READERS)
def test_a_text_is_read_or_is_a_value_error(what: str) -> None:
    read, name, option = READERS[what]
    start, num_refused = time.process_time(), 0
    for text in texts(name, option):
        try:
            read(text)
        except ValueError:
            num_refused += 1
    assert num_refused > 100
    assert time.process_time() - start < 10
