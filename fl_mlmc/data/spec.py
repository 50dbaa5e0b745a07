"""What a model must know of a data set."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["image", "vector", "tokens"]
DTYPES: dict[Kind, type[np.generic]] = {"image": np.uint8, "vector": np.float16, "tokens": np.int32}
"""How examples of each kind lie on disk."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of a data set; `input_shape` is (channels, height, width) or (features,)."""

    input_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...]
    kind: Kind
