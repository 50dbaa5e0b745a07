"""A run's model against its tiers, before anything is trained."""

from collections.abc import Iterable

import torch

from ..submodels.plan import plan
from .base import Model, skeleton


def check_widths(
    model: Model, rule: str, widths: Iterable[float], input_shape: tuple[int, ...], num_classes: int
) -> None:
    """Run a minibatch of shapes, without values, through the submodel of each width; ValueError if one cannot.

    Finds a rule that the model cannot follow, norms without statistics for a width, and inputs of a wrong shape.
    """
    for width in widths:
        module = skeleton(model.build, plan(model.spec, rule, width).units).train()
        inputs = torch.zeros(2, *input_shape, device="meta")
        try:
            logits = module(inputs)
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"the submodel of width {width:g} cannot run inputs of shape {input_shape}: {error}"
            ) from error
        if logits.shape != (2, num_classes):
            raise ValueError(
                f"the submodel of width {width:g} gives outputs of shape {tuple(logits.shape)} for 2 examples, "
                f"expected {(2, num_classes)}"
            )
