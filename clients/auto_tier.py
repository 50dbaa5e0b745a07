"""A client that measures which tier it is of: `--node-config 'tier="auto" data-path="…"'`."""

import torch

from fl_mlmc.config import RunConfig
from fl_mlmc.models import build_model
from fl_mlmc.submodels.measure import widest_tier
from fl_mlmc.submodels.tier import Tier

from .data import FederatedData
from .trainer import device_of, one_thread


def measured_tier(config: RunConfig, data: FederatedData, client: int) -> Tier:
    """The widest tier whose budget of seconds and memory a step on the client's own examples keeps here.

    ValueError if there is none.
    """
    model = build_model(config.model, data.spec.input_shape, data.spec.num_classes)
    device = device_of(config)
    features, labels = (torch.from_numpy(part[: config.batch_size]).to(device) for part in data.client(client))
    with one_thread():
        return widest_tier(model, config.tier_list, features, labels, config.width_rule)
