"""Resource tiers, and the submodels they fix."""

from .plan import IndexPlan, plan
from .tier import Tier
from .width_spec import Axis, WidthSpec

__all__ = ["Axis", "IndexPlan", "Tier", "WidthSpec", "plan"]
