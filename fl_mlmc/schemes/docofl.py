"""How the broadcast is compressed: as it is, or as corrections of an anchor that clients fetched in advance (DoCoFL).

DoCoFL: Dorfman, Vargaftik, Ben-Itzhak, Levy, ICML 2023, arXiv 2302.00543. Every few rounds the server keeps the model
as an anchor. A client that is due hears so some rounds before and fetches a compressed anchor off the critical path;
in its round it receives the compressed difference to that anchor only. Clients keep nothing between rounds, so any
cohort will do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import own, registry
from ..compression import COMPRESSORS
from ..compression.compressors.base import Compressor
from ..compression.ladders.ecuq import ECUQ


@dataclass(frozen=True)
class DoCoFL:
    """Anchors every `every` rounds, sent through `anchor`; clients hear `lead` rounds ahead that they are due.

    Corrections go through the run's downlink compressor. Both may be biased: an anchor's error is in the correction,
    and a correction's error is that of a difference, which shrinks as the model settles.
    """

    anchor: Compressor = field(default_factory=lambda: ECUQ(bits=4))
    every: int = 10
    lead: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.anchor, Compressor):
            raise ValueError(f"docofl's anchor is a compressor such as ECUQ(bits=4), got {self.anchor!r}")
        for name in ("every", "lead"):
            value, least = getattr(self, name), 1 if name == "every" else 0
            if not isinstance(value, int) or value < least:
                raise ValueError(f"docofl's {name} is a whole number of at least {least}, got {value!r}")

    def anchor_round(self, server_round: int) -> int:
        """The round, up to `server_round`, whose model is the anchor that its clients have."""
        known = max(1, server_round - self.lead)
        return 1 + (known - 1) // self.every * self.every


def parse_downlink(text: str) -> DoCoFL | None:
    """What `text` names: "docofl(ECUQ(bits=4), every=10, lead=2)", or None for "direct"; ValueError otherwise."""
    known: Mapping[str, Callable[..., Any]] = {**COMPRESSORS, "docofl": DoCoFL, "direct": lambda: None}
    built = registry.build(text, known, "downlink scheme", Compressor, own.EVERY)
    if isinstance(built, Compressor):
        raise ValueError(f"{text!r} is a compressor: it goes to downlink-compressor; downlink schemes: direct, docofl")
    return built
