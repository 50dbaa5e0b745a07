"""What a round's clients receive: the points of the scheme, through the downlink compressor and maybe DoCoFL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.run.config.compression import CompressionConfig
from fl_mlmc.run.protocol import ANCHOR, payload_name
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import IndexPlan

ANCHOR_PREFIX = "anchor/"
"""What stands before an anchor's round in the names of a `state`."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """An older model that clients fetched ahead, through a compressor of its own (DoCoFL)."""

    number: int
    """The round whose model it is."""
    vector: Tensor
    compressor: Compressor


@dataclass(frozen=True, eq=False)
class Broadcast:
    """What one round sends to everybody, encoded for each submodel when it is first asked for."""

    number: int
    """Of the round, from 1."""
    seed: int
    """Of the run."""
    points: Sequence[Tensor]
    """Models to evaluate at, each float32 of the model's size."""
    compressor: Compressor
    anchor: Anchor | None = None
    """What the points are sent as corrections of; None: they are sent as they are."""
    _encoded: dict[IndexPlan, Mapping[str, bytes]] = field(default_factory=dict)

    def arrays(self, own: IndexPlan) -> Mapping[str, bytes]:
        """The payloads for a submodel, by the names of their arrays; equal plans get the very same objects."""
        if own not in self._encoded:
            self._encoded[own] = self._encode(own)
        return self._encoded[own]

    def _encode(self, own: IndexPlan) -> Mapping[str, bytes]:
        arrays: dict[str, bytes] = {}
        known: Tensor | None = None
        if self.anchor:
            rng = stream(self.seed, "anchor", self.anchor.number, own.size)
            arrays[ANCHOR] = _encoded(self.anchor.compressor, own.gather(self.anchor.vector), rng)
            known = decode_payload(arrays[ANCHOR], own.size).dense()
        for number, point in enumerate(self.points):
            rng = stream(self.seed, "downlink", self.number, own.size, *([number] if number else []))
            part = own.gather(point) if known is None else own.gather(point) - known
            arrays[payload_name(number)] = _encoded(self.compressor, part, rng)
        return arrays


class Broadcaster:
    """Begins each round's broadcast, and keeps the models that anchors are made of."""

    def __init__(self, compression: CompressionConfig, seed: int) -> None:
        self._seed, self._compressor = seed, compression.downlink
        self._docofl = compression.downlink_anchors
        self._anchors: dict[int, Tensor] = {}

    def begin(self, server_round: int, points: Sequence[Tensor]) -> Broadcast:
        """The broadcast of `points`, float32 of the model's size; rounds begin in ascending order."""
        return Broadcast(server_round, self._seed, points, self._compressor, self._anchor(server_round, points[0]))

    def _anchor(self, server_round: int, model: Tensor) -> Anchor | None:
        if not self._docofl:
            return None
        if self._docofl.anchor_round(server_round + self._docofl.lead) == server_round:
            self._anchors[server_round] = model.clone()
        number = self._docofl.anchor_round(server_round)
        self._anchors = {kept: anchor for kept, anchor in self._anchors.items() if kept >= number}
        return Anchor(number, self._anchors[number], self._docofl.anchor)

    def state(self) -> dict[str, Tensor]:
        """What must outlive the process: anchors that clients still have, by name."""
        return {f"{ANCHOR_PREFIX}{number}": anchor for number, anchor in self._anchors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold others' vectors too."""
        names = [name for name in state if name.startswith(ANCHOR_PREFIX)]
        self._anchors = {int(name.removeprefix(ANCHOR_PREFIX)): state[name] for name in names}


def _encoded(compressor: Compressor, vector: Tensor, rng: np.random.Generator) -> bytes:
    return encode_payload(compressor.compress(vector, rng).payload)
