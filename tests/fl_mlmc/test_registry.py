from typing import Any

import pytest

from fl_mlmc.registry import build, parse_call


def box(size: int, *, colour: str = "red", inside: Any = None) -> tuple[Any, ...]:
    return ("box", size, colour, inside)


def weigh(items: Any) -> int:
    if not hasattr(items, "__iter__"):
        raise TypeError(f"{items} is not iterable")
    return len(items)


KNOWN = {"box": box, "weigh": weigh}


def test_text_becomes_the_call_it_spells() -> None:
    assert build("box(3)", KNOWN, "thing") == ("box", 3, "red", None)
    assert build(" box(size=3, colour='blue', inside=box(1)) ", KNOWN, "thing") == (
        "box", 3, "blue", ("box", 1, "red", None),
    )  # fmt: skip


def test_a_bare_name_is_a_call_without_arguments() -> None:
    call = parse_call("box", KNOWN, "thing", given=1)
    assert (call.name, call.args, dict(call.options)) == ("box", (), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not of the form"),
        ("box(", "not of the form"),
        ("1 + 1", "not of the form"),
        ("os.system('x')", "not of the form"),
        ("bax(1)", "unknown thing 'bax'; known: box, weigh"),
        ("Box(1)", r"unknown thing 'Box'; known: box, weigh; did you mean 'box'\?"),
        ("box(1, color='red')", r"its options: size, colour, inside; did you mean 'colour'\?"),
        ("box(1, shape=2)", "no option 'shape'; its options: size, colour, inside"),
        ("box()", "missing a required argument: 'size'"),
        ("box(1, 2, 3, 4)", "at most 3 arguments, got 4"),
        ("box(1 + 1)", "is not a number, text or thing"),
        ("box(**{})", "no option None"),
        ("box({[]: 1})", "is not a number, text or thing"),
        ("box({[], 1})", "is not a number, text or thing"),
        ("box('\0')", "not of the form"),
        ("box(" + "-" * 60 + "1)", "deep, 40 are allowed"),
        ("box(1, inside=" * 30 + "box(1)" + ")" * 30, "deep, 40 are allowed"),
        ("box(" + "1" + "0" * 4500 + ")", "4506 characters, 2000 are allowed"),
        ("-" * 2000, "not of the form"),
        ("box(weigh(1))", "thing weigh cannot be made of these options: TypeError: 1 is not iterable"),
        ("weigh(1)", "thing weigh cannot be made of these options: TypeError: 1 is not iterable"),
    ],
)
def test_other_text_is_refused_and_nothing_is_evaluated(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(text, KNOWN, "thing")


def test_a_dozen_calls_within_each_other_are_read() -> None:
    assert build("box(1, inside=" * 12 + "box(1)" + ")" * 12, KNOWN, "thing")[0] == "box"
