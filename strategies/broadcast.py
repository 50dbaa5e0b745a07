"""What a round's clients receive: the points of the scheme, through the downlink compressor and maybe DoCoFL."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.run.config.compression import CompressionConfig
from fl_mlmc.run.protocol import ANCHOR, payload_name
from fl_mlmc.run.rng import stream
from fl_mlmc.submodels import IndexPlan

PREFIX = "anchor/"


class Broadcast:
    """Encodes points for submodels, each once a round, and keeps the models that anchors are made of."""

    def __init__(self, compression: CompressionConfig, seed: int) -> None:
        self._seed, self._compressor = seed, compression.downlink
        self._docofl = compression.downlink_anchors
        self._anchors: dict[int, Tensor] = {}
        self._points: Sequence[Tensor] = ()
        self._round = 0
        self._encoded: dict[IndexPlan, Mapping[str, bytes]] = {}

    def start(self, server_round: int, points: Sequence[Tensor]) -> None:
        """A new round, which broadcasts `points`, float32 of the model's size."""
        self._round, self._points, self._encoded = server_round, points, {}
        if self._docofl:
            if self._docofl.anchor_round(server_round + self._docofl.lead) == server_round:
                self._anchors[server_round] = points[0].clone()
            oldest = self._docofl.anchor_round(server_round)
            self._anchors = {number: anchor for number, anchor in self._anchors.items() if number >= oldest}

    def arrays(self, own: IndexPlan) -> Mapping[str, bytes]:
        """The payloads for a submodel, by the names of their arrays."""
        if own not in self._encoded:
            self._encoded[own] = self._encode(own)
        return self._encoded[own]

    def _encode(self, own: IndexPlan) -> Mapping[str, bytes]:
        arrays: dict[str, bytes] = {}
        known: Tensor | None = None
        if self._docofl:
            number = self._docofl.anchor_round(self._round)
            rng = stream(self._seed, "anchor", number, own.size)
            arrays[ANCHOR] = _encoded(self._docofl.anchor, own.gather(self._anchors[number]), rng)
            known = decode_payload(arrays[ANCHOR], own.size).dense()
        for number, point in enumerate(self._points):
            rng = stream(self._seed, "downlink", self._round, own.size, *([number] if number else []))
            part = own.gather(point) if known is None else own.gather(point) - known
            arrays[payload_name(number)] = _encoded(self._compressor, part, rng)
        return arrays

    def state(self) -> dict[str, Tensor]:
        """What must outlive the process."""
        return {f"{PREFIX}{number}": anchor for number, anchor in self._anchors.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`, which may hold others' vectors too."""
        own = {name.removeprefix(PREFIX): vector for name, vector in state.items() if name.startswith(PREFIX)}
        self._anchors = {int(number): vector for number, vector in own.items()}


def _encoded(compressor: Compressor, vector: Tensor, rng: np.random.Generator) -> bytes:
    return encode_payload(compressor.compress(vector, rng).payload)
