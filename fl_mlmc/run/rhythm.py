"""When the server steps: after each round, or whenever enough updates have come in.

As text: `pace = "rounds"`, or `"buffered(goal=10, concurrency=40, staleness='sqrt')"`, which is FedBuff: Nguyen, Malik,
Zhan, Yousefpour, Rabbat, Malek, Huba, AISTATS 2022, arXiv 2106.06639, Algorithm 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .. import registry

STALENESS: Mapping[str, Callable[[int], float]] = {
    "none": lambda staleness: 1.0,
    "sqrt": lambda staleness: (1 + staleness) ** -0.5,
    "inverse": lambda staleness: 1 / (1 + staleness),
}
"""What an update counts that is so many steps of the model old, by name; an update of the newest model counts 1."""


@dataclass(frozen=True)
class Rounds:
    """After each round, when its cohort has replied."""


@dataclass(frozen=True)
class Buffered:
    """After every `goal` updates, from whichever clients; `concurrency` clients are at work at any time.

    An update that started from a model `s` steps ago is multiplied by 1/√(1+s), by 1/(1+s) or by 1: `staleness` is
    "sqrt", "inverse" or "none". ValueError on an option out of its range.
    """

    goal: int = 10
    concurrency: int = 40
    staleness: str = "sqrt"

    def __post_init__(self) -> None:
        for name in ("goal", "concurrency"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ValueError(f"buffered's {name} is a whole number of at least 1, got {value!r}")
        if self.staleness not in STALENESS:
            raise ValueError(f"buffered's staleness is one of {', '.join(STALENESS)}, got {self.staleness!r}")

    def scale(self, staleness: int) -> float:
        """The factor on an update that is so many steps old, in (0, 1].

        >>> Buffered().scale(3)
        0.5
        """
        return STALENESS[self.staleness](staleness)


Rhythm = Rounds | Buffered
RHYTHMS: Mapping[str, type[Rhythm]] = {"rounds": Rounds, "buffered": Buffered}


def parse_pace(text: str) -> Rhythm:
    """What `text` names; ValueError that lists the known ones."""
    made: Rhythm = registry.build(text, RHYTHMS, "pace")
    return made
