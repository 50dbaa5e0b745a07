"""What a scheme's options may be."""

import math
from typing import TypeGuard


def chosen(**options: object) -> dict[str, object]:
    """Those that are not open (None)."""
    return {name: value for name, value in options.items() if value is not None}


def need_share(scheme: str, **options: object) -> None:
    """ValueError unless every option is a number in (0, 1]."""
    for name, value in options.items():
        if not (_is_number(value) and 0 < value <= 1):
            raise ValueError(f"{scheme}'s {name} lies in (0, 1], got {value!r}")


def need_positive(scheme: str, **options: object) -> None:
    """ValueError unless every option is a finite number above 0."""
    for name, value in options.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{scheme}'s {name} is above 0, got {value!r}")


def need_not_negative(scheme: str, **options: object) -> None:
    """ValueError unless every option is a finite number of at least 0."""
    for name, value in options.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{scheme}'s {name} is at least 0, got {value!r}")


def need_count(scheme: str, **options: object) -> None:
    """ValueError unless every option is a whole number of at least 1."""
    for name, value in options.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{scheme}'s {name} is a whole number of at least 1, got {value!r}")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
