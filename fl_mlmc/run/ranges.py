"""What a value from elsewhere may be, beside being of its type. Each range says itself in words."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


class Range(ABC):
    """The values that are allowed; `str` of it goes on after "expected a number", "a text" or the like."""

    @abstractmethod
    def __contains__(self, value: Any) -> bool:
        """Whether a value, of the type that is expected, is allowed."""


@dataclass(frozen=True)
class Between(Range):
    """Numbers from `least` to `most`, both allowed; `is_open`: `least` is not. NaN is none of them, unless `or_nan`."""

    least: float
    most: float
    is_open: bool = False
    or_nan: bool = False

    def __contains__(self, value: Any) -> bool:
        if value != value:
            return self.or_nan
        return bool(self.least <= value <= self.most) and not (self.is_open and value == self.least)

    def __str__(self) -> str:
        return f"{'above' if self.is_open else 'from'} {self.least:.10g} to {self.most:.10g}{' or NaN' * self.or_nan}"


@dataclass(frozen=True)
class Text(Range):
    """Texts of at most `most` characters, each of which can be printed; `has_lines`: any characters."""

    most: int
    has_lines: bool = False

    def __contains__(self, value: Any) -> bool:
        return len(value) <= self.most and (self.has_lines or value.isprintable())

    def __str__(self) -> str:
        return f"of at most {self.most} {'' if self.has_lines else 'printable '}characters"


@dataclass(frozen=True)
class ListOf(Range):
    """Lists of at most `most` items, each of one type and in one range."""

    kind: type
    each: Range
    most: int

    def __contains__(self, value: Any) -> bool:
        return len(value) <= self.most and all(type(item) is self.kind and item in self.each for item in value)

    def __str__(self) -> str:
        return f"of at most {self.most} items, each {self.kind.__name__} {self.each}"
