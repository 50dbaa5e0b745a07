"""How methods are told apart, in pictures and on pages alike."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Told apart by colour-blind people too: Okabe and Ito 2008."""
DASHES = ("solid", "dash", "dot", "dashdot")


def style(number: int) -> tuple[str, str]:
    """The colour and the dash of a method's line: no two of the first 32 share both."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
