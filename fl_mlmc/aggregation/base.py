"""What an aggregation is: the rule by which a run's updates become one, and what that needs of the rest of the run."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..compression.compressors.base import Compressor
from .fold import LARGEST, Fold


@dataclass(frozen=True)
class Setting:
    """What a run does beside aggregating, as far as an aggregation may not go with it."""

    compressor: Compressor
    """Of the updates."""
    aggregation: str = "mean"
    """Of the run, as text."""
    scheme: str = "direct"
    """Likewise: what clients send, and what the server makes of the mean."""
    is_bilevel: bool = False
    averages_by_label: bool = False
    weighting: str = "examples"
    """How clients count in the mean."""
    draws_uniformly: bool = True
    """Whether any clients are as likely to be a round's cohort, and to be waited for, as any others."""
    keeps_holders: bool = True
    """Whether it is known before a round which clients hold a coordinate in it."""

    def need_direct(self, what: str, why: str) -> None:
        """ValueError unless the server steps by the mean of updates alone; `what` needs that, and `why`."""
        if self.is_bilevel:
            raise ValueError(
                f"{what} is for task 'classification': the steps of a bilevel problem are those of its mean"
            )
        if self.scheme != "direct":
            raise ValueError(f"{what} goes with scheme 'direct', not {self.scheme!r}: {why}")
        if self.averages_by_label:
            raise ValueError(
                f"{what} does not go with average-by-label, whose labels are what clients say of themselves"
            )


class Aggregation(ABC):
    """How a round's updates become one. Subclasses are frozen dataclasses; `str` gives the text that is parsed."""

    @abstractmethod
    def start(self, size: int, largest: float = LARGEST) -> Fold:
        """The empty fold of a round over `size` coordinates; `largest` as in `Fold`."""

    @abstractmethod
    def check(self, setting: Setting) -> None:
        """ValueError, with the keys and the reason, if the aggregation does not go with the rest of a run."""
