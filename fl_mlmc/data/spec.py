"""What a model must know of a data set."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["image", "vector", "tokens", "array"]
DTYPES: dict[Kind, tuple[type[np.generic], ...]] = {
    "image": (np.uint8, np.float32),
    "vector": (np.float16, np.float32),
    "tokens": (np.int32,),
    "array": (np.float32,),
}
"""How examples of each kind may lie on disk: the compact form, or as a user's own numbers were."""

Targets = Literal["classes", "reals", "flags", "tokens"]
TARGETS: tuple[Targets, ...] = ("classes", "reals", "flags", "tokens")
TARGET_DTYPES: dict[Targets, tuple[type[np.generic], type[np.generic]]] = {
    "classes": (np.int64, np.int64),
    "reals": (np.float32, np.float32),
    "flags": (np.uint8, np.float32),
    "tokens": (np.int32, np.int64),
}
"""How targets of each kind lie on disk, and what a loss gets."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of a data set; `input_shape` is (channels, height, width), (features,) or any other."""

    input_shape: tuple[int, ...]
    num_classes: int
    """Numbers that a model gives for an example: one for each of `class_names`."""
    class_names: tuple[str, ...]
    """Of the classes or tokens; of `flags` and `reals`, the names of their columns."""
    kind: Kind
    targets: Targets = "classes"
    """`classes`: one class number an example. `reals`: numbers, `flags`: zeros and ones, one a name. `tokens`: what
    follows each token of the example."""
    columns: tuple[str, ...] = ()
    """Of a table, the columns that the features are, in order."""

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Of the targets of one example."""
        return {"classes": (), "tokens": self.input_shape}.get(self.targets, (self.num_classes,))
