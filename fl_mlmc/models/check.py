"""A run's model against its tiers, before anything is trained."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from ..own import blamed, is_users
from ..submodels.ordered_dropout import WIDTHS
from ..submodels.plan import IndexPlan, plan
from ..submodels.rules import rule_named
from .base import Model, skeleton

ROUNDS = (0, 1, 30, 1001, 30011)
"""Some, of which rules that look at the round, or at the client, are tried. In one of them a window is cut in two."""


def check_widths(
    model: Model,
    rule: str,
    widths: Iterable[float],
    input_shape: tuple[int, ...],
    output_shapes: Sequence[tuple[int, ...]],
) -> None:
    """Run a minibatch of shapes, without values, through the submodel of each width; ValueError if one cannot.

    `output_shapes`: those that the outputs for two examples may have. Finds a rule that the model cannot follow, norms
    without statistics for a width, and inputs of a wrong shape.
    """
    for width in widths:
        own = plan(model.spec, rule, width)
        module = skeleton(model.build, own.units).train()
        inputs = torch.zeros(2, *input_shape, device="meta")
        try:
            logits = module(inputs)
        except NotImplementedError:  # it looks at values, as few do
            with torch.random.fork_rng(devices=[]):
                logits = model.build(own.units).train()(torch.zeros(2, *input_shape))
        except Exception as error:
            raise ValueError(
                f"{blamed(error)} (while the submodel of width {width:g} ran inputs of shape {input_shape})"
                if is_users(error)
                else f"the submodel of width {width:g} cannot run inputs of shape {input_shape}: {error}"
            ) from error
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) not in output_shapes:
            seen = f"of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"the submodel of width {width:g} gives outputs {seen} for 2 examples, expected "
                f"{' or '.join(map(str, output_shapes))}"
            )
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(2, (2, *input_shape), generator=generator).float()
        for narrow in _cuts(model, rule, width):
            model.certify(rule, narrow, inputs)


def _cuts(model: Model, rule: str, width: float) -> Iterator[IndexPlan]:
    """Submodels that a client of a width may train; of those that differ by round and client, a few."""
    known = rule_named(rule)
    for server_round in ROUNDS if known.per_round or known.per_client else ROUNDS[:1]:
        yield plan(model.spec, rule, width, server_round, client=server_round)
    if rule == "ordered-dropout":
        for narrower in WIDTHS:
            if narrower < width:
                yield plan(model.spec, rule, narrower)
