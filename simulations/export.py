"""The trained model of a run, cut to a tier, as a file that plain torch loads."""

from pathlib import Path

import torch

from fl_mlmc.clients.data import FederatedData
from fl_mlmc.models import About, build_model, save_exported
from fl_mlmc.models.exported import FORMATS
from fl_mlmc.models.norms import fill_statistics, has_static_statistics, pieces
from fl_mlmc.run.config import ConfigError, RunConfig
from fl_mlmc.run.log import RUN, read_run
from fl_mlmc.strategies.checkpoint import CHECKPOINT, load_checkpoint
from fl_mlmc.strategies.enough import BEST
from fl_mlmc.submodels.flat import load_vector
from fl_mlmc.submodels.plan import plan
from fl_mlmc.submodels.tier import tier_named

from .app.prepare import prepare_data


def export(run: Path, target: Path, tier: str = "", is_best: bool = False) -> About:
    """Write the model of the run directory `run`, after its last checkpoint, to `target` (.safetensors or .pt).

    The best one by the run's keep-best if `is_best`.

    `tier` names the tier whose submodel is meant, as the run's config has it; the whole model unless given. Where a
    rule cuts another submodel each round (rolling, random), it is the one of round 0. What says how it is built.
    ConfigError where there is no such run, model or tier, or the ending of `target` is no format.
    """
    if target.suffix not in FORMATS:
        raise ConfigError(f"--to wants a file that ends in {' or '.join(FORMATS)}, got {target.name!r}")
    if not (run / RUN).is_file():
        raise ConfigError(f"{run} holds no run: it has no {RUN}")
    config = RunConfig.from_flower(read_run(run)["config"])
    if config.training.is_bilevel:
        raise ConfigError("a bilevel run's outer and inner parameters are no one model: read them from its checkpoint")
    place = run / (BEST if is_best else CHECKPOINT)
    if not place.exists():
        why = "its config has no keep-best, or it was not evaluated" if is_best else "nothing was trained"
        raise ConfigError(f"{run} has no {'best model' if is_best else 'checkpoint'} yet: {why}")
    data = FederatedData.open(prepare_data(config))
    model = build_model(config.training.model, data.spec.input_shape, data.spec.num_classes)
    width = tier_named(config.cohort.tier_list, tier).width if tier else 1.0
    rule = config.cohort.width_rule
    vector = torch.cat([tensor.reshape(-1) for tensor in load_checkpoint(place).values()])
    own = plan(model.spec, rule, width, seed=config.seed)
    module = model.build(own.units)
    load_vector(module, own.gather(vector))
    module.eval()
    if has_static_statistics(module):
        fill_statistics(module, pieces(torch.from_numpy(data.train()[0]), 1024))
    about = About(config.training.model, data.spec.input_shape, data.spec.num_classes, rule, width)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_exported(module, about, target)
    return about
